"""The routing table: its order, its bounds, and who is in it."""

from hypothesis import given
from hypothesis import strategies as st

from tetherd.discovery.contacts import SIZE4, SIZE6, Contact, pack_address, same, split, unpack, unpack_address
from tetherd.discovery.ids import BITS, number, shared, topic, within
from tetherd.discovery.table import BUCKET, CLOSEST, Peer, Table

OWN = bytes(32)
ids = st.binary(min_size=32, max_size=32)


def peer(node: bytes) -> Peer:
    return Peer(node, ("10.0.0.1", 7443), 0.0)


def full_table(nodes: list[bytes]) -> Table:
    table = Table(OWN)
    for node in nodes:
        table.add(peer(node))
    return table


@given(st.lists(ids, max_size=80, unique=True), ids, st.integers(1, 20))
def test_the_closest_come_first(nodes: list[bytes], target: bytes, count: int) -> None:
    table = full_table(nodes)
    found = [each.id for each in table.closest(number(target), count)]
    inside = sorted((each.id for each in table), key=lambda node: number(node) ^ number(target))
    assert found == inside[:count]
    assert len(table) == len(inside)


@given(st.lists(ids, max_size=200, unique=True))
def test_no_bucket_holds_more_than_its_share_and_never_this_node(nodes: list[bytes]) -> None:
    table = full_table([*nodes, OWN])
    counts: dict[int, int] = {}
    for each in table:
        bits = shared(table.own, each.number)
        counts[bits] = counts.get(bits, 0) + 1
    assert all(count <= BUCKET for count in counts.values())
    assert OWN not in {each.id for each in table}


def test_a_full_bucket_takes_a_new_node_only_for_one_that_failed() -> None:
    nodes = [bytes([128 + index]) + bytes(31) for index in range(BUCKET + 2)]
    table = full_table(nodes[:BUCKET])
    late = peer(nodes[BUCKET])
    assert not table.wants(late.number)
    assert not table.add(late)
    failing = next(iter(table))
    failing.failures = 1
    assert table.wants(late.number)
    assert table.add(late)
    assert table.add(late), "it is in"
    assert failing not in table
    assert len(table) == BUCKET
    table.remove(late)
    table.remove(late)
    assert len(table) == BUCKET - 1


def test_one_that_failed_is_named_to_nobody() -> None:
    table = full_table([bytes([index + 1]) + bytes(31) for index in range(CLOSEST)])
    failing = next(iter(table))
    failing.failures = 1
    assert failing not in table.closest(0)
    assert len(table.closest(0)) == CLOSEST - 1


def test_parts_that_no_walk_went_through_are_idle() -> None:
    table = full_table([bytes([128]) + bytes(31), bytes([64]) + bytes(31)])
    assert table.idle(10.0) == [0, 1]
    table.use(number(bytes([128]) + bytes(31)), 20.0)
    assert table.idle(10.0) == [1]


@given(ids, st.integers(0, BITS - 1), ids)
def test_a_random_key_lies_where_it_was_asked_for(own: bytes, bits: int, entropy: bytes) -> None:
    assert shared(number(own), number(within(number(own), bits, entropy))) == bits


def test_topics_differ_by_network_kind_and_name() -> None:
    found = {topic(*each) for each in (("n", "role", "a"), ("m", "role", "a"), ("n", "model", "a"), ("n", "role", "b"))}
    assert {len(each) for each in found} == {32}
    assert len(found) == 4


def test_contacts_are_unpacked_as_they_were_packed() -> None:
    node = bytes(range(32))
    for address, size in ((("10.1.2.3", 7443), SIZE4), (("fd00::5", 65535), SIZE6)):
        packed = node + pack_address(address)
        assert len(packed) == size
        assert unpack(packed) == Contact(node, number(node), address)
        assert unpack_address(packed[32:]) == address
        assert same((address[0], address[1])) is same(address)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_whatever_an_answer_names_is_read_without_harm(near4: bytes, near6: bytes) -> None:
    for packed in split(near4, near6):
        assert unpack(packed).id == packed[:32]
