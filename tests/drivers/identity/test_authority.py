"""The network's authority: who gets in, who gets in once, and what it signs."""

import shutil
import stat
import threading
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tetherd.drivers.host import durable
from tetherd.drivers.identity import authority, certificates, roots
from tetherd.drivers.identity.authority import GRACE, NetworkAuthority
from tetherd.drivers.identity.certificates import DAY, LEAF_LIFE, spki_of
from tetherd.drivers.identity.members import MemberLedger
from tetherd.errors import (
    BadRoster,
    Conflict,
    Forbidden,
    InvalidInput,
    NodeNotFound,
    Revoked,
    StorageFailed,
    TetherError,
    TokenExpired,
    TokenUsed,
    WrongNetwork,
    WrongToken,
)
from tetherd.wire import enrolment
from tetherd.wire.enrolment import Admission, JoinRequest, RenewRequest
from tetherd.wire.roster import Member, Roster
from tetherd.wire.signing import certificates as parse
from tetherd.wire.signing import heirs, key_digest, spki_digest, verify
from tetherd.wire.tokens import JoinToken

NOW = 1_800_000_000.0
LEAF = b"\7" * 32
ENROL = ("192.0.2.1:7444",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "authority"
    authority.found(found, "home", NOW)
    return found


@pytest.fixture
def home(folder: Path):
    opened = NetworkAuthority(folder, ENROL)
    yield opened
    opened.close()


def signed(
    key: ec.EllipticCurvePrivateKey, purpose: str, token: bytes = b"", leaf: bytes = LEAF
) -> tuple[bytes, bytes]:
    about = enrolment.transcript(purpose, leaf, token, spki_of(key.public_key()))
    return about, key.sign(about, ec.ECDSA(hashes.SHA256()))


def request(token: JoinToken, key: ec.EllipticCurvePrivateKey, /, **changes: object) -> JoinRequest:
    about, signature = signed(key, "join", token.id)
    whole = JoinRequest(
        network=token.network,
        token=token.id,
        spki=spki_of(key.public_key()),
        proof=enrolment.proof(enrolment.proof_key(token.secret), about),
        signature=signature,
        name="w-1",
    )
    return msgspec.structs.replace(whole, **changes)


def renewal(network: str, key: ec.EllipticCurvePrivateKey, **changes: object) -> RenewRequest:
    whole = RenewRequest(network=network, spki=spki_of(key.public_key()), signature=signed(key, "renew")[1])
    return msgspec.structs.replace(whole, **changes)


def read(home: NetworkAuthority) -> Roster:
    roots = parse(home.roots)
    return verify(home.roster(), roots, spki_digest(roots[0]).hex()[:16])


def invite(home: NetworkAuthority, ttl: float = 60.0, name: str = "") -> JoinToken:
    return home.invite(("worker",), ttl, name, NOW)


def leaf(admission: Admission) -> x509.Certificate:
    return x509.load_pem_x509_certificate(admission.chain.encode())


def test_a_host_joins_with_a_token(home: NetworkAuthority) -> None:
    token, key = invite(home), certificates.new_key()
    before = read(home).epoch
    admission = home.join(request(token, key), LEAF, NOW + 1)
    node = key_digest(key.public_key()).hex()
    roster = read(home)
    assert roster.epoch == before + 1
    assert roster.member(node) == Member(node=node, name="w-1", roles=("worker",), joined=NOW + 1)
    certificate = leaf(admission)
    assert certificate.subject.rfc4514_string() == f"CN={node}"
    assert certificate.not_valid_after_utc.timestamp() == NOW + 1 + LEAF_LIFE
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"{node}.tether"]
    assert [enrolment.proof_key(key) for key in admission.keys.values()] == [each.digest for each in roster.keys]


def test_the_same_host_may_repeat_until_the_token_expires(home: NetworkAuthority) -> None:
    token, key = invite(home), certificates.new_key()
    home.join(request(token, key), LEAF, NOW)
    epoch = read(home).epoch
    assert leaf(home.join(request(token, key), LEAF, NOW + 59)).public_key() == key.public_key()
    assert read(home).epoch == epoch
    with pytest.raises(TokenExpired):
        home.join(request(token, key), LEAF, NOW + 60)


def test_a_token_lets_in_one_host_only(home: NetworkAuthority) -> None:
    token = invite(home)
    home.join(request(token, certificates.new_key()), LEAF, NOW)
    with pytest.raises(TokenUsed) as caught:
        home.join(request(token, certificates.new_key()), LEAF, NOW)
    assert "cluster token" in caught.value.fix
    assert len(read(home).members) == 1


