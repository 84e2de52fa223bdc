"""How nodes use relays, with relays and sockets played by fakes: what they ask, where they connect, whom they leave."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tetherd.errors import Unavailable, Unreachable
from tetherd.ports import Guest
from tetherd.roles.relayed import AGAIN, SESSIONS, Forwarder, RelayedNode, Via
from tetherd.testing import LoopClock, simulated
from tetherd.types import Seconds
from tetherd.wire.relay import Admission, OpenRelay, Summoned, Summons, Way, preface

TARGET = "7" * 64
TICKET = bytes(32)


class FakeGuest:
    """Implements ports.Guest: goes where ``fate`` says, by the relay's host."""

    place = "127.0.0.1", 50001

    def __init__(self, fate: Callable[[Way], int]) -> None:
        self.fate = fate
        self.ways: list[Way] = []
        self.closed = False

    async def carry(self, way: Way) -> int:
        self.ways.append(way)
        return self.fate(way)

    def close(self) -> None:
        self.closed = True


class FakeTunnels:
    """Implements ports.Tunnels, and ports.Door of the one door it opens."""

    address = "127.0.0.1:50000"

    def __init__(self, fate: Callable[[Way], int] = lambda _: 1) -> None:
        self.fate = fate
        self.connected: list[tuple[str, int]] = []
        self.guests: list[FakeGuest] = []
        self.closed = 0
        self.full = False
        self.receive: Callable[[Guest], Coroutine[Any, Any, None]] | None = None

    async def connect(self, host: str, port: int) -> FakeGuest:
        self.connected.append((host, port))
        self.guests.append(FakeGuest(self.fate))
        return self.guests[-1]

    def listen(self, receive: Callable[[Guest], Coroutine[Any, Any, None]]) -> "FakeTunnels":
        if self.full:
            raise Unavailable("no file is left")
        self.receive = receive
        return self

    def close(self) -> None:
        self.closed += 1

    async def visit(self) -> list[str]:
        """Have a connection come to the door; return the hosts of the relays it was carried to."""
        guest = FakeGuest(self.fate)
        assert self.receive
        await self.receive(guest)
        return [way.host for way in guest.ways]


