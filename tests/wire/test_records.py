"""Records prove themselves, and nothing that does not is read."""

from hashlib import sha256

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import TooLarge
from tetherd.wire.records import (
    ANNOUNCEMENT,
    IMMUTABLE,
    MAX_NAME,
    MAX_RECORD,
    MAX_VALUE,
    MUTABLE,
    BadRecord,
    Body,
    immutable_key,
    mutable_key,
    read,
    write,
)
from tetherd.wire.signatures import KeySigner, identify, verify

NETWORK = "0123456789abcdef"
SIGNER = KeySigner(ec.generate_private_key(ec.SECP256R1()))
OTHER = KeySigner(ec.generate_private_key(ec.SECP256R1()))
TOPIC = bytes(range(32))


def body(**other: object) -> Body:
    fields: dict[str, object] = {
        "kind": ANNOUNCEMENT,
        "name": TOPIC,
        "public": SIGNER.public,
        "seq": 5,
        "issued": 100,
        "ttl": 60,
        "value": b"v",
    }
    return Body(**{**fields, **other})  # type: ignore[arg-type]


def test_a_record_is_read_as_it_was_written() -> None:
    written = write(body(), SIGNER, NETWORK)
    found = read(written.blob, NETWORK, verify)
    assert (found.body, found.key, found.owner, found.until) == (body(), TOPIC, identify(SIGNER.public), 160)
    assert (written.key, written.owner) == (found.key, found.owner)


def test_a_mutable_value_lies_where_only_its_owner_can_write() -> None:
    one = write(body(kind=MUTABLE, name=b"n"), SIGNER, NETWORK)
    other = write(body(kind=MUTABLE, name=b"n", public=OTHER.public), OTHER, NETWORK)
    assert one.key == read(one.blob, NETWORK, verify).key == mutable_key(one.owner, b"n")
    assert len({one.key, other.key, mutable_key(one.owner, b"m")}) == 3


def test_an_immutable_value_lies_under_its_digest_and_needs_no_signature() -> None:
    found = read(write(Body(IMMUTABLE, value=b"v"), SIGNER, NETWORK).blob, NETWORK, verify)
    assert (found.key, found.owner) == (sha256(b"v").digest(), b"")
    assert immutable_key(b"v") == found.key


@pytest.mark.parametrize(
    "said",
    [
        body(public=OTHER.public),
        body(public=b""),
        body(public=bytes(91)),
        body(name=b"short"),
        Body(IMMUTABLE, name=b"n", value=b"v"),
        Body(IMMUTABLE, public=SIGNER.public),
        Body(IMMUTABLE, gone=True),
    ],
)
def test_what_does_not_fit_together_is_refused(said: Body) -> None:
    if said.kind == IMMUTABLE:
        blob = msgspec.msgpack.encode([msgspec.msgpack.encode(said), b""])
    else:
        blob = write(said, SIGNER, NETWORK).blob
    with pytest.raises(BadRecord):
        read(blob, NETWORK, verify)


def test_a_record_means_nothing_in_another_network() -> None:
    with pytest.raises(BadRecord, match="network"):
        read(write(body(), SIGNER, NETWORK).blob, "other", verify)


def test_no_byte_of_a_record_can_be_changed_and_none_can_be_missing() -> None:
    blob = write(body(), SIGNER, NETWORK).blob
    for at in range(len(blob)):
        for bad in (blob[:at], blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]):
            with pytest.raises(BadRecord):
                read(bad, NETWORK, verify)
    with pytest.raises(BadRecord):
        read(blob + b"\x00", NETWORK, verify)


@given(st.binary(max_size=1100))
def test_noise_is_no_record(noise: bytes) -> None:
    with pytest.raises(BadRecord):
        read(noise, NETWORK, verify)


@pytest.mark.parametrize(
    "fields",
    [{"seq": 2**64 - 1}, {"seq": -1}, {"ttl": 7201}, {"issued": 2**41}, {"kind": 4}, {"value": bytes(MAX_VALUE + 1)}],
)
def test_numbers_that_cannot_be_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BadRecord, match="malformed"):
        read(msgspec.msgpack.encode([msgspec.msgpack.encode(body(**fields)), b"s"]), NETWORK, verify)


def test_the_largest_record_fits_and_a_larger_one_says_so() -> None:
    largest = body(kind=MUTABLE, name=bytes(MAX_NAME), seq=2**63 - 1, issued=2**40, ttl=7200, value=bytes(MAX_VALUE))
    assert len(write(largest, SIGNER, NETWORK).blob) <= MAX_RECORD
    for other in (body(value=bytes(MAX_VALUE + 1)), body(kind=MUTABLE, name=bytes(MAX_NAME + 1))):
        with pytest.raises(TooLarge, match="datagram"):
            write(other, SIGNER, NETWORK)
