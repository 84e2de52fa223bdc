"""What a hostile node with the role of a worker can do to the workers of others: nothing."""

import asyncio

import pytest

from tetherd.errors import PermissionDenied
from tetherd.ports import Context
from tetherd.testing import Bench, simulated
from tetherd.testing.bench import finished, numbers, settle
from tetherd.types import Digest
from tetherd.wire.messages import Done, GetFleet, Loaded, NextCommands, Report, Take

V = Digest("sha256:m-1")
GOOD, EVIL = "a" * 64, "e" * 64


def report(worker: str = "w") -> Report:
    return Report(worker, "host", 1 << 30, 0, 4, [Loaded("r", "m", 1, V, "READY")])


def take(worker: str = "w", runner: str = "r", **more: object) -> Take:
    return Take(runner, worker, "m", 1, V, 64, **more)  # type: ignore[arg-type]


@simulated
async def test_a_node_speaks_for_its_own_workers_only() -> None:
    bench = Bench()
    routes = bench.orchestrator.routes()
    good, evil = Context(60.0, 1, node=GOOD), Context(60.0, 2, node=EVIL)
    assert await routes[Report](report(), good) == Done()
    for kind, message in ((Report, report()), (NextCommands, NextCommands("w")), (Take, take())):
        with pytest.raises(PermissionDenied, match="on another node"):
            await routes[kind](message, evil)
    fleet = await routes[GetFleet](GetFleet(), good)
    assert len(fleet.workers) == 1
    assert await routes[Report](report("w2"), evil) == Done()


@simulated
async def test_a_node_finishes_its_own_batches_only() -> None:
    bench = Bench()
    routes = bench.orchestrator.routes()
    good, evil = Context(60.0, 1, node=GOOD), Context(60.0, 2, node=EVIL)
    await routes[Report](report(), good)
    parked = asyncio.create_task(routes[Take](take(), good))
    await settle()
    reply = bench.infer(7)
    batch = await parked
    await routes[Take](take("x", finished=finished(batch), last=True), evil)
    await settle()
    assert not reply.done()
    await routes[Take](take(finished=finished(batch), last=True), good)
    assert numbers((await reply).outputs) == (7,)


@simulated
async def test_an_offer_that_came_before_its_worker_is_not_given_to_another_nodes() -> None:
    bench = Bench()
    routes = bench.orchestrator.routes()
    evil = asyncio.create_task(routes[Take](take(), Context(60.0, 2, node=EVIL)))
    await settle()
    await routes[Report](report(), Context(60.0, 1, node=GOOD))
    lane = next(iter(bench.orchestrator._desk))
    assert [seat.worker for seat in lane.parked] == [None]
    evil.cancel()
