import asyncio
import os
import threading
from typing import Any

import pytest

from tetherd.drivers.rpc.local import LocalCaller
from tetherd.errors import ModelLoadFailed
from tetherd.ports import Engine
from tetherd.roles.serving import SLOTS
from tetherd.roles.worker.inline import InlineLauncher
from tetherd.testing import Cluster, FakeEngine, request, simulate
from tetherd.types import Digest
from tetherd.wire.assignments import Assignment, Bearings, Event, Site
from tetherd.wire.chunks import BlobSource, Ways

ASSIGNMENT = Assignment("r", "w9", "m", 1, Digest("sha256:m-1"), (Site("o"),), "c", "d", 1, 0, 0)


def launcher(cluster: Cluster, engine: Engine | Exception) -> InlineLauncher:
    def load(_: Assignment, __: Any) -> Engine:
        if isinstance(engine, Exception):
            raise engine
        return engine

    return InlineLauncher(load, lambda _: LocalCaller(cluster.orchestrator.routes()), cluster.clock)


def test_it_serves_without_a_process() -> None:
    async def main() -> None:
        async with Cluster(workers=0) as cluster:
            runner = await launcher(cluster, FakeEngine()).launch()
            await runner.assign(ASSIGNMENT)
            assert await runner.event() == Event("loaded")
            assert runner.pid == os.getpid()
            assert (await cluster.call(request(5))).runner == "r"
            assert await runner.event() == Event("alive", executed=1)
            await runner.stop(5)
            assert await runner.event() is None
            state = await cluster.fleet()
            assert (state.queues[0].parked, state.queues[0].leased) == (0, 0)

    simulate(main)


@pytest.mark.parametrize("patience", [0, 5])
def test_its_engine_is_closed_when_it_ends(patience: int) -> None:
    async def main() -> None:
        async with Cluster(workers=0) as cluster:
            engine = FakeEngine()
            runner = await launcher(cluster, engine).launch()
            await runner.assign(ASSIGNMENT)
            assert await runner.event() == Event("loaded")
            assert not engine.closed
            await runner.stop(patience)
            assert engine.closed

    simulate(main)


@pytest.mark.parametrize("patience", [0, 5])
def test_it_can_be_ended_before_and_while_it_serves(patience: int) -> None:
    async def main() -> None:
        async with Cluster(workers=0) as cluster:
            idle = await launcher(cluster, FakeEngine()).launch()
            await idle.stop(patience)
            runner = await launcher(cluster, FakeEngine()).launch()
            await runner.assign(ASSIGNMENT)
            await runner.stop(patience)
            await runner.stop(patience)

    simulate(main)


def test_a_load_that_fails_is_told() -> None:
    async def main() -> None:
        async with Cluster(workers=0) as cluster:
            runner = await launcher(cluster, ModelLoadFailed("no such operator")).launch()
            await runner.assign(ASSIGNMENT)
            assert await runner.event() == Event("failed", reason="no such operator")
            assert await runner.event() is None
            await runner.stop(0)

    simulate(main)


def test_it_survives_its_worker_being_taken_for_dead() -> None:
    async def main() -> None:
        async with Cluster(workers=1) as cluster:
            runner = await launcher(cluster, FakeEngine()).launch()
            await runner.assign(Assignment("r", "w0", "m", 1, Digest("sha256:m-1"), (Site("o"),), "c", "d", 1, 0, 0))
            await asyncio.sleep(0.1)
            cluster.tasks[0].cancel()
            cluster.connections[0].cut()
            await asyncio.sleep(1)
            assert (await cluster.call(request(5))).runner == "r"
            await runner.stop(1)

    simulate(main)


def test_it_follows_its_orchestrators() -> None:
    async def main() -> None:
        async with Cluster(workers=0) as cluster, Cluster(workers=0) as other:
            known = {"o": cluster, "p": other}
            engine = FakeEngine()
            launcher = InlineLauncher(
                lambda *_: engine, lambda site: LocalCaller(known[site.address].orchestrator.routes()), cluster.clock
            )
            runner = await launcher.launch()
            await runner.assign(ASSIGNMENT)
            assert await runner.event() == Event("loaded")
            assert (await cluster.call(request(5))).runner == "r"
            await runner.follow(Bearings((Site("o"), Site("p"))))
            assert (await other.call(request(6))).runner == "r"
            assert (await cluster.call(request(7))).runner == "r"
            await runner.follow(Bearings((Site("p"),)))
            await asyncio.sleep(0.1)
            assert [(await one.fleet()).queues[0].parked for one in (cluster, other)] == [0, SLOTS]
            await runner.stop(5)
            assert (await other.fleet()).queues[0].parked == 0
            assert engine.closed

    simulate(main)


def test_while_it_loads_it_hears_where_its_sources_are() -> None:
    async def main() -> None:
        async with Cluster(workers=0) as cluster:
            going, found = threading.Event(), []

            def load(_: Assignment, ways: Any) -> Engine:
                found.append(ways(BlobSource("n", "a:1")))
                assert going.wait(10)
                found.append(ways(BlobSource("n", "a:1")))
                return FakeEngine()

            launcher = InlineLauncher(load, lambda _: LocalCaller(cluster.orchestrator.routes()), cluster.clock)
            runner = await launcher.launch()
            await runner.assign(ASSIGNMENT)
            while not found:  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.001)
            await runner.follow(Bearings((Site("o"),), {"n": Ways(("b:2",))}))
            going.set()
            assert await runner.event() == Event("loaded")
            assert found == [Ways(), Ways(("b:2",))], "what its worker says nothing of, it does not dial"
            await runner.stop(0)

    asyncio.run(main())
