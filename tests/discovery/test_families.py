"""Networks of hosts with IPv4, IPv6 and both, simulated: each is found by whoever reaches an address of it."""

import random
from hashlib import sha256

from world import World, rules

from tetherd.discovery.contacts import Address, is_six, unpack
from tetherd.discovery.exchange import Conflict
from tetherd.discovery.table import CLOSEST, KEPT
from tetherd.wire.datagrams import SPEAKS4, SPEAKS6


def seeded() -> World:
    seed = random.SystemRandom().getrandbits(32)
    print(f"the seed of this world is {seed}")
    return World(seed)


def topic(index: int) -> bytes:
    return sha256(b"topic %d" % index).digest()


BOTH = SPEAKS4 | SPEAKS6


def of_both(world: World, count: int) -> list[Address]:
    """Grow a network of nodes of both families, each of which was told all addresses of the first."""
    born = [world.add((), rules(speaks=BOTH))]
    seeds = [born[0], world.six(born[0])]
    while len(born) < count:
        world.run(0.02)
        born.append(world.add(seeds, rules(speaks=BOTH)))
    return born


def test_a_node_of_ipv6_alone_is_found_by_nodes_of_both_families() -> None:
    world = seeded()
    both = of_both(world, 30)
    old = [world.add(both[:1], rules(speaks=SPEAKS4)) for _ in range(10)]
    for node in both:  # as the daemon does with what the roster and multicast say of everybody
        for other in both:
            world.nodes[node].upkeep.seed(world.six(other))
    lone = world.add([world.six(both[0])], rules(speaks=SPEAKS6))
    world.run(20)
    assert world.announce(lone, topic(0), b"only six").stored >= CLOSEST - 1
    for node in both:
        assert [each.body.value for each in world.lookup(node, topic(0))] == [b"only six"]
    assert world.announce(both[7], topic(1), b"both").stored >= CLOSEST
    assert [each.body.value for each in world.lookup(lone, topic(1))] == [b"both"]
    assert [each.body.value for each in world.lookup(old[3], topic(1))] == [b"both"]


def test_a_host_of_both_families_is_no_conflict_and_serves_both() -> None:
    world = seeded()
    one, two = of_both(world, 2)
    world.nodes[two].upkeep.seed(world.six(one))
    world.run(5)
    assert not any(isinstance(event, Conflict) for events in world.events.values() for event in events)
    (peer,) = world.nodes[two].exchange.table
    assert {peer.address, unpack(peer.also).address} == {one, world.six(one)}
    assert unpack(peer.shown(SPEAKS6, world.now)).address == world.six(one)
    assert unpack(peer.shown(SPEAKS4, world.now)).address == one
    assert unpack(peer.shown(BOTH, world.now)).address == peer.address
    late, other = world.now + KEPT + 10, SPEAKS4 if is_six(peer.address) else SPEAKS6
    assert peer.shown(other, late) == b"", "what nobody saw for long is told to nobody"


def test_addresses_that_the_asker_does_not_reach_crowd_out_none_that_it_does() -> None:
    world = seeded()
    both = of_both(world, 6)
    for _ in range(40):
        world.add([world.six(both[0])], rules(speaks=SPEAKS6))
    world.run(5)
    four = world.add(both[:1], rules(speaks=SPEAKS4))
    world.run(5)
    assert {peer.address for peer in world.nodes[four].exchange.table} == set(both)
