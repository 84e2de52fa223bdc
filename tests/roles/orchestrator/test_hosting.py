"""Where versions are loaded, and what those who asked for them hear of it."""

import asyncio
from typing import Any

import pytest

from tetherd.config.schema import ModelSettings
from tetherd.config.schema import Worker as Settings
from tetherd.errors import (
    DeadlineExceeded,
    ModelLoadFailed,
    ModelUnloaded,
    Unavailable,
)
from tetherd.ports import Context
from tetherd.testing import Bench, Cluster, request, simulated
from tetherd.testing.bench import finished, numbers, settle
from tetherd.types import Digest
from tetherd.wire.messages import Ensure, Loaded, NextCommands, Release, Report, Take

V = Digest("sha256:m-1")


def settings(**changes: Any) -> Settings:
    return Settings(**{"memory_limit": 1 << 30, "max_concurrency": 64, "spare": False} | changes)


# --- workers ---------------------------------------------------------------------------------------------------------


@simulated
async def test_without_a_worker_a_request_waits_three_seconds_and_the_next_ones_do_not() -> None:
    bench = Bench()
    began = bench.clock.monotonic()
    with pytest.raises(Unavailable, match="no worker"):
        await bench.infer(1)
    assert 3.0 <= bench.clock.monotonic() - began < 3.5
    began = bench.clock.monotonic()
    with pytest.raises(Unavailable, match="no worker"):
        await bench.infer(2)
    assert bench.clock.monotonic() - began < 0.2


@simulated
async def test_a_worker_that_comes_in_time_serves_what_waits() -> None:
    async with Cluster(workers=0) as cluster:
        reply = asyncio.create_task(cluster.infer(1))
        await asyncio.sleep(2.0)
        cluster.add_worker()
        assert numbers((await reply).outputs) == (1,)


@simulated
async def test_a_worker_that_comes_too_late_loads_nothing_for_it() -> None:
    async with Cluster(workers=0) as cluster:
        with pytest.raises(Unavailable):
            await cluster.infer(1)
        cluster.add_worker()
        await asyncio.sleep(5)
        assert not cluster.runners()


@simulated
async def test_a_silent_worker_is_buried_and_its_runners_offer_again() -> None:
    bench = Bench()
    line = bench.connect()
    await bench.report(line)
    offer = bench.take(line)
    await asyncio.sleep(6.5)
    assert (await offer).id == 0
    state = await bench.state()
    assert state.workers == []


@simulated
async def test_the_work_of_a_silent_worker_is_done_by_another() -> None:
    bench = Bench()
    silent, other = bench.connect(), bench.connect()
    await bench.report(silent, "silent")
    reply = bench.infer(1)
    await bench.take(silent, worker="silent")
    began = bench.clock.monotonic()
    batch = await bench.take(other, "b", worker="other")
    assert bench.clock.monotonic() - began < 7
    bench.take(other, "b", worker="other", finished=finished(batch))
    assert numbers((await reply).outputs) == (1,)


@simulated
async def test_a_parked_take_is_answered_with_nothing_before_its_time_is_up() -> None:
    bench = Bench()
    began = bench.clock.monotonic()
    assert (await bench.take(bench.connect())).id == 0
    assert bench.clock.monotonic() - began < 60


@simulated
async def test_commands_are_for_workers_that_reported() -> None:
    bench = Bench()
    with pytest.raises(Unavailable, match="report first"):
        await bench.connect().call(NextCommands("w"), deadline=bench.clock.monotonic() + 5)


# --- loading ---------------------------------------------------------------------------------------------------------


@simulated
async def test_a_failed_load_is_told_to_who_waits_and_tried_again_after_ten_seconds() -> None:
    async with Cluster() as cluster:
        cluster.launchers[0].fates.append("fail")
        with pytest.raises(ModelLoadFailed, match="the graph makes no sense"):
            await cluster.infer(1)
        with pytest.raises(ModelLoadFailed) as refused:
            await cluster.infer(1)
        assert refused.value.retry_after
        assert len(cluster.launchers[0].runners) == 1
        await asyncio.sleep(10.5)
        assert numbers((await cluster.infer(2)).outputs) == (2,)


@simulated
async def test_ensure_loads_pins_and_answers_when_it_is_ready() -> None:
    async with Cluster() as cluster:
        await cluster.call(Ensure("m", 1, V))
        assert (await cluster.fleet()).workers[0].runners[0].state == "READY"
        assert [group.pinned for group in cluster.workers[0]._groups.values()] == [True]


@simulated
async def test_ensure_pins_what_was_loaded_by_a_request() -> None:
    async with Cluster() as cluster:
        await cluster.infer(1)
        await cluster.call(Ensure("m", 1, V))
        await asyncio.sleep(0.1)
        assert [group.pinned for group in cluster.workers[0]._groups.values()] == [True]
        assert len(cluster.runners()) == 1


@simulated
async def test_ensure_tries_what_failed_again_and_hears_of_this_try_alone() -> None:
    async with Cluster() as cluster:
        cluster.launchers[0].fates.append("fail")
        with pytest.raises(ModelLoadFailed):
            await cluster.call(Ensure("m", 1, V))
        await cluster.call(Ensure("m", 1, V))
        assert len(cluster.runners()) == 2


