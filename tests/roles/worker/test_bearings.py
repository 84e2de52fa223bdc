"""Orchestrators that come, go and move, and sources that move: worker and runners follow, nothing is loaded anew."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from tetherd.config.schema import Worker as Settings
from tetherd.errors import Unreachable
from tetherd.roles.worker import Place, Worker
from tetherd.testing import FakeEngine, FakeSurroundings, simulated
from tetherd.testing.runners import FakeLauncher, FakeRunner
from tetherd.testing.time import LoopClock
from tetherd.types import Digest
from tetherd.wire.assignments import Bearings, Site
from tetherd.wire.chunks import BlobSource, Ways
from tetherd.wire.messages import Batch, Commands, Done, Load, NextCommands, Report, Take
from tetherd.wire.replication import GetHoldings, HolderState, Holdings

VERSION = Digest("sha256:" + "0" * 64)
FIRST, SECOND = Site("tls+tcp://10.0.0.1:7443", "one"), Site("tls+tcp://10.0.0.2:7443", "two")
MOVED = Site("tls+tcp://10.9.9.9:7443", "one")


class Desk:
    """An orchestrator that commands what the test says, and a manager that holds everything."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.commands: asyncio.Queue[Commands] = asyncio.Queue()

    async def call(self, request: Any, *, deadline: float, request_id: str = "") -> Any:
        if isinstance(request, Report):
            self.reports.append(request)
            return Done()
        if isinstance(request, NextCommands):
            return await self.commands.get()
        if isinstance(request, GetHoldings):
            return Holdings(1, [HolderState("m", "m", "10.0.0.7:7445", True, True, [VERSION])])
        if isinstance(request, Take):
            await asyncio.Event().wait()
            return Batch(0)
        raise Unreachable("there is no catalog")


class World:
    """One worker, told to load one model by the first of its orchestrators."""

    def __init__(self) -> None:
        self.desks = {FIRST: Desk(), SECOND: Desk()}
        self.around = FakeSurroundings({FIRST: self.desks[FIRST]})
        clock = LoopClock()
        make: Callable[[int], FakeRunner] = lambda pid: FakeRunner(  # noqa: E731
            self.desks[FIRST], lambda: None, FakeEngine(), clock, pid
        )
        self.launcher = FakeLauncher(make)
        self.worker = Worker(
            place=Place(worker="w", node="n", cache_dir="", max_message=1, node_id="me"),
            settings=Settings(memory_limit=1 << 30, max_concurrency=4, spare=False),
            surroundings=self.around,
            manager=Desk(),
            launchers={"process": self.launcher, "thread": self.launcher},
            clock=clock,
        )

    @contextlib.asynccontextmanager
    async def running(self, fate: Any = "serve") -> AsyncIterator[FakeRunner]:
        self.launcher.fates.append(fate)
        task = asyncio.create_task(self.worker.run(lambda: None))
        self.desks[FIRST].commands.put_nowait(Commands(load=[Load("x", 1, VERSION)], number=1))
        await asyncio.sleep(0.01)
        (runner,) = self.launcher.runners
        yield runner
        assert self.launcher.runners == [runner]  # nothing was loaded anew
        task.cancel()
        await asyncio.wait([task])


@simulated
async def test_an_orchestrator_that_comes_later_is_served() -> None:
    world = World()
    async with world.running() as runner:
        world.around.known[SECOND] = world.desks[SECOND]
        await asyncio.sleep(1.1)
        assert [one.model for one in world.desks[SECOND].reports[-1].runners] == ["x"]
        assert [told.orchestrators for told in runner.told] == [(FIRST, SECOND)]
        await asyncio.sleep(10)
        assert len(runner.told) == 1  # once is enough


@simulated
async def test_an_orchestrator_that_moves_keeps_its_link() -> None:
    world = World()
    async with world.running() as runner:
        world.around.known = {MOVED: world.desks[FIRST]}
        before = len(world.desks[FIRST].reports)
        await asyncio.sleep(1.1)
        assert [told.orchestrators for told in runner.told] == [(MOVED,)]
        assert len(world.desks[FIRST].reports) <= before + 2  # heartbeats, and no second link


@simulated
async def test_an_orchestrator_that_goes_is_left_alone() -> None:
    world = World()
    world.around.known[SECOND] = world.desks[SECOND]
    async with world.running() as runner:
        world.around.known = {SECOND: world.desks[SECOND]}
        await asyncio.sleep(1.1)
        assert [told.orchestrators for told in runner.told] == [(SECOND,)]
        heard = len(world.desks[FIRST].reports)
        world.desks[FIRST].commands.put_nowait(Commands(load=[Load("y", 1, VERSION)], number=2))
        await asyncio.sleep(5)
        assert len(world.desks[FIRST].reports) == heard
        assert world.desks[SECOND].reports


@simulated
async def test_while_it_loads_a_runner_hears_where_its_sources_are() -> None:
    world = World()
    async with world.running("hang") as runner:
        assert runner.assignment
        assert runner.assignment.sources == (BlobSource("m", "10.0.0.7:7445"),)
        assert runner.assignment.ways == {"m": Ways(("10.0.0.7:7445",))}
        world.around.moved["m"] = Ways(("10.0.0.8:7445",), ("127.0.0.1:40001",))
        await asyncio.sleep(1.1)
        assert runner.told == [Bearings((FIRST,), world.around.moved)]


@simulated
async def test_a_runner_that_is_being_assigned_when_the_worker_leaves_is_ended() -> None:
    class Slow(FakeRunner):
        async def assign(self, assignment: Any) -> None:
            await asyncio.Event().wait()

    world = World()
    world.launcher._make = lambda pid: Slow(world.desks[FIRST], lambda: None, FakeEngine(), LoopClock(), pid)
    async with world.running() as runner:
        assert runner.stopped == []
    assert runner.stopped == [0]
