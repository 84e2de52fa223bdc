"""The identity directory: what others cannot read, and what a crash leaves behind."""

import stat
from pathlib import Path

import pytest

from tetherd.drivers.identity import certificates, keys
from tetherd.drivers.identity.keys import Home, Identity, load
from tetherd.errors import Forbidden, NotInNetwork, StorageFailed, TetherError
from tetherd.wire.roster import SignedRoster
from tetherd.wire.signing import key_digest

NOW = 1_800_000_000.0
ROOT = certificates.make_root(NOW)
ISSUING = certificates.make_issuing(ROOT, NOW)
ROOTS = certificates.pem(ROOT.certificate)
ROSTER = SignedRoster(b"body", b"signature", b"signer")


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity(tmp_path / "identity")


def join(identity: Identity) -> Home:
    public = identity.key().public_key()
    leaf = certificates.issue(ISSUING, certificates.spki_of(public), NOW)
    home = Home(node=key_digest(public).hex(), network="0" * 16, name="home", keys={1: b"k"})
    identity.settle(home, certificates.pem(leaf, ISSUING.certificate), ROOTS, ROSTER)
    return home


def test_a_key_is_made_once_for_its_owner_alone(identity: Identity) -> None:
    key = identity.key()
    assert identity.key().private_numbers() == key.private_numbers()
    assert stat.S_IMODE(identity.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((identity.directory / keys.KEY).stat().st_mode) == 0o600


def test_a_member_finds_everything_again(identity: Identity) -> None:
    assert identity.home() is None
    with pytest.raises(NotInNetwork):
        load(identity.directory)
    home = join(identity)
    again = Identity(identity.directory)
    assert (again.home(), again.roster(), again.roots()) == (home, ROSTER, ROOTS)
    assert again.credentials() == load(identity.directory)
    assert again.credentials().node == home.node
    assert again.credentials().chain_pem.count("BEGIN CERTIFICATE") == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in identity.directory.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
@pytest.mark.parametrize("name", [keys.KEY, keys.NETWORK])
def test_what_others_can_read_is_refused(identity: Identity, name: str, mode: int) -> None:
    join(identity)
    (identity.directory / name).chmod(mode)
    for read in (identity.credentials, lambda: load(identity.directory)):
        with pytest.raises(Forbidden, match=f"{mode:04o}"):
            read()


def test_a_key_behind_a_link_is_refused(identity: Identity, tmp_path: Path) -> None:
    join(identity)
    path = identity.directory / keys.KEY
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailed):
        identity.key()


@pytest.mark.parametrize("name", [keys.KEY, keys.CERTIFICATE, keys.ROSTER, keys.NETWORK])
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe{", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_file_is_named(identity: Identity, name: str, damage: bytes) -> None:
    join(identity)
    (identity.directory / name).write_bytes(damage)
    with pytest.raises(StorageFailed, match=name.replace(".", r"\.")) as caught:
        (identity.credentials(), identity.roster())
    assert caught.value.fix


def test_a_key_that_is_not_the_certificates_is_refused(identity: Identity) -> None:
    join(identity)
    (identity.directory / keys.KEY).write_bytes(certificates.key_pem(certificates.new_key()))
    with pytest.raises(StorageFailed, match="not for the key"):
        identity.credentials()


class Crash(BaseException):
    """The power is gone."""


def test_a_crash_while_joining_or_leaving_leaves_one_or_the_other(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash_at(step: int) -> None:
        left = [step]
        for name in ("write", "remove"):
            real = getattr(keys.durable, name)

            def failing(*args: object, real: object = real) -> None:
                if left[0] == 0:
                    raise Crash
                left[0] -= 1
                real(*args)  # type: ignore[operator]

            patch.setattr(keys.durable, name, failing)

    for deed in (join, Identity.leave):
        for step in range(5):
            with monkeypatch.context() as patch:
                crash_at(step)
                with pytest.raises(Crash):
                    deed(identity)
            if identity.home() is not None:
                identity.credentials()
        deed(identity)
    assert list(identity.directory.iterdir()) == []


def test_a_write_that_fails_leaves_what_was_there(identity: Identity) -> None:
    join(identity)
    before = identity.credentials()
    (identity.directory / (keys.CERTIFICATE + ".new")).mkdir()
    with pytest.raises(TetherError):
        identity.keep_certificate("other")
    assert identity.credentials() == before