@simulated
async def test_an_old_report_of_failure_does_not_end_a_new_try() -> None:
    bench = Bench()
    line = bench.connect()
    old = Loaded("w.1", "m", 1, V, "FAILED", "old")
    await bench.report(line, runners=[old])
    ensuring = asyncio.ensure_future(
        bench.orchestrator.routes()[Ensure](Ensure("m", 1, V), Context(bench.clock.monotonic() + 20))
    )
    await settle()
    await bench.report(line, runners=[old])
    assert not ensuring.done()
    commands = await line.call(NextCommands("w"), deadline=bench.clock.monotonic() + 5)
    assert [load.fresh for load in commands.load] == [True]
    await bench.report(line, runners=[old])
    assert not ensuring.done()
    received = NextCommands("w", commands.number)
    asked = asyncio.ensure_future(line.call(received, deadline=bench.clock.monotonic() + 5))
    await settle()
    await bench.report(line, runners=[Loaded("w.2", "m", 1, V, "FAILED", "new")])
    with pytest.raises(ModelLoadFailed, match="new"):
        await ensuring
    asked.cancel()


@simulated
async def test_ensure_without_a_worker_says_so_at_once() -> None:
    async with Cluster(workers=0) as cluster:
        with pytest.raises(Unavailable, match="no worker"):
            await cluster.call(Ensure("m", 1, V))


@simulated
async def test_ensure_goes_to_another_worker_when_the_first_is_lost() -> None:
    async with Cluster(workers=2) as cluster:
        for launcher in cluster.launchers:
            launcher.fates.append("hang")
        ensuring = asyncio.create_task(cluster.call(Ensure("m", 1, V)))
        await asyncio.sleep(0.1)
        number = next(index for index, one in enumerate(cluster.launchers) if one.runners)
        other = cluster.launchers[1 - number]
        other.fates.clear()
        cluster.tasks[number].cancel()
        cluster.connections[number].cut()
        await ensuring
        assert len(other.runners) == 1


@simulated
async def test_ensure_that_takes_too_long_says_so() -> None:
    async with Cluster() as cluster:
        cluster.launchers[0].fates.append("hang")
        with pytest.raises(DeadlineExceeded, match="still loading"):
            await cluster.call(Ensure("m", 1, V), patience=2.0)


@simulated
async def test_release_unloads_and_refuses_until_ensure() -> None:
    async with Cluster() as cluster:
        await cluster.infer(1)
        await cluster.call(Release("m"))
        assert (await cluster.fleet()).workers[0].runners == []
        with pytest.raises(ModelUnloaded, match="was unloaded"):
            await cluster.infer(2)
        await cluster.call(Ensure("m", 1, V))
        assert numbers((await cluster.infer(3)).outputs) == (3,)


@simulated
async def test_a_runner_that_offers_is_ready_whatever_its_worker_said_last() -> None:
    async with Cluster() as cluster:
        worker = cluster.workers[0]._place.worker
        loading = Loaded("r", "m", 1, Digest("sha256:m-1"), "LOADING")
        await cluster.call(Report("other", "n", 1, 0, 1, [loading]))
        take = Take("r", "other", "m", 1, Digest("sha256:m-1"), 8)
        offer = asyncio.create_task(cluster.call(take))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (other,) = [one for one in (await cluster.fleet()).workers if one.worker != worker]
        assert other.runners[0].state == "READY"
        offer.cancel()


@simulated
async def test_release_without_refusal_lets_the_next_request_load_again() -> None:
    async with Cluster() as cluster:
        await cluster.infer(1)
        await cluster.call(Release("m", 1, refuse=False))
        assert (await cluster.fleet()).queues == []  # what is removed leaves nothing behind
        assert numbers((await cluster.infer(2)).outputs) == (2,)
        assert len(cluster.runners()) == 2


@simulated
async def test_a_removed_model_may_come_back_under_its_name() -> None:
    async with Cluster() as cluster:
        await cluster.call(Release("m"))
        await cluster.call(Release("m", refuse=False))
        assert numbers((await cluster.infer(2)).outputs) == (2,)


@simulated
async def test_release_of_one_version_leaves_the_others() -> None:
    async with Cluster() as cluster:
        await cluster.call(request(1))
        await cluster.call(request(1, number=2))
        await cluster.call(Release("m", 2, refuse=False))
        assert [one.number for one in (await cluster.fleet()).workers[0].runners] == [1]


@simulated
async def test_release_does_not_load_again_for_work_that_it_took_away() -> None:
    async with Cluster() as cluster:
        await cluster.infer(0)
        cluster.runners()[0].gate.clear()
        held = asyncio.create_task(cluster.infer(1))
        await asyncio.sleep(0.01)
        await cluster.call(Release("m"))
        with pytest.raises(ModelUnloaded):
            await held
        await asyncio.sleep(5)
        assert len(cluster.runners()) == 1


@simulated
async def test_isolated_models_are_hosted_as_configured() -> None:
    own = settings(models={"m": ModelSettings(isolation="thread", runners=2)})
    async with Cluster(settings=own) as cluster:
        await cluster.infer(1)
        await asyncio.sleep(0.1)
        runners = (await cluster.fleet()).workers[0].runners
        assert [(one.isolation, one.state) for one in runners] == [("thread", "READY")] * 2


@simulated
async def test_what_was_unloaded_here_takes_work_again_once_another_orchestrator_has_it_loaded() -> None:
    bench = Bench()
    line = bench.connect()
    ready = Loaded("r", "m", 1, V, "READY")
    await bench.report(line, runners=[ready])
    releasing = asyncio.create_task(line.call(Release("m"), deadline=bench.clock.monotonic() + 5))
    await bench.report(line, runners=[ready])  # it goes, but is not gone yet
    with pytest.raises(ModelUnloaded):
        await bench.infer(1)
    await bench.report(line, runners=[])
    await releasing
    with pytest.raises(ModelUnloaded):
        await bench.infer(1)
    await bench.report(line, runners=[Loaded("r2", "m", 1, V, "LOADING")])
    taken, asked = bench.take(line, "r2"), bench.infer(1)
    batch = await taken
    bench.take(line, "r2", finished=finished(batch))
    assert numbers((await asked).outputs) == (1,)
