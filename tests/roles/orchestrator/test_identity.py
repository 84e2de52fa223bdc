"""What a hostile node with the role of a worker can do to the workers of others: nothing."""

import asyncio

import pytest

from tetherd.errors import InvalidInput, PermissionDenied, QueueFull
from tetherd.ports import Context
from tetherd.roles.orchestrator.desk import MAX_LANES
from tetherd.roles.orchestrator.fleet import MAX_NAME, MAX_RUNNERS, MAX_WORKERS
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


@simulated
async def test_a_node_has_no_workers_without_end() -> None:
    bench = Bench()
    routes = bench.orchestrator.routes()
    good, evil = Context(60.0, 1, node=GOOD), Context(60.0, 2, node=EVIL)
    for index in range(MAX_WORKERS):
        await routes[Report](report(f"w{index}"), evil)
    with pytest.raises(QueueFull):
        await routes[Report](report("one more"), evil)
    await routes[Report](report("w0"), evil)
    await routes[Report](report("mine"), good)
    fleet = await routes[GetFleet](GetFleet(), good)
    assert len(fleet.workers) == MAX_WORKERS + 1


@pytest.mark.parametrize(
    "spoilt",
    [
        report("x" * (MAX_NAME + 1)),
        Report("w", "x" * (MAX_NAME + 1), 1, 0, 4),
        Report("w", "h", 1, 0, 4, [Loaded("r" * (MAX_NAME + 1), "m", 1, V, "READY")]),
        Report("w", "h", 1, 0, 4, [Loaded("r", "m", 1, V, "FAILED", "why " * 10_000)]),
        Report("w", "h", 1, 0, 4, [Loaded("r", "m", 1, V, "READY")] * (MAX_RUNNERS + 1)),
    ],
    ids=["its name", "its host", "a runner", "a reason", "runners"],
)
@simulated
async def test_a_report_of_another_host_has_bounds(spoilt: Report) -> None:
    bench = Bench()
    with pytest.raises(InvalidInput):
        await bench.orchestrator.routes()[Report](spoilt, Context(60.0, 2, node=EVIL))
    assert not list(bench.orchestrator._fleet)


@simulated
async def test_made_up_versions_take_no_memory_without_end() -> None:
    bench = Bench()
    routes = bench.orchestrator.routes()
    good, evil = Context(60.0, 1, node=GOOD), Context(60.0, 2, node=EVIL)
    await routes[Report](report(), good)
    parked = asyncio.create_task(routes[Take](take(), good))
    await settle()
    for index in range(MAX_LANES + 50):
        offer = asyncio.create_task(routes[Take](Take("r", "e", "m", 1, Digest(f"sha256:{index}"), 64), evil))
        await settle()
        offer.cancel()
        await asyncio.gather(offer, return_exceptions=True)
    assert len(list(bench.orchestrator._desk)) <= MAX_LANES
    with pytest.raises(InvalidInput):
        await routes[Take](Take("r", "e", "m", 1, Digest("x" * (MAX_NAME + 1)), 64), evil)
    reply = bench.infer(7)
    batch = await parked
    await routes[Take](take(finished=finished(batch), last=True), good)
    assert numbers((await reply).outputs) == (7,), "who really has work keeps its place"
