"""The relay role: who may ask, who is told, what ends a session, with its sockets played by a fake."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from tetherd.errors import Forbidden, PermissionDenied, Unavailable
from tetherd.policy.relaying import Limits
from tetherd.ports import Context
from tetherd.roles.relay import PARK, SWEEP, Relay
from tetherd.testing import LoopClock, simulated
from tetherd.types import Seconds
from tetherd.wire.relay import Admission, AwaitRelay, OpenRelay, Summoned

OWN, DIALER, TARGET, STRANGER = "0" * 64, "d" * 64, "7" * 64, "5" * 64
PORT = 7446


class FakeJunction:
    """Implements ports.Junction without a socket: the test says what moved."""

    port = PORT

    def __init__(self) -> None:
        self.carried: dict[int, int] = {}
        self.cut: list[int] = []
        self.claim: Callable[[bytes], int] = lambda _: 0
        self.ended: Callable[[int, int], None] = lambda *_: None

    async def run(
        self, claim: Callable[[bytes], int], ended: Callable[[int, int], None], ready: Callable[[], None]
    ) -> None:
        self.claim, self.ended = claim, ended
        ready()
        await asyncio.get_running_loop().create_future()

    def moved(self) -> Mapping[int, int]:
        return dict(self.carried)

    def end(self, session: int) -> int:
        self.cut.append(session)
        return self.carried.pop(session, 0)


class World:
    """A relay and the nodes that ask it."""

    def __init__(self, limits: Limits) -> None:
        self.members = {OWN, DIALER, TARGET}
        self.junction = FakeJunction()
        self.relay = Relay(
            node=OWN, member=self.members.__contains__, junction=self.junction, limits=limits, clock=LoopClock()
        )

    def wait(self, node: str = TARGET, patience: Seconds = 60.0) -> asyncio.Task[Summoned]:
        asked = self.relay.routes()[AwaitRelay](AwaitRelay(), context(node, patience))
        return asyncio.create_task(asked)

    async def open(self, node: str = DIALER, target: str = TARGET) -> Admission:
        admission: Admission = await self.relay.routes()[OpenRelay](OpenRelay(target), context(node))
        return admission

    async def joined(self) -> int:
        """Return the id of a session whose ends have both come."""
        waiting = self.wait()
        await asyncio.sleep(0)
        admission = await self.open()
        (summons,) = (await waiting).summons
        session = self.junction.claim(admission.ticket)
        assert self.junction.claim(summons.ticket) == session
        self.junction.carried[session] = 0
        return session


def context(node: str, patience: Seconds = 60.0) -> Context:
    return Context(LoopClock().monotonic() + patience, 1, "", node)


@contextlib.asynccontextmanager
async def world(limits: Limits | None = None) -> AsyncIterator[World]:
    found, ready = World(limits or Limits()), asyncio.Event()
    task = asyncio.create_task(found.relay.run(ready.set))
    await ready.wait()
    yield found
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@simulated
async def test_a_node_that_waits_is_told_at_once_and_both_tickets_are_one_session() -> None:
    async with world() as here:
        waiting = here.wait()
        await asyncio.sleep(1.0)
        began = LoopClock().monotonic()
        admission = await here.open()
        summoned = await waiting
        assert LoopClock().monotonic() - began < 0.01
        assert (admission.port, summoned.port) == (PORT, PORT)
        (summons,) = summoned.summons
        assert summons.ticket != admission.ticket
        assert here.junction.claim(admission.ticket) == here.junction.claim(summons.ticket)


@simulated
async def test_nobody_wants_a_node_is_an_answer_too() -> None:
    async with world() as here:
        began = LoopClock().monotonic()
        assert await here.wait() == Summoned(PORT, [])
        assert LoopClock().monotonic() - began == pytest.approx(PARK, abs=0.01)
        began = LoopClock().monotonic()
        assert await here.wait(patience=1.0) == Summoned(PORT, [])
        assert LoopClock().monotonic() - began == pytest.approx(1.0, abs=0.01)


@simulated
async def test_a_node_that_asks_first_is_answered_at_once_and_reachable() -> None:
    async with world() as here:
        began = LoopClock().monotonic()
        assert await here.relay.routes()[AwaitRelay](AwaitRelay(first=True), context(TARGET)) == Summoned(PORT, [])
        assert LoopClock().monotonic() - began < 0.01
        await here.open()


@simulated
async def test_a_session_that_is_opened_between_two_waits_is_told_to_the_next() -> None:
    async with world() as here:
        await here.wait()
        await here.open()
        assert len((await here.wait()).summons) == 1


@simulated
async def test_a_node_that_does_not_wait_is_not_led_to() -> None:
    async with world() as here:
        with pytest.raises(Unavailable):
            await here.open()
        waiting = here.wait()
        await asyncio.sleep(1.0)
        waiting.cancel()  # as the server does when the connection breaks
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await here.open()


@simulated
async def test_only_members_ask_and_only_members_are_led_to() -> None:
    async with world() as here:
        with pytest.raises(PermissionDenied):
            await here.wait(STRANGER)
        with pytest.raises(PermissionDenied):
            await here.open(STRANGER)
        with pytest.raises(PermissionDenied):
            await here.open(target=STRANGER)
        with pytest.raises(PermissionDenied):
            await here.open(target="10.0.0.1:22")


@simulated
async def test_the_relays_own_host_may_use_it() -> None:
    async with world() as here:
        here.wait()
        await asyncio.sleep(0)
        await here.open(node="")
        here.members.discard(OWN)
        with pytest.raises(PermissionDenied):
            await here.open(node="")


@pytest.mark.parametrize("revoked", [DIALER, TARGET])
def test_revocation_cuts_what_is_under_way(revoked: str) -> None:
    @simulated
    async def run() -> None:
        async with world() as here:
            session = await here.joined()
            here.members.discard(revoked)
            await asyncio.sleep(SWEEP + 0.01)
            assert here.junction.cut == [session]

    run()


@simulated
async def test_quota_and_idleness_cut_and_movement_keeps() -> None:
    async with world(Limits(session_bytes=100, idle=10.0)) as here:
        idle, busy, greedy = [await here.joined() for _ in range(3)]
        for turn in range(1, 10):
            here.junction.carried |= {busy: turn, greedy: turn * 20}
            await asyncio.sleep(SWEEP)
        assert here.junction.cut == [greedy]
        here.junction.carried[busy] = 50
        await asyncio.sleep(2 * SWEEP)
        assert here.junction.cut == [greedy, idle]


@simulated
async def test_one_end_that_never_comes_ends_the_session() -> None:
    async with world() as here:
        waiting = here.wait()
        await asyncio.sleep(0)
        admission = await here.open()
        await waiting
        here.junction.claim(admission.ticket)
        await asyncio.sleep(Limits().ticket + 2 * SWEEP)
        assert here.junction.cut == [1]


def test_a_session_that_ended_frees_its_place_and_is_accounted_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @simulated
    async def run() -> None:
        async with world(Limits(sessions=1)) as here:
            session = await here.joined()
            here.wait()
            with pytest.raises(Unavailable):
                await here.open()
            here.junction.carried.pop(session)
            here.junction.ended(session, 77)
            with pytest.raises(Forbidden):
                here.junction.claim(bytes(32))
            await here.open()

    run()
    (line,) = [record.__dict__ for record in caplog.records if record.message == "a session ended"]
    assert (line["dialer"], line["target"], line["bytes"], line["service"]) == (DIALER, TARGET, 77, "rpc")