class FakeRelay:
    """Implements ports.Caller: gives the answers it is handed, one after the other, the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    async def call(self, request: Any, *, deadline: Seconds, request_id: str = "") -> Any:
        assert deadline > LoopClock().monotonic()
        self.asked.append(request)
        await asyncio.sleep(0.01)
        if not self.answers:
            await asyncio.sleep(10**6)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def via(name: str, relay: FakeRelay) -> Via:
    return Via(name * 64, f"{name}.example", relay)


@contextlib.asynccontextmanager
async def waiting(relay: FakeRelay, tunnels: FakeTunnels) -> Any:
    services: Any = {"rpc": ("127.0.0.1", 7443)}
    node, ready = RelayedNode(via("a", relay), services, tunnels=tunnels, clock=LoopClock()), asyncio.Event()
    task = asyncio.create_task(node.run(ready.set))
    yield node, ready
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@simulated
async def test_a_summons_joins_our_listener_with_the_relay() -> None:
    tunnels = FakeTunnels()
    async with waiting(FakeRelay(Summoned(9, []), Summoned(7446, [Summons(TICKET, "rpc")])), tunnels) as (_, ready):
        await ready.wait()
        await asyncio.sleep(1.0)
        assert tunnels.connected == [("127.0.0.1", 7443)]
        (guest,) = tunnels.guests
        assert guest.ways == [Way("a.example", 7446, preface(TICKET))]
        assert guest.closed


@simulated
async def test_it_is_known_which_connections_a_relay_led_here() -> None:
    carried: list[set[tuple[str, int]]] = []
    tunnels = FakeTunnels(lambda _: carried.append(set(node.carried)) or 1)
    async with waiting(FakeRelay(Summoned(7446, [Summons(TICKET, "rpc")])), tunnels) as (node, _):
        await asyncio.sleep(1.0)
        assert carried == [{FakeGuest.place}]
        assert node.carried == set()


@simulated
async def test_a_relay_chooses_among_our_listeners_and_nothing_else() -> None:
    tunnels = FakeTunnels()
    async with waiting(FakeRelay(Summoned(7446, [Summons(TICKET, "bulk")])), tunnels) as (node, _):
        await asyncio.sleep(1.0)
        assert node.reachable
        assert tunnels.connected == []


@simulated
async def test_a_relay_cannot_have_us_open_connections_without_end() -> None:
    stuck = asyncio.Event()
    tunnels = FakeTunnels()

    async def connect(host: str, port: int) -> FakeGuest:
        tunnels.connected.append((host, port))
        await stuck.wait()
        return FakeGuest(lambda _: 1)

    tunnels.connect = connect  # type: ignore[method-assign]
    flood = [Summons(TICKET, "rpc")] * (SESSIONS + 10)
    async with waiting(FakeRelay(Summoned(1, flood), Summoned(1, flood)), tunnels):
        await asyncio.sleep(1.0)
        assert len(tunnels.connected) == SESSIONS


@simulated
async def test_a_relay_that_fails_is_asked_again_and_again() -> None:
    relay = FakeRelay(Summoned(1, []), Unreachable("gone"), Unreachable("gone"), Summoned(1, []))
    async with waiting(relay, FakeTunnels()) as (node, ready):
        await ready.wait()
        assert node.reachable
        await asyncio.sleep(1.5 * AGAIN)
        assert not node.reachable
        await asyncio.sleep(AGAIN)
        assert node.reachable
        assert [request.first for request in relay.asked] == [True, False, True, True, False]


@simulated
async def test_a_failed_connection_ends_nothing_but_itself() -> None:
    def fail(_: Way) -> int:
        raise Unreachable("the relay's port is shut")

    tunnels = FakeTunnels(fail)
    summoned = Summoned(1, [Summons(TICKET, "rpc")])
    async with waiting(FakeRelay(summoned, summoned), tunnels) as (node, _):
        await asyncio.sleep(1.0)
        assert [guest.closed for guest in tunnels.guests] == [True, True]
        assert node.reachable


def admitting() -> FakeRelay:
    return FakeRelay(*[Admission(TICKET, 7446)] * 9)


@simulated
async def test_the_forwarder_gives_one_address_for_one_service_of_a_node() -> None:
    tunnels = FakeTunnels()
    forwarder = Forwarder(tunnels=tunnels, clock=LoopClock())
    relay = admitting()
    assert forwarder.reach(TARGET, [via("a", relay)]) == "127.0.0.1:50000"
    receive = tunnels.receive
    assert forwarder.reach(TARGET, [via("a", relay)]) == "127.0.0.1:50000"
    assert tunnels.receive == receive, "no second door was opened"
    assert forwarder.used(TARGET) == ""
    assert await tunnels.visit() == ["a.example"]
    assert relay.asked == [OpenRelay(TARGET, "rpc")]
    assert forwarder.used(TARGET) == "a" * 64
    forwarder.close()
    assert tunnels.closed == 1
    assert forwarder.used(TARGET) == ""


@simulated
async def test_services_of_a_node_have_doors_of_their_own() -> None:
    tunnels, relay = FakeTunnels(), admitting()
    forwarder = Forwarder(tunnels=tunnels, clock=LoopClock())
    forwarder.reach(TARGET, [via("a", relay)])
    forwarder.reach(TARGET, [via("a", relay)], "bulk")
    await tunnels.visit()
    assert relay.asked == [OpenRelay(TARGET, "bulk")]
    forwarder.keep({TARGET})
    assert tunnels.closed == 0
    forwarder.keep(())
    assert tunnels.closed == 2


@simulated
async def test_a_door_that_could_not_be_opened_is_opened_later() -> None:
    tunnels = FakeTunnels()
    forwarder = Forwarder(tunnels=tunnels, clock=LoopClock())
    tunnels.full = True
    with pytest.raises(Unavailable):
        forwarder.reach(TARGET, [via("a", admitting())])
    tunnels.full = False
    assert forwarder.reach(TARGET, [via("a", admitting())]) == "127.0.0.1:50000"


@pytest.mark.parametrize("how", ["refuses", "is shut", "leads nowhere"])
def test_a_relay_that_brings_nothing_is_left_for_the_next(how: str) -> None:
    def fate(way: Way) -> int:
        if way.host == "a.example" and how == "is shut":
            raise Unreachable("shut")
        return 0 if way.host == "a.example" else 1

    @simulated
    async def run() -> None:
        tunnels = FakeTunnels(fate)
        first = FakeRelay(*[Unavailable("does not wait here")] * 2) if how == "refuses" else admitting()
        forwarder = Forwarder(tunnels=tunnels, clock=LoopClock())
        forwarder.reach(TARGET, [via("a", first), via("b", admitting())])
        visits = [await tunnels.visit(), await tunnels.visit()]
        assert visits[1] == ["b.example"], "the one that failed is asked last from then on"
        assert (
            visits[0]
            == {
                "refuses": ["b.example"],
                "is shut": ["a.example", "b.example"],
                "leads nowhere": ["a.example"],  # what was sent is gone: whoever dialled has to dial again
            }[how]
        )
        assert forwarder.used(TARGET) == "b" * 64

    run()


@simulated
async def test_without_a_relay_that_leads_there_the_door_leads_nowhere() -> None:
    tunnels = FakeTunnels()
    forwarder = Forwarder(tunnels=tunnels, clock=LoopClock())
    forwarder.reach(TARGET, [via("a", FakeRelay(Unavailable("no")))])
    assert await tunnels.visit() == []
    forwarder.reach(TARGET, [via("b", admitting())])
    assert await tunnels.visit() == ["b.example"]
