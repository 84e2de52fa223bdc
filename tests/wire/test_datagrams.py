"""Sealed datagrams: what is opened is what was sealed, and nothing else is ever taken for one."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import Internal
from tetherd.wire.datagrams import (
    MAX_DATAGRAM,
    OVERHEAD,
    Answer,
    Ask,
    BadDatagram,
    Keyring,
    Ping,
    Proof,
    Put,
    Seek,
    decode,
    encode,
    hello,
    network_tag,
    padded,
)

NETWORK = "0123456789abcdef"
RING = Keyring(NETWORK, {3: b"k" * 32})
NONCE = bytes(range(12))

ids = st.binary(min_size=32, max_size=32)
whole = st.integers(0, 2**63 - 1)
bodies = (
    st.just(Ping())
    | st.builds(Seek, ids, st.integers(0, 3), st.none() | st.binary(max_size=32))
    | st.builds(Put, st.binary(max_size=600), st.integers(-1, 2**63 - 1))
)
tids = st.binary(min_size=8, max_size=8)
tokens = st.binary(max_size=8)
asks = st.builds(Ask, tids, ids, st.integers(0, 3), whole, whole, tokens, bodies, st.just(b""))
proofs = st.none() | st.builds(Proof, st.binary(max_size=91), st.binary(max_size=72))
answers = st.builds(
    Answer, tids, ids, st.integers(0, 3), tokens, st.binary(max_size=18), st.integers(0, 255), st.binary(max_size=100),
    st.binary(max_size=100), st.lists(st.binary(max_size=100), max_size=4), st.booleans(), tokens, whole, proofs,
)  # fmt: skip


def ask(**other: object) -> Ask:
    found = Ask(bytes(8), bytes(32), 0, 1, 1, b"", Ping())
    for name, value in other.items():
        setattr(found, name, value)
    return found


@given(asks | answers)
def test_what_is_sealed_is_opened(message: Ask | Answer) -> None:
    data = RING.seal(encode(message), NONCE, 3)
    assert len(data) == len(encode(message)) + OVERHEAD
    epoch, plain = RING.open(data)
    assert epoch == 3
    assert decode(plain) == message


@given(asks, st.data())
def test_no_bit_can_be_changed(message: Ask, data: st.DataObject) -> None:
    sealed = bytearray(RING.seal(encode(message), NONCE, 3))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadDatagram):
        RING.open(bytes(sealed))


def test_a_datagram_cut_anywhere_is_refused() -> None:
    sealed = RING.seal(encode(ask()), NONCE, 3)
    for length in range(len(sealed)):
        with pytest.raises(BadDatagram):
            RING.open(sealed[:length])


@given(st.binary(max_size=1300))
def test_noise_is_refused_with_a_reason(noise: bytes) -> None:
    with pytest.raises(BadDatagram) as refused:
        RING.open(noise)
    assert refused.value.reason in {"size", "network", "version", "epoch", "forged"}


@given(st.binary(max_size=1165))
def test_noise_of_a_member_is_decoded_or_refused(noise: bytes) -> None:
    with contextlib.suppress(BadDatagram):
        assert isinstance(decode(noise), Ask | Answer)


@pytest.mark.parametrize(
    "plain",
    [
        b"\x91" * 1000,
        b"\xc1",
        msgspec.msgpack.encode({"a": 1}),
        msgspec.msgpack.encode([7, b"x"]),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b"pickle")),
        encode(ask()) + b"\x00",
        encode(ask(tid=bytes(9))),
        encode(ask(sender=bytes(31))),
        encode(ask(count=2**64 - 1)),
        encode(ask(sent=-1)),
        encode(ask(count=float("nan"))),
        encode(ask(token=bytes(9))),
        encode(ask(body=Seek(bytes(31)))),
        encode(ask(body=Seek(bytes(32), 4))),  # type: ignore[arg-type]
        encode(ask(body=Seek(bytes(32), 1, bytes(33)))),
        encode(ask(body=Put(b"", -2))),
    ],
)
def test_what_no_node_sends_is_refused(plain: bytes) -> None:
    with pytest.raises(BadDatagram, match="malformed"):
        decode(plain)


def test_every_cut_of_a_body_is_refused() -> None:
    plain = encode(ask(body=Seek(bytes(32), 1)))
    for length in range(len(plain)):
        with pytest.raises(BadDatagram):
            decode(plain[:length])


@given(asks)
def test_a_padded_request_is_exactly_as_long_as_any_answer(message: Ask) -> None:
    data = RING.seal(padded(message), NONCE, 3)
    assert MAX_DATAGRAM - 1 <= len(data) <= MAX_DATAGRAM


def test_the_reasons_are_told_apart() -> None:
    def reason(ring: Keyring, data: bytes) -> str:
        with pytest.raises(BadDatagram) as refused:
            ring.open(data)
        return refused.value.reason

    sealed = RING.seal(encode(ask()), NONCE, 3)
    assert reason(Keyring("other", {3: b"k" * 32}), sealed) == "network"
    assert reason(Keyring(NETWORK, {4: b"k" * 32}), sealed) == "epoch"
    assert reason(Keyring(NETWORK, {3: b"x" * 32}), sealed) == "forged"
    assert reason(RING, sealed[:4] + b"\x02" + sealed[5:]) == "version"


def test_the_newest_key_seals_and_every_key_opens() -> None:
    both = Keyring(NETWORK, {3: b"k" * 32, 4: b"n" * 32})
    assert both.epochs == [4, 3]
    assert RING.open(both.seal(b"x", NONCE, 3)) == (3, b"x")
    assert both.open(RING.seal(b"x", NONCE, 3)) == (3, b"x")
    assert both.open(both.seal(b"x", NONCE, 9)) == (4, b"x"), "an epoch that is not held is sealed with the newest"


def test_the_same_key_means_something_else_in_another_network_or_epoch() -> None:
    one, other = Keyring("a", {1: b"k" * 32}), Keyring("a", {2: b"k" * 32})
    sealed = one.seal(b"x", NONCE, 1)
    with pytest.raises(BadDatagram, match="another key"):
        other.open(other.seal(b"", NONCE, 2)[:7] + sealed[7:])
    assert network_tag("a") != network_tag("b")


def test_nothing_longer_than_a_path_carries_is_sealed() -> None:
    assert len(RING.seal(bytes(MAX_DATAGRAM - OVERHEAD), NONCE, 3)) == MAX_DATAGRAM
    with pytest.raises(Internal):
        RING.seal(bytes(MAX_DATAGRAM - OVERHEAD + 1), NONCE, 3)


@pytest.mark.parametrize("keys", [{}, {-1: b"k"}, {2**16: b"k"}])
def test_a_keyring_needs_a_key_with_an_epoch_that_fits(keys: dict[int, bytes]) -> None:
    with pytest.raises(Internal):
        Keyring(NETWORK, keys)


def test_a_proof_names_everything_it_is_about() -> None:
    tid, one, other = b"t" * 8, b"a" * 32, b"b" * 32
    told = {hello(NETWORK, tid, one, other), hello("x", tid, one, other), hello(NETWORK, b"u" * 8, one, other)}
    assert len(told | {hello(NETWORK, tid, other, one)}) == 4
