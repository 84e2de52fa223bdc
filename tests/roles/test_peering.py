"""The way to a peer, with a prober that answers by a table and a clock that jumps."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from tetherd.discovery.hints import Drop, Hint
from tetherd.discovery.peers import Live, PeerTable
from tetherd.discovery.racing import Attempt, Missed, Outcome, Reached, Relay, rank
from tetherd.errors import InvalidInput, NodeNotFound, Unavailable, Unreachable
from tetherd.ports import Context
from tetherd.roles.peering import IDENTIFY, Peering
from tetherd.testing.time import LoopClock, simulated
from tetherd.types import Seconds
from tetherd.wire.peering import Ping, Pong
from tetherd.wire.roster import Member, Roster

ME, A, B, STRANGER = "0" * 64, "a" * 64, "b" * 64, "d" * 64
ROSTER = Roster(
    network="0" * 16,
    name="home",
    epoch=1,
    issued=0.0,
    members=(Member(node=A, name="box-a", roles=("orchestrator",)), Member(node=B, name="box-b", roles=("manager",))),
    roots=(),
)


class Prober:
    """Implements ports.Prober: ``there`` says who is at an address."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}
        self.raced: list[tuple[str, list[str]]] = []

    async def race(self, attempts: Sequence[Attempt], node: str = "") -> Outcome:
        self.raced.append((node, [attempt.address for attempt in attempts]))
        await asyncio.sleep(0.01)
        missed, reached = [], []
        for attempt in attempts:
            found = self.there.get(attempt.address, "")
            if found and node in ("", found):
                reached.append(Reached(attempt.address, attempt.path, 0.001, found))
            elif found:
                missed.append(Missed(attempt.address, attempt.path, "certificate", "another key", found))
            else:
                missed.append(Missed(attempt.address, attempt.path, "unreachable", "connection refused"))
        return Outcome(min(reached, key=lambda one: rank(one.path), default=None), tuple(missed))


class Peer:
    """Implements ports.Caller: a peer whose clock is ``skew`` ahead."""

    def __init__(self, skew: Seconds = 0.0, error: Exception | None = None) -> None:
        self._skew = skew
        self._error = error

    async def call(self, request: Any, *, deadline: Seconds, request_id: str = "") -> Any:
        assert isinstance(request, Ping)
        await asyncio.sleep(0.02)
        if self._error:
            raise self._error
        return Pong(LoopClock().wall() - 0.01 + self._skew, "9.9")


class World:
    def __init__(self) -> None:
        self.prober = Prober()
        self.callers: dict[str, Peer] = {}
        self.relays: list[Relay] = []
        self.peering = Peering(
            PeerTable(ME),
            prober=self.prober,
            clock=LoopClock(),
            chance=lambda: 0.5,
            caller=self.callers.get,
            relays=lambda _: self.relays,
        )
        self.peering.follow(ROSTER)
        self.moved: list[Reached] = []
        self.peering.moved = self.moved.append

    def hear(self, node: str, *addresses: str, **rest: Any) -> None:
        self.peering.hear(Hint(source=rest.pop("source", "mdns"), node=node, addresses=addresses, **rest))

    async def running(self, seconds: Seconds) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.peering.run(lambda: None)


@simulated
async def test_the_address_that_shows_the_key_is_chosen_and_proven() -> None:
    world = World()
    world.prober.there = {"10.0.0.2:7443": A, "10.0.0.1:7443": B}
    world.hear(A, "10.0.0.1:7443", "10.0.0.2:7443")
    reached = await world.peering.choose(A)
    assert (reached.address, reached.path) == ("10.0.0.2:7443", "lan")
    peer = world.peering.table.peer(A)
    assert peer is not None
    assert {seen.address: seen.proven for seen in peer.addresses} == {
        "10.0.0.1:7443": False,
        "10.0.0.2:7443": True,
    }
    assert peer.conflict, "somebody said that A is where B is"
    other = world.peering.table.peer(B)
    assert other is not None
    assert other.addresses[0].proven, "and so it was learnt where B is"


