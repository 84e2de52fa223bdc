"""Signed rosters: only what the authority of this very network signed is believed."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.drivers.identity.certificates import (
    DAY,
    ISSUING_LIFE,
    Authority,
    issue,
    make_issuing,
    make_root,
    new_key,
    pem,
    spki_of,
    vouch,
)
from tetherd.errors import BadRoster, WrongNetwork
from tetherd.wire.roster import Roster, SignedRoster, encode
from tetherd.wire.signing import certificates, heirs, key_digest, sign, spki_digest, verify

NOW = 1_800_000_000.0
NEXT, LAST = make_root(NOW), make_root(NOW)
ROOT = make_root(NOW)
ISSUING = make_issuing(ROOT, NOW)
NETWORK = spki_digest(ROOT.certificate).hex()[:16]
ROSTER = Roster(network=NETWORK, name="home", epoch=3, issued=NOW, members=(), roots=(pem(ROOT.certificate),))
SIGNED = sign(ROSTER, ISSUING.key, ISSUING.certificate)


def check(signed: SignedRoster, *roots: Authority) -> Roster:
    return verify(signed, [root.certificate for root in roots or (ROOT,)], NETWORK)


def test_a_signed_roster_is_believed() -> None:
    assert check(SIGNED) == ROSTER
    assert certificates(ROSTER.roots) == [ROOT.certificate]


def test_roots_may_overlap() -> None:
    other = make_root(NOW)
    assert check(SIGNED, other, ROOT) == ROSTER
    with pytest.raises(BadRoster, match="does not know"):
        check(SIGNED, other)


def test_another_network_is_named() -> None:
    signed = sign(msgspec.structs.replace(ROSTER, network="f" * 16), ISSUING.key, ISSUING.certificate)
    with pytest.raises(WrongNetwork, match="f" * 16):
        check(signed)


def test_another_root_of_the_same_name_is_not_believed() -> None:
    forged = Authority(new_key(), ROOT.certificate)
    issuing = make_issuing(forged, NOW)
    with pytest.raises(BadRoster):
        check(sign(ROSTER, issuing.key, issuing.certificate))


def test_a_member_signs_no_roster() -> None:
    key = new_key()
    with pytest.raises(BadRoster, match="does not know"):
        check(sign(ROSTER, key, issue(ISSUING, spki_of(key.public_key()), NOW)))
    with pytest.raises(BadRoster):  # not even one that a root made directly
        check(sign(ROSTER, key, issue(ROOT, spki_of(key.public_key()), NOW)))


def test_a_signer_whose_time_was_over_is_not_believed() -> None:
    late = msgspec.structs.replace(ROSTER, issued=NOW + ISSUING_LIFE + DAY)
    with pytest.raises(BadRoster, match="not valid"):
        check(sign(late, ISSUING.key, ISSUING.certificate))


@given(st.sampled_from(["body", "signature", "signer"]), st.data())
def test_every_changed_bit_is_noticed(field: str, data: st.DataObject) -> None:
    value = bytearray(getattr(SIGNED, field))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changes: dict[str, Any] = {field: bytes(value)}
    with pytest.raises((BadRoster, WrongNetwork)):
        check(msgspec.structs.replace(SIGNED, **changes))


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_other_bytes_are_refused(body: bytes, signature: bytes, signer: bytes) -> None:
    with pytest.raises(BadRoster):
        check(SignedRoster(body, signature, signer))


def test_other_texts_are_no_certificates() -> None:
    with pytest.raises(BadRoster):
        certificates(["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])


def test_the_digest_of_a_key_is_that_of_its_certificate() -> None:
    assert key_digest(ROOT.key.public_key()) == spki_digest(ROOT.certificate)
    assert encode(ROSTER) == SIGNED.body


PIN = spki_digest(ROOT.certificate)
LINEAGE = [ROOT.certificate, vouch(ROOT, NEXT.certificate, NOW), NEXT.certificate, vouch(NEXT, LAST.certificate, NOW)]


def test_a_root_leads_to_those_that_followed_it() -> None:
    assert heirs(PIN, [ROOT.certificate], []) == [ROOT.certificate]
    assert heirs(PIN, [ROOT.certificate, NEXT.certificate], LINEAGE[:2]) == [ROOT.certificate, NEXT.certificate]
    assert heirs(PIN, [LAST.certificate], LINEAGE) == [LAST.certificate]
    assert heirs(spki_digest(NEXT.certificate), [LAST.certificate], LINEAGE) == [LAST.certificate]


def test_no_root_leads_to_one_that_it_did_not_vouch_for() -> None:
    stranger, node = make_root(NOW), Authority(new_key(), ROOT.certificate)
    leaf = issue(ISSUING, spki_of(node.key.public_key()), NOW)
    for lineage in (
        [],
        [ROOT.certificate],
        [stranger.certificate, vouch(stranger, NEXT.certificate, NOW)],
        [ROOT.certificate, vouch(Authority(stranger.key, ROOT.certificate), NEXT.certificate, NOW)],
        [ROOT.certificate, ISSUING.certificate, vouch(ISSUING, NEXT.certificate, NOW)],
        [ROOT.certificate, ISSUING.certificate, leaf, vouch(Authority(node.key, leaf), NEXT.certificate, NOW)],
    ):
        assert heirs(PIN, [NEXT.certificate], lineage) == []
    assert heirs(spki_digest(LAST.certificate), [ROOT.certificate], LINEAGE) == [], "no way leads back"