def test_of_two_hosts_that_race_one_wins(home: NetworkAuthority) -> None:
    token = invite(home)
    start = threading.Barrier(8)
    outcomes: list[object] = []

    def join() -> None:
        asked = request(token, certificates.new_key())
        start.wait()
        try:
            outcomes.append(home.join(asked, LEAF, NOW))
        except TetherError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=join) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(each).__name__ for each in outcomes) == ["Admission"] + ["TokenUsed"] * 7
    assert len(read(home).members) == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"network": "f" * 16}, WrongNetwork),
        ({"token": b"other"}, WrongToken),
        ({"proof": b"\0" * 32}, WrongToken),
        ({"proof": b""}, WrongToken),
        ({"signature": b"\0" * 70}, Forbidden),
        ({"spki": b"\0" * 91}, InvalidInput),
        ({"spki": b""}, InvalidInput),
        ({"name": "../w"}, InvalidInput),
        ({"addresses": ("nowhere",)}, InvalidInput),
    ],
)
def test_who_proves_nothing_gets_nothing(home: NetworkAuthority, changes: dict[str, object], error: type) -> None:
    token, key = invite(home), certificates.new_key()
    with pytest.raises(error) as caught:
        home.join(request(token, key, **changes), LEAF, NOW)
    assert caught.value.fix
    assert read(home).members == ()
    home.join(request(token, key), LEAF, NOW)  # and the token is still good


def test_a_proof_for_another_listener_is_worth_nothing(home: NetworkAuthority) -> None:
    with pytest.raises(WrongToken):
        home.join(request(invite(home), certificates.new_key()), b"\6" * 32, NOW)


def test_keys_of_other_curves_are_refused(home: NetworkAuthority) -> None:
    with pytest.raises(InvalidInput, match="P-256"):
        home.join(request(invite(home), ec.generate_private_key(ec.SECP384R1())), LEAF, NOW)


def test_a_token_may_fix_the_name_and_no_two_nodes_share_one(home: NetworkAuthority) -> None:
    for _ in range(2):
        home.join(request(invite(home, name="gpu"), certificates.new_key()), LEAF, NOW)
    first, second = sorted((member.name for member in read(home).members), key=len)
    assert first == "gpu"
    assert second.startswith("gpu-")


def test_a_member_renews_also_after_its_certificate_ran_out(home: NetworkAuthority) -> None:
    token, key = invite(home), certificates.new_key()
    home.join(request(token, key), LEAF, NOW)
    ask = renewal(token.network, key)
    assert leaf(home.renew(ask, LEAF, NOW + 4 * DAY)).not_valid_after_utc.timestamp() == NOW + 11 * DAY
    end = NOW + 11 * DAY + GRACE
    with pytest.raises(Forbidden, match="ran out"):
        home.renew(ask, LEAF, end + 1)
    home.renew(ask, LEAF, end)
    with pytest.raises(Forbidden, match="private key"):
        home.renew(ask, b"\6" * 32, NOW)
    with pytest.raises(NodeNotFound):
        home.renew(renewal(token.network, certificates.new_key()), LEAF, NOW)


def test_a_revoked_node_gets_nothing_any_more(home: NetworkAuthority) -> None:
    token, key = invite(home), certificates.new_key()
    home.join(request(token, key), LEAF, NOW)
    node = key_digest(key.public_key()).hex()
    home.change(node, NOW + 5, revoked=NOW + 5)
    assert read(home).member(node) is None
    with pytest.raises(Revoked):
        home.renew(renewal(token.network, key), LEAF, NOW + 6)
    with pytest.raises(Revoked):
        home.join(request(token, key), LEAF, NOW + 6)
    with pytest.raises(Revoked):
        home.join(request(invite(home), key), LEAF, NOW + 6)
    home.forget(node, NOW + 7)
    with pytest.raises(TokenUsed):
        home.join(request(token, key), LEAF, NOW + 8)
    home.join(request(invite(home), key), LEAF, NOW + 8)


def test_founding_again_changes_nothing(folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.glob("*.*e*")}
    (folder / "issuing.pem").unlink()  # as a crash would have left it
    network = authority.found(folder, "other", NOW + 9)
    opened = NetworkAuthority(folder, ENROL)
    assert read(opened).name == "home"
    assert read(opened).network == network
    opened.close()
    assert (folder / "root.key").read_bytes() == files["root.key"]