@simulated
async def test_who_cannot_be_reached_has_a_reason_for_each_address() -> None:
    world = World()
    with pytest.raises(Unreachable, match="no address of it is known"):
        await world.peering.choose(A)
    world.hear(A, "10.0.0.1:7443")
    with pytest.raises(Unreachable, match=r"box-a: 10\.0\.0\.1:7443: connection refused") as caught:
        await world.peering.choose(A)
    assert "tetherctl ping box-a" in caught.value.fix
    peer = world.peering.table.peer(A)
    assert peer is not None
    assert [drop.reason for drop in peer.drops] == ["unreachable"]


@simulated
async def test_a_relay_is_the_last_way_and_proves_no_address() -> None:
    world = World()
    world.relays = [Relay("r1", "127.0.0.1:40000")]
    world.prober.there = {"127.0.0.1:40000": A}
    world.hear(A, "203.0.113.1:7443", source="dht")
    assert (await world.peering.choose(A)).path == "relay:r1"
    peer = world.peering.table.peer(A)
    assert peer is not None
    assert [seen.address for seen in peer.addresses] == ["203.0.113.1:7443"]


@simulated
async def test_a_relayed_peer_is_asked_for_a_better_path_every_minute() -> None:
    world = World()
    world.hear(A, "203.0.113.1:7443", source="dht")
    world.peering.connected(A, Live("relay:r1", "127.0.0.1:40000", 0.03, LoopClock().monotonic()))
    await world.running(59)
    assert world.prober.raced == []
    await world.running(3)
    assert [node for node, _ in world.prober.raced] == [A]
    assert world.moved == []
    world.prober.there["203.0.113.1:7443"] = A
    await world.running(70)
    assert [one.path for one in world.moved] == ["direct"]
    world.peering.connected(A, Live("direct", world.moved[0].address, 0.01, LoopClock().monotonic()))
    raced = len(world.prober.raced)
    await world.running(300)
    assert len(world.prober.raced) == raced, "a direct path is good enough"


@simulated
async def test_a_peer_that_left_is_not_asked() -> None:
    world = World()
    world.hear(A, "203.0.113.1:7443", source="dht")
    world.peering.connected(A, Live("relay:r1", "127.0.0.1:40000", 0.03, LoopClock().monotonic()))
    world.peering.disconnected(A)
    await world.running(200)
    assert world.prober.raced == []


@simulated
async def test_seeds_are_asked_until_they_say_who_they_are() -> None:
    world = World()
    world.hear("", "10.0.0.9:7443", source="seed", origin="10.0.0.9:7443")
    await world.running(3 * IDENTIFY[0])
    assert len(world.prober.raced) >= 2
    assert world.peering.table.seeds()[0].failure == "connection refused"
    world.prober.there["10.0.0.9:7443"] = A
    await world.running(10)
    assert world.peering.table.seeds() == ()
    peer = world.peering.table.peer(A)
    assert peer is not None
    assert "seed" in peer.sources
    raced = len(world.prober.raced)
    await world.running(200)
    assert len(world.prober.raced) == raced


@simulated
async def test_what_is_out_of_date_is_forgotten() -> None:
    world = World()
    world.hear(A, "10.0.0.1:7443", ttl=100.0)
    await world.running(90)
    assert world.peering.table.candidates(A)
    await world.running(50)
    assert world.peering.table.candidates(A) == []


@simulated
async def test_whoever_waits_for_an_address_is_told() -> None:
    world = World()
    waiting = asyncio.create_task(world.peering.news())
    await asyncio.sleep(1)
    assert not waiting.done()
    world.hear(A, "10.0.0.1:7443")
    await waiting
    again = asyncio.create_task(world.peering.news())
    await asyncio.sleep(1)
    world.hear(A, "10.0.0.1:7443")
    await asyncio.sleep(1)
    assert not again.done(), "it was known before"
    again.cancel()


