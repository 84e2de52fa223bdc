"""The distributed hash table as a whole, simulated: loss, churn, silence and clients, all from one printed seed."""

import random
from hashlib import sha256

import pytest
from world import EPOCH, NETWORK, World, rules

from tetherd.discovery.contacts import Address, Contact
from tetherd.discovery.node import Complete
from tetherd.wire.datagrams import MAX_DATAGRAM, Keyring
from tetherd.wire.records import ANNOUNCEMENT, IMMUTABLE, MUTABLE, immutable_key, mutable_key

WARM = 2.0


def seeded(loss: float = 0.0) -> World:
    seed = random.SystemRandom().getrandbits(32)
    print(f"the seed of this world is {seed}")
    return World(seed, loss)


def topic(index: int) -> bytes:
    return sha256(b"topic %d" % index).digest()


def churn(world: World, alive: list[Address], kept: set[Address], count: int) -> None:
    """Let ``count`` nodes die without a word, and as many others join."""
    for _ in range(count):
        victim = world.random.choice([each for each in alive if each not in kept])
        alive.remove(victim)
        world.kill(victim)
        alive.append(world.add(alive[:2]))
        world.run(0.02)


def never_missed(world: World, size: int, turns: int) -> None:
    """Grow a network, warm it for 2 s, then announce and look up while nodes come and go: nothing may be missed."""
    alive = world.grow(size, over=1.0)
    world.run(WARM)
    announcers = alive[2 : 2 + turns]
    kept = {*alive[:2], *announcers}
    for index, address in enumerate(announcers):
        world.announce(address, topic(index))
    missed = []
    for turn in range(turns):
        churn(world, alive, kept, max(1, size // 200))
        for index in (turn, world.random.randrange(turns)):
            asker = world.random.choice(alive)
            if not world.lookup(asker, topic(index)):
                missed.append((turn, index))
    assert not missed
    assert world.largest <= MAX_DATAGRAM


def test_nothing_is_missed_under_loss_and_churn() -> None:
    never_missed(seeded(loss=0.05), size=120, turns=15)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_missed_among_two_thousand_nodes() -> None:
    never_missed(seeded(loss=0.05), size=2000, turns=40)


def test_a_third_of_the_network_falls_silent_at_once() -> None:
    world = seeded()
    alive = world.grow(60)
    world.run(WARM)
    for index in range(20):
        world.announce(alive[index], topic(index))
    for address in alive[40:]:
        world.kill(address)
    took = []
    for index in range(20):
        begin = world.now
        assert world.lookup(alive[(index * 7 + 3) % 40], topic(index))
        took.append(world.now - begin)
    assert sorted(took)[10] <= 0.6
    world.run(60)
    assert not {peer.address for each in alive[:40] for peer in world.nodes[each].exchange.table} & set(alive[40:])


def test_what_is_taken_back_is_gone_at_once() -> None:
    world = seeded()
    alive = world.grow(30)
    world.run(WARM)
    world.announce(alive[3], topic(1))
    assert [record.body.value for record in world.lookup(alive[20], topic(1))] == [b"here"]
    assert world.unannounce(alive[3], topic(1)).stored >= 8
    assert not any(world.lookup(each, topic(1)) for each in alive)


def test_an_announcement_outlives_its_ttl_while_its_node_lives_and_not_otherwise() -> None:
    world = seeded(loss=0.02)
    alive = world.grow(20)
    world.run(WARM)
    world.announce(alive[3], topic(1), ttl=40)
    world.announce(alive[4], topic(2), ttl=40)
    world.kill(alive[4])
    world.run(200)
    assert world.lookup(alive[10], topic(1))
    assert not world.lookup(alive[10], topic(2))


def test_more_announcements_than_a_datagram_holds_are_all_found() -> None:
    world = seeded()
    alive = world.grow(30)
    world.run(WARM)
    for index in range(18):
        world.announce(alive[index], topic(1), value=bytes(500))
    assert len(world.lookup(alive[25], topic(1))) == 18
    assert world.largest <= MAX_DATAGRAM


def test_values_are_kept_under_a_name_and_under_their_digest() -> None:
    world = seeded()
    alive = world.grow(20)
    world.run(WARM)
    node = world.nodes[alive[5]]
    world.published(alive[5], node.publish((MUTABLE, b"where"), b"one", 600, world.now))
    world.published(alive[5], node.publish((MUTABLE, b"where"), b"two", 600, world.now))
    world.published(alive[5], node.publish((IMMUTABLE, b"for ever"), b"for ever", 600, world.now))
    key = mutable_key(node.exchange.id, b"where")
    assert [each.body.value for each in world.lookup(alive[9], key, MUTABLE)] == [b"two"]
    assert [each.body.value for each in world.lookup(alive[9], immutable_key(b"for ever"), IMMUTABLE)] == [b"for ever"]


def test_a_value_is_not_replaced_where_another_was_expected() -> None:
    world = seeded()
    alive = world.grow(12)
    world.run(WARM)
    node = world.nodes[alive[5]]
    first = world.published(alive[5], node.publish((MUTABLE, b"n"), b"one", 600, world.now)).record.body.seq
    assert not world.published(alive[5], node.publish((MUTABLE, b"n"), b"bad", 600, world.now, first + 7)).stored
    assert world.published(alive[5], node.publish((MUTABLE, b"n"), b"two", 600, world.now, first)).stored >= 8


def test_clients_use_the_network_and_stand_in_no_table() -> None:
    world = seeded()
    alive = world.grow(15)
    client = world.add(alive[:2], rules(serves=False))
    world.run(WARM)
    assert world.announce(client, topic(1)).stored >= 8
    assert world.lookup(alive[9], topic(1))
    assert world.lookup(client, topic(1))
    ids = {peer.id for each in alive for peer in world.nodes[each].exchange.table}
    assert world.nodes[client].exchange.id not in ids
    assert not len(world.nodes[client].exchange.store)


def test_two_nodes_that_start_together_find_each_other() -> None:
    world = seeded()
    one = world.add([("10.0.0.2", 7443)])
    world.announce(one, topic(1))
    two = world.add([one])
    world.run(WARM)
    assert world.lookup(two, topic(1)), "announced before anyone was there, and never said again"


def test_split_halves_become_one_when_a_seed_is_heard_of() -> None:
    world = seeded()
    left, right = world.grow(10), world.grow(10)
    world.run(WARM)
    world.announce(left[4], topic(1))
    assert not world.lookup(right[4], topic(1))
    world.nodes[right[0]].upkeep.seed(left[0])
    world.run(30)
    assert all(world.lookup(each, topic(1)) for each in right)


def test_a_remembered_peer_is_enough_to_come_back() -> None:
    world = seeded()
    alive = world.grow(12)
    world.run(WARM)
    peer = next(iter(world.nodes[alive[3]].exchange.table))
    back = world.add()
    world.nodes[back].join((), [Contact(peer.id, peer.number, peer.address)], world.now)
    world.settle(back)
    world.run(WARM)
    assert len(world.nodes[back].exchange.table) >= 8


def test_network_keys_turn_without_losing_anyone() -> None:
    world = seeded()
    alive = world.grow(16)
    world.run(WARM)
    world.announce(alive[3], topic(1))
    both, new = Keyring(NETWORK, {1: b"k" * 32, 2: b"n" * 32}), Keyring(NETWORK, {2: b"n" * 32})
    for address in alive[:8]:
        world.nodes[address].rekey(both)
    world.run(1)
    assert all(world.lookup(each, topic(1)) for each in alive), "half of them have the new key"
    for address in alive:
        world.nodes[address].rekey(both)
    world.run(1)
    for address in alive:
        world.nodes[address].rekey(new)
    assert all(world.lookup(each, topic(1)) for each in alive)
    left_behind = world.add(alive[:2])
    world.run(WARM)
    assert not len(world.nodes[left_behind].exchange.table)
    assert world.counters(alive[0])["dropped.epoch"]


def test_whoever_has_not_got_the_new_key_yet_is_reached_with_the_old_one() -> None:
    world = seeded()
    one = world.add()
    two = world.add([one])
    world.run(WARM)
    world.nodes[two].rekey(Keyring(NETWORK, {1: b"k" * 32, 2: b"n" * 32}))
    assert world.announce(two, topic(2)).stored == 2
    world.run(5)
    assert world.counters(one)["dropped.epoch"], "whether it has the new key yet was tried out"
    assert len(world.nodes[two].exchange.table) == len(world.nodes[one].exchange.table) == 1


def test_everyone_moves_to_the_new_key_before_the_old_one_is_dropped() -> None:
    world = seeded()
    alive = world.grow(12)
    world.run(WARM)
    for address in alive:
        world.nodes[address].rekey(Keyring(NETWORK, {1: b"k" * 32, 2: b"n" * 32}))
    world.run(20)
    assert {peer.epoch for each in alive for peer in world.nodes[each].exchange.table} == {2}


def test_what_was_said_to_nobody_is_said_again_when_somebody_comes() -> None:
    world = seeded()
    late = ("10.0.0.2", 7443)
    early = world.add([late])
    world.announce(early, topic(1))
    world.run(30)
    assert world.add() == late
    world.run(16)
    world.kill(early)
    assert world.lookup(late, topic(1))


def test_a_node_alone_keeps_and_finds_its_own() -> None:
    world = seeded()
    one = world.add()
    assert world.announce(one, topic(1)).stored == 1
    assert world.lookup(one, topic(1))


def test_a_restarted_clock_that_went_back_is_overtaken() -> None:
    world = seeded()
    alive = world.grow(12)
    world.run(WARM)
    said = world.announce(alive[3], topic(1), b"before").record.body.seq
    node = world.nodes[alive[3]]
    node.standing._last.clear()
    node.exchange.offset = EPOCH - 200
    again = world.announce(alive[3], topic(1), b"after")
    assert again.stored >= 8
    assert again.record.body.seq > said
    assert [each.body.value for each in world.lookup(alive[9], topic(1))] == [b"after"]


def test_a_search_that_nobody_waits_for_ends_quietly() -> None:
    world = seeded()
    alive = world.grow(12)
    world.run(WARM)
    node = world.nodes[alive[3]]
    task = node.search(ANNOUNCEMENT, topic(1), world.now)
    node.cancel(task)
    world.run(5)
    assert not [each for each in world.events[alive[3]] if isinstance(each, Complete)]