def test_keys_are_for_their_owner_alone(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


SECRETS = ["root.key", "issuing.key", "root-2.key", "issuing-2.key", authority.LEDGER, f"{authority.LEDGER}-wal"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
@pytest.mark.parametrize("name", SECRETS)
def test_what_others_can_read_is_refused(home: NetworkAuthority, folder: Path, name: str, mode: int) -> None:
    home.rotate([], NOW, force=False)
    (folder / name).chmod(mode)
    with pytest.raises(Forbidden, match=f"{mode:04o}") as caught:
        NetworkAuthority(folder, ENROL)
    assert "chmod 600" in caught.value.fix
    assert name in caught.value.message


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_directory_that_others_can_put_files_into_is_refused(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(Forbidden, match="put files into"):
        NetworkAuthority(folder, ENROL)


@pytest.mark.parametrize("damage", [b"", b"-----BEGIN PRIVATE KEY-----\n", None])
def test_damaged_keys_are_refused(folder: Path, damage: bytes | None) -> None:
    (folder / "issuing.key").write_bytes(damage or certificates.key_pem(certificates.new_key()))
    with pytest.raises(StorageFailed, match=r"issuing\.key"):
        NetworkAuthority(folder, ENROL)


def test_another_root_takes_over_step_by_step(home: NetworkAuthority, folder: Path) -> None:
    token, key = invite(home), certificates.new_key()
    home.join(request(token, key), LEAF, NOW)
    (old,) = parse(home.roots)
    network = read(home).network

    assert home.rotate([], NOW + 1, force=False) == authority.ANNOUNCED
    announced = home.roster()
    roster = verify(announced, [old], network)
    assert roster.roots[0] == certificates.pem(old)
    (_, new) = parse(roster.roots)

    with pytest.raises(Conflict, match="w-2") as caught:
        home.rotate(["w-2"], NOW + 2, force=False)
    assert "--force" in caught.value.fix
    assert home.rotate([], NOW + 2, force=False) == authority.SWITCHED
    assert verify(home.roster(), [new], network).roots == (certificates.pem(new), certificates.pem(old))
    with pytest.raises(BadRoster):
        verify(home.roster(), [old], network)

    with pytest.raises(Conflict, match="w-1"):
        home.rotate([], NOW + 3, force=False)
    renewed = home.renew(renewal(network, key), LEAF, NOW + 3)
    issuing = x509.load_pem_x509_certificates(renewed.chain.encode())[1]
    issuing.verify_directly_issued_by(new)
    assert home.rotate([], NOW + 4, force=False) == authority.STEADY
    assert home.roots == (certificates.pem(new),)
    assert not (folder / "root.key").exists()

    again = NetworkAuthority(folder, ENROL)
    assert again.roots == (certificates.pem(new),)
    assert verify(again.roster(), [new], network).network == network
    assert again.invite(("worker",), 60.0, "", NOW).pin == spki_digest(new)
    again.close()


def test_the_issuing_certificate_is_renewed_for_as_long_as_the_root_lasts(folder: Path) -> None:
    home, key, half = NetworkAuthority(folder, ENROL), certificates.new_key(), certificates.ISSUING_LIFE / 2
    home.join(request(invite(home), key), LEAF, NOW)
    pinned, network, now = parse(home.roots), read(home).network, NOW
    former, epoch = home.roster().signer, read(home).epoch
    for step in range(1, 18):
        now = NOW + step * (half + DAY)
        home.retire(now)
        roster = verify(home.roster(), pinned, network)
        assert home.roster().signer != former
        assert roster.epoch > epoch
        former, epoch = home.roster().signer, roster.epoch
        certificate = leaf(home.enlist(spki_of(key.public_key()), roster.members[0], now))
        assert certificate.not_valid_after_utc.timestamp() == now + LEAF_LIFE
        assert home.roster().signer == former, "and not more often"
        home.close()
        home = NetworkAuthority(folder, ENROL)
    home.close()


def test_an_authority_that_slept_for_years_wakes_up(home: NetworkAuthority) -> None:
    pinned, network, late = parse(home.roots), read(home).network, NOW + 3 * certificates.ISSUING_LIFE
    home.rekey([], late, force=False)
    assert verify(home.roster(), pinned, network).issued == late


def test_an_authority_whose_root_ran_out_says_so_and_can_get_another(home: NetworkAuthority) -> None:
    token, key = invite(home), certificates.new_key()
    home.join(request(token, key), LEAF, NOW)
    late, me = NOW + certificates.ROOT_LIFE + DAY, read(home).members[0]
    with pytest.raises(Conflict, match="ran out") as caught:
        home.enlist(spki_of(key.public_key()), me, late)
    assert "ca rotate" in caught.value.fix
    home.rotate([], late, force=True)
    home.rotate([], late, force=True)
    certificate = leaf(home.enlist(spki_of(key.public_key()), me, late))
    assert certificate.not_valid_after_utc.timestamp() == late + LEAF_LIFE


@pytest.mark.parametrize("owner", [MemberLedger, durable])
def test_a_crash_while_the_issuing_certificate_is_renewed_is_gone_over(
    folder: Path, owner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise Crash

    late = NOW + certificates.ISSUING_LIFE
    home = NetworkAuthority(folder, ENROL)
    pinned, network = parse(home.roots), read(home).network
    with monkeypatch.context() as patch:
        patch.setattr(owner, "reissue" if owner is MemberLedger else "write", failing)
        with pytest.raises(Crash):
            home.retire(late)
    home.close()
    home = NetworkAuthority(folder, ENROL)
    home.retire(late + 1)
    assert verify(home.roster(), pinned, network).issued == late + 1
    home.close()


def test_the_founder_is_where_it_says_now(home: NetworkAuthority) -> None:
    spki = spki_of(certificates.new_key().public_key())
    me = Member(node="f" * 64, name="a", roles=("manager",), addresses=("192.0.2.1:7443",))
    home.enlist(spki, me, NOW)
    home.enlist(spki, msgspec.structs.replace(me, addresses=("192.0.2.2:7443",)), NOW)
    assert read(home).members[0].addresses == ("192.0.2.2:7443",)


def test_the_way_from_former_roots_to_the_present_one_stays(folder: Path) -> None:
    pins: list[bytes] = []
    for _ in range(roots.REMEMBERED + 2):
        home = NetworkAuthority(folder, ENROL)
        pins.append(spki_digest(parse(home.roots)[0]))
        for _ in range(3):
            home.rotate([], NOW, force=True)
        shown, lineage = parse(home.roots), parse(home.lineage)
        home.close()
    assert [heirs(pin, shown, lineage) for pin in pins[-roots.REMEMBERED :]] == [shown] * roots.REMEMBERED
    assert heirs(pins[0], shown, lineage) == []
    names = {path.name for path in folder.iterdir() if path.suffix in (".key", ".pem")}
    last = len(pins) + 1
    oldest = last - roots.REMEMBERED
    kept = {f"root-{number}.pem" for number in range(oldest, last)}
    kept |= {f"succession-{number}.pem" for number in range(oldest + 1, last + 1)}
    assert names == kept | {f"{kind}-{last}.{suffix}" for kind in ("root", "issuing") for suffix in ("key", "pem")}


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_crash_in_the_middle_of_a_rotation_is_gone_over(folder: Path, steps: int) -> None:
    for _ in range(steps):
        home = NetworkAuthority(folder, ENROL)
        home.rotate([], NOW, force=True)
        home.close()
    if steps == 0:  # the keys were made, the ledger does not say so yet
        roots.make(folder, 2, NOW)
    home = NetworkAuthority(folder, ENROL)
    assert len(home.roots) == (1 if steps == 0 else 2)
    for expected in [authority.ANNOUNCED, authority.SWITCHED, authority.STEADY][steps:]:
        assert home.rotate(["w-9"], NOW, force=True) == expected
    home.close()


class Crash(BaseException):
    """The power is gone."""


def test_a_crash_at_any_write_of_a_rotation_is_gone_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def crash_at(step: int) -> None:
        left = [step]
        for owner, name in ((durable, "write"), (durable, "remove"), (MemberLedger, "rotate")):
            real = getattr(owner, name)

            def failing(*args: object, real: object = real) -> None:
                if left[0] == 0:
                    raise Crash
                left[0] -= 1
                real(*args)  # type: ignore[operator]

            patch.setattr(owner, name, failing)

    for step in range(20):
        copy = tmp_path / str(step)
        shutil.copytree(folder, copy)
        home = NetworkAuthority(copy, ENROL)
        pin, network = spki_digest(parse(home.roots)[0]), read(home).network
        crashed = False
        with monkeypatch.context() as patch:
            crash_at(step)
            try:
                for _ in range(3):
                    home.rotate([], NOW, force=True)
            except Crash:
                crashed = True
        home.close()
        home = NetworkAuthority(copy, ENROL)
        while home.rotate([], NOW, force=True) != authority.STEADY:
            pass
        (present,) = parse(home.roots)
        assert heirs(pin, [present], parse(home.lineage)) == [present]
        assert spki_digest(present) != pin
        assert verify(home.roster(), [present], network).roots == home.roots
        home.close()
    assert not crashed, "there are more steps than were tried"


def test_nobody_is_asked_for_when_it_is_by_force(home: NetworkAuthority) -> None:
    token, key = invite(home), certificates.new_key()
    home.join(request(token, key), LEAF, NOW)
    for _ in range(3):
        home.rotate(["w-1"], NOW, force=True)
    assert len(home.roots) == 1