@simulated
async def test_a_node_is_found_by_name_id_or_its_beginning() -> None:
    peering = World().peering
    assert peering.find("box-a").node == peering.find(A).node == peering.find("aaaa").node == A
    for text in ("aaa", "box", "", "c" * 64):
        with pytest.raises(NodeNotFound):
            peering.find(text)
    peering.hear(Hint(source="mdns", node="a" * 60 + "beef", addresses=("10.0.0.1:7443",)))
    with pytest.raises(InvalidInput, match="2 nodes"):
        peering.find("aaaa")
    assert peering.find(A).name == "box-a"


@simulated
async def test_a_ping_shows_round_trip_clock_version_and_every_address() -> None:
    world = World()
    world.prober.there = {"10.0.0.1:7443": A}
    world.hear(A, "10.0.0.1:7443", "10.0.0.2:7443")
    world.callers[A] = Peer(skew=3.0)
    pinged = await world.peering.ping(world.peering.find(A))
    assert pinged.rtt == pytest.approx(0.02, abs=0.001)
    assert pinged.skew == pytest.approx(3.0, abs=0.001)
    assert pinged.version == "9.9"
    assert pinged.best is not None
    assert pinged.best.address == "10.0.0.1:7443"
    assert [missed.address for missed in pinged.missed] == ["10.0.0.2:7443"]
    world.callers[A] = Peer(error=Unavailable("it stops"))
    assert (await world.peering.ping(world.peering.find(A))).failure == "it stops"
    world.callers.clear()
    alone = await world.peering.ping(world.peering.find(A))
    assert (alone.rtt, alone.skew, alone.failure) == (None, None, "")


@simulated
async def test_a_peer_that_is_forgotten_while_it_is_asked_is_shown_as_it_was() -> None:
    world = World()
    world.hear(STRANGER, "10.0.0.3:7443")
    world.callers[STRANGER] = Peer(skew=3.0)
    stranger = world.peering.find(STRANGER)
    asked = asyncio.create_task(world.peering.ping(stranger))
    await asyncio.sleep(0.001)
    world.peering.vanish("mdns", "", STRANGER)
    assert world.peering.table.peer(STRANGER) is None
    assert (await asked).peer == stranger
    assert (await world.peering.ask(stranger)).skew == pytest.approx(3.0, abs=0.001)


@simulated
async def test_a_ping_is_answered() -> None:
    world = World()
    ((request, handler),) = world.peering.routes().items()
    pong = await handler(request(), Context(0.0))
    assert pong.wall == pytest.approx(LoopClock().wall(), abs=1e-3)
    assert pong.version


@simulated
async def test_what_was_remembered_is_tried_again() -> None:
    world, later = World(), World()
    world.prober.there = later.prober.there = {"10.0.0.1:7443": A}
    world.hear(A, "10.0.0.1:7443", ports={"bulk": 7445})
    await world.peering.choose(A)
    later.peering.recall(world.peering.table.remembered())
    assert (await later.peering.choose(A)).address == "10.0.0.1:7443"


@simulated
async def test_a_conflict_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    World().peering.drop(Drop("conflict", "another host announces the id of this very node"))
    assert "two hosts claim one node id" in caplog.text


@simulated
async def test_a_connection_proves_its_address() -> None:
    world = World()
    world.peering.connected(A, Live("lan", "10.0.0.1:7443", 0.001, LoopClock().monotonic()))
    world.peering.connected(B, Live("relay:r1", "127.0.0.1:40000", 0.001, LoopClock().monotonic()))
    world.peering.disconnected(A)
    assert [str(one.address) for one in world.peering.table.candidates(A)] == ["10.0.0.1:7443"]
    assert world.peering.table.candidates(B) == []
