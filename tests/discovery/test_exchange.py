"""A node under whatever a holder of the network key can form: it may refuse, it never fails, and nothing grows."""

from hypothesis import given, settings
from hypothesis import strategies as st
from world import EPOCH, KEY, NETWORK, Pretender, rules

from tetherd.discovery.contacts import Contact
from tetherd.discovery.exchange import MAX_KNOWN, Exchange
from tetherd.discovery.ids import number
from tetherd.discovery.node import Node
from tetherd.wire.datagrams import MAX_DATAGRAM, Answer, Ask, Keyring, Ping, Proof, Put, Seek, decode, encode, hello
from tetherd.wire.records import ANNOUNCEMENT, IMMUTABLE, MUTABLE, Body, write
from tetherd.wire.signatures import identify

RING = Keyring(NETWORK, {1: KEY})
THERE = ("10.0.0.9", 7443)
SIGNER = Pretender(b"fuzzer")
ME = identify(SIGNER.public)

small = st.binary(max_size=40)
ids = st.binary(min_size=32, max_size=32)
bodies = st.builds(
    Body, st.sampled_from([ANNOUNCEMENT, MUTABLE, IMMUTABLE]), st.binary(max_size=32), st.just(SIGNER.public),
    st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 7200), small, st.booleans(),
)  # fmt: skip
blobs = small | bodies.map(lambda body: write(body, SIGNER, NETWORK).blob)
asked = (
    st.just(Ping())
    | st.builds(Seek, ids, st.sampled_from([0, 1, 2, 3]), st.none() | st.binary(max_size=32))
    | st.builds(Put, blobs, st.integers(-1, 2**63 - 1))
)
asks = st.builds(
    Ask, st.binary(min_size=8, max_size=8), ids, st.integers(-9, 9), st.integers(0, 2**63 - 1),
    st.just(int(EPOCH * 1000)) | st.integers(0, 2**63 - 1), st.binary(max_size=8), asked, small,
)  # fmt: skip
near = st.lists(st.binary(min_size=38, max_size=38), max_size=4).map(b"".join) | small
answers = st.builds(
    Answer, st.just(bytes(8)), st.just(ME), st.integers(0, 1), st.binary(max_size=8), st.binary(max_size=18),
    st.integers(0, 255), near, near, st.lists(blobs, max_size=2), st.booleans(), st.binary(max_size=8),
    st.integers(0, 2**63 - 1),
)  # fmt: skip


def node() -> Node:
    counter = iter(range(2**62))
    found = Node(Pretender(b"victim"), RING, rules(), lambda size: next(counter).to_bytes(8)[-size:].rjust(size, b"\0"))
    found.tick(0.0, EPOCH)
    return found


def sent(found: Node) -> list[Ask]:
    """Return the requests that a node sends now, and let it have sent everything."""
    messages = [decode(RING.open(data)[1]) for data, _ in found.exchange.outbox]
    assert all(len(data) <= MAX_DATAGRAM for data, _ in found.exchange.outbox)
    found.exchange.outbox.clear()
    return [each for each in messages if isinstance(each, Ask)]


@settings(max_examples=300, deadline=None)
@given(st.lists(asks, max_size=5))
def test_no_request_makes_a_node_fail(wishes: list[Ask]) -> None:
    found = node()
    for wish in wishes:
        found.receive(RING.seal(encode(wish), bytes(12), 1), THERE, 1.0)
    sent(found)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([ANNOUNCEMENT, MUTABLE, IMMUTABLE]), st.lists(answers, min_size=1, max_size=5))
def test_no_answer_makes_a_node_fail(kind: int, replies: list[Answer]) -> None:
    found = node()
    found.join([THERE], (), 0.0)
    (ping,) = sent(found)
    proof = Proof(SIGNER.public, SIGNER.sign(hello(NETWORK, ping.tid, found.exchange.id, ME)))
    found.receive(RING.seal(encode(Answer(ping.tid, ME, 1, bytes(8), b"", proof=proof)), bytes(12), 1), THERE, 0.1)
    assert len(found.exchange.table) == 1
    sent(found)
    found.search(kind, bytes(32), 0.2)  # type: ignore[arg-type]
    found.publish((ANNOUNCEMENT, bytes(32)), b"v", 600, 0.2)
    for reply in replies:
        for wish in sent(found):
            reply.tid = wish.tid
            found.receive(RING.seal(encode(reply), bytes(12), 1), THERE, 0.3)
    for second in range(1, 40):
        found.tick(float(second), EPOCH)
        found.exchange.outbox.clear()
    found.exchange.observed(1.0)
    assert not found._searches
    assert not found._publications


def test_a_bounded_number_of_peers_is_known() -> None:
    exchange: Exchange = node().exchange
    for index in range(2 * MAX_KNOWN):
        assert exchange._acquaint(index.to_bytes(32), (f"10.1.{index // 250}.{index % 250}", 7443), 0.0)
    assert len(exchange._known) == MAX_KNOWN


def test_addresses_that_may_not_be_dialled_are_never_asked() -> None:
    counter = iter(range(2**62))
    picky = rules()._replace(allow=lambda address: address[1] >= 1024)
    exchange = Exchange(Pretender(b"v"), RING, picky, lambda size: next(counter).to_bytes(8)[-size:].rjust(size, b"\0"))
    stranger = bytes([7]) * 32
    assert not exchange.usable(Contact(stranger, number(stranger), ("10.0.0.1", 22)), 0.0)
    assert exchange.usable(Contact(stranger, number(stranger), ("10.0.0.1", 7443)), 0.0)
    assert not exchange.usable(Contact(exchange.id, number(exchange.id), ("10.0.0.1", 7443)), 0.0)


def test_of_unknown_nodes_the_round_trip_of_the_slowest_known_is_expected() -> None:
    exchange = node().exchange
    assert exchange._rtt(None) == -1.0
    exchange._slowest = 0.02
    assert exchange._rtt(None) == 0.02
