"""Several orchestrators: each hears everything of a worker, and each may command it."""

import asyncio
from typing import Any

from tetherd.config.schema import Worker as Settings
from tetherd.drivers.rpc.local import NobodyCaller
from tetherd.errors import Unreachable
from tetherd.roles.worker import Place, Worker
from tetherd.testing import FakeEngine, FakeSurroundings, simulate
from tetherd.testing.runners import FakeLauncher, FakeRunner
from tetherd.testing.time import LoopClock
from tetherd.types import Digest
from tetherd.wire.assignments import Site
from tetherd.wire.messages import Batch, Commands, Done, Load, NextCommands, Report, Take

SITES = (Site("a"), Site("b", "node b"))


class Orchestrator:
    """Notes the reports, and commands what the test says."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.commands: asyncio.Queue[Commands] = asyncio.Queue()
        self.away = False

    async def call(self, request: Any, *, deadline: float, request_id: str = "") -> Any:
        if self.away:
            raise Unreachable("it was killed")
        if isinstance(request, Report):
            self.reports.append(request)
            return Done()
        if isinstance(request, NextCommands):
            return await self.commands.get()
        assert isinstance(request, Take)
        await asyncio.Event().wait()
        return Batch(0)

    @property
    def states(self) -> list[tuple[str, str]]:
        return [(one.model, one.state) for one in self.reports[-1].runners]


def load(number: int, model: str) -> Commands:
    return Commands(load=[Load(model, 1, Digest(f"sha256:{model}-1"))], number=number)


def test_a_worker_tells_every_orchestrator_and_obeys_each() -> None:
    async def main() -> None:
        clock, desks = LoopClock(), [Orchestrator(), Orchestrator()]
        launcher = FakeLauncher(lambda pid: FakeRunner(desks[0], lambda: None, FakeEngine(), clock, pid))
        worker = Worker(
            place=Place(worker="w", node="n", cache_dir="", max_message=1),
            settings=Settings(memory_limit=1 << 30, max_concurrency=4, spare=False),
            surroundings=FakeSurroundings(dict(zip(SITES, desks, strict=True))),
            manager=NobodyCaller("manager", "none", "none"),
            launchers={"process": launcher, "thread": launcher},
            clock=clock,
        )
        task = asyncio.create_task(worker.run(lambda: None))
        await asyncio.sleep(0.01)
        desks[0].commands.put_nowait(load(1, "x"))
        await asyncio.sleep(0.01)
        assert [desk.states for desk in desks] == [[("x", "READY")]] * 2
        (runner,) = launcher.runners
        assert runner.assignment is not None
        assert runner.assignment.orchestrators == SITES

        desks[1].commands.put_nowait(load(1, "y"))
        desks[1].commands.put_nowait(load(2, "x"))  # it is there already
        await asyncio.sleep(0.01)
        assert [desk.states for desk in desks] == [[("x", "READY"), ("y", "READY")]] * 2

        desks[0].away = True
        heard = len(desks[1].reports)
        await asyncio.sleep(3)
        assert len(desks[1].reports) >= heard + 2
        desks[0].away = False
        task.cancel()
        await asyncio.wait([task])
        assert [desk.reports[-1].stopping for desk in desks] == [True, True]

    simulate(main)
