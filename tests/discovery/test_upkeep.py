"""Joining, looking around, probing: what a node does for its own picture of the network."""

import pytest
from world import World

from tetherd.discovery.operations import LONGEST, Search
from tetherd.discovery.responder import PROOF, ROOM
from tetherd.discovery.upkeep import JOIN, QUIET, Upkeep
from tetherd.errors import InvalidInput, TooLarge
from tetherd.wire.datagrams import MAX_DATAGRAM
from tetherd.wire.records import ANNOUNCEMENT, IMMUTABLE, MAX_RECORD, MUTABLE


@pytest.fixture
def world() -> World:
    return World(seed=11)


def test_seeds_are_asked_until_one_answers(world: World) -> None:
    late = ("10.0.0.2", 7443)
    early = world.add([late])
    world.run(sum(JOIN) / 2)
    assert not len(world.nodes[early].exchange.table)
    assert world.add() == late
    world.run(2 * max(JOIN))
    assert len(world.nodes[early].exchange.table) == 1


def test_asking_absent_seeds_slows_down(world: World) -> None:
    one = world.add([("10.0.0.9", 7443)])
    world.run(60)
    before = world.counters(one)["sent"]
    world.run(60)
    assert world.counters(one)["sent"] - before <= 4 * 60 / max(JOIN) * 1.5


def test_a_peer_that_says_nothing_is_probed_and_dropped_when_dead(world: World) -> None:
    alive = world.grow(3)
    world.run(2)
    world.kill(alive[2])
    world.run(QUIET + 20)
    for address in alive[:2]:
        assert alive[2] not in {peer.address for peer in world.nodes[address].exchange.table}
    assert {peer.address for peer in world.nodes[alive[0]].exchange.table} == {alive[1]}


def test_an_idle_node_sends_little(world: World) -> None:
    alive = world.grow(20)
    world.run(120)
    before = sum(world.counters(each)["sent"] for each in alive)
    world.run(60)
    assert (sum(world.counters(each)["sent"] for each in alive) - before) / len(alive) / 60 < 3


def test_a_walk_never_outlasts_its_bound(world: World) -> None:
    alive = world.grow(3)
    world.run(2)
    node = world.nodes[alive[0]]
    upkeep = Upkeep(node.exchange, (), ())
    search = Search(node.exchange, bytes(32), 0, upkeep, world.now)
    search.start(world.now)
    assert not search.done
    assert search.deadline == pytest.approx(world.now + LONGEST)
    search.finish(world.now)
    assert search.done


def test_a_record_of_the_largest_size_fits_an_answer_and_a_request(world: World) -> None:
    alive = world.grow(12)
    world.run(2)
    node = world.nodes[alive[0]]
    done = world.published(alive[0], node.publish((MUTABLE, bytes(32)), bytes(800), 7200, world.now))
    assert done.stored >= 8
    assert world.lookup(alive[5], done.record.key, MUTABLE)
    assert world.largest <= MAX_DATAGRAM
    assert MAX_RECORD <= ROOM
    assert PROOF < ROOM


@pytest.mark.parametrize(
    ("subject", "value", "ttl", "error"),
    [
        ((ANNOUNCEMENT, b"short"), b"", 600, InvalidInput),
        ((ANNOUNCEMENT, bytes(32)), b"", 5, InvalidInput),
        ((ANNOUNCEMENT, bytes(32)), b"", 7201, InvalidInput),
        ((ANNOUNCEMENT, bytes(32)), bytes(801), 600, TooLarge),
        ((MUTABLE, bytes(33)), b"", 600, TooLarge),
        ((IMMUTABLE, bytes(801)), bytes(801), 600, TooLarge),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(
    world: World, subject: object, value: bytes, ttl: int, error: type
) -> None:
    node = world.nodes[world.add()]
    with pytest.raises(error):
        node.publish(subject, value, ttl, world.now)  # type: ignore[arg-type]
    assert not len(node.standing)
