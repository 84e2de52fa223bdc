"""The worker against a real orchestrator, its runners played by fakes, in simulated time."""

import asyncio
from typing import Any

import pytest

from tetherd.config.schema import Worker as Settings
from tetherd.errors import ModelLoadFailed
from tetherd.policy.placement import Restarts
from tetherd.testing import Cluster, FakeRunner, simulate, simulated
from tetherd.types import Digest, Signature
from tetherd.wire.assignments import Event
from tetherd.wire.catalog import Alias, Catalog, Version
from tetherd.wire.messages import Ensure, Loaded, Release


def settings(**changes: Any) -> Settings:
    return Settings(**{"memory_limit": 1000, "max_concurrency": 64, "spare": False} | changes)


def digest(model: str, number: int = 1) -> Digest:
    return Digest(f"sha256:{model}-{number}")


def catalog(epoch: int, latest: int) -> Catalog:
    numbers = range(1, latest + 1)
    digests = {one: digest("m", one) for one in numbers}
    versions = [Version("m", one, of, of, "onnx", Signature((), ()), 0, 0.0, []) for one, of in digests.items()]
    return Catalog(epoch, versions, [Alias("m", "latest", latest, epoch)])


async def report(cluster: Cluster) -> list[Loaded]:
    await asyncio.sleep(0.01)
    return (await cluster.fleet()).workers[0].runners


def weigh(cluster: Cluster, model: str, size: int) -> None:
    cluster.runners(model)[-1].tell(Event("alive", bytes=size, executed=1))


@simulated
async def test_a_model_is_loaded_by_its_first_request_and_in_as_many_copies_as_configured() -> None:
    async with Cluster(settings=settings(runners=3)) as cluster:
        assert await report(cluster) == []
        await cluster.infer(1)
        runners = await report(cluster)
        assert [(one.runner, one.model, one.state) for one in runners] == [
            (f"w0.{number}", "m", "READY") for number in (1, 2, 3)
        ]
        assert {one.pid for one in runners} == {1000, 1001, 1002}


@simulated
async def test_a_runner_is_told_all_it_needs() -> None:
    async with Cluster(settings=settings(threads=3)) as cluster:
        await cluster.infer(1)
        assignment = cluster.runners()[0].assignment
        assert assignment is not None
        assert (assignment.runner, assignment.worker, assignment.model) == ("w0.1", "w0", "m")
        assert (assignment.version, assignment.threads, assignment.memory_limit) == (digest("m"), 3, 1000)


@simulated
async def test_a_runner_that_dies_is_started_again_slower_each_time_and_then_failed() -> None:
    async with Cluster() as cluster:
        await cluster.infer(1)
        pauses = []
        for death in range(Restarts.LIMIT):
            began = cluster.clock.monotonic()
            cluster.runners()[-1].crash()
            if death == Restarts.LIMIT - 1:
                break
            async with asyncio.timeout(30):
                while len(cluster.runners()) == death + 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            pauses.append(cluster.clock.monotonic() - began)
        assert pauses == pytest.approx([0, 1, 2, 4], abs=0.05)
        failed = (await report(cluster))[0]
        assert failed.state == "FAILED"
        assert "died 5 times within a minute" in failed.reason
        with pytest.raises(ModelLoadFailed, match="died 5 times"):
            await cluster.infer(2)
        await asyncio.sleep(11)
        await cluster.infer(3)


@simulated
async def test_a_load_that_takes_too_long_has_failed_and_its_runner_is_ended() -> None:
    async with Cluster(settings=settings(load_timeout=5.0)) as cluster:
        cluster.launchers[0].fates.append("hang")
        began = cluster.clock.monotonic()
        with pytest.raises(ModelLoadFailed, match="loading took longer than 5 s"):
            await cluster.infer(1)
        assert cluster.clock.monotonic() - began < 6
        assert cluster.runners()[0].stopped == [0]


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ("fail", "the graph makes no sense"),
        ("refuse", "cannot start a runner process"),
        ("dead", "ended before it was assigned"),
    ],
)
def test_a_load_that_fails_says_why(fate: Any, reason: str) -> None:
    async def main() -> None:
        async with Cluster() as cluster:
            cluster.launchers[0].fates.append(fate)
            with pytest.raises(ModelLoadFailed, match=reason):
                await cluster.infer(1)
            assert reason in (await report(cluster))[0].reason
            await cluster.infer(1, model="other")  # it is that model's trouble alone

    simulate(main)


@simulated
async def test_a_runner_that_ends_without_a_word_while_it_loads_is_replaced() -> None:
    async with Cluster() as cluster:
        cluster.launchers[0].fates.append("crash")
        await cluster.infer(1)
        assert [one.state for one in await report(cluster)] == ["READY"]
        assert len(cluster.runners()) == 2


@simulated
async def test_one_that_always_does_is_given_up_and_says_how() -> None:
    async with Cluster() as cluster:
        cluster.launchers[0].fates.extend(["crash"] * 5)
        with pytest.raises(ModelLoadFailed, match="died 5 times within a minute, last: the runner ended while it load"):
            await cluster.infer(1)
        assert "the test ended it" in (await report(cluster))[0].reason


@simulated
async def test_the_least_recently_used_goes_when_memory_is_short() -> None:
    async with Cluster(settings=settings()) as cluster:
        for model in "abc":
            await cluster.infer(1, model=model)
            weigh(cluster, model, 400)
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)
        assert (await cluster.fleet()).workers[0].memory_used == 1200
        await asyncio.sleep(5)
        assert [one.model for one in await report(cluster)] == ["b", "c"]
        assert cluster.runners("a")[0].stopped[0] > 0  # what it executes is delivered first


@simulated
async def test_too_many_runners_make_room_for_new_ones() -> None:
    async with Cluster(settings=settings(max_runners=2)) as cluster:
        for model in "abc":
            await cluster.infer(1, model=model)
            await asyncio.sleep(3)
        assert [one.model for one in await report(cluster)] == ["b", "c"]


@simulated
async def test_the_pinned_stay() -> None:
    async with Cluster(settings=settings()) as cluster:
        await cluster.call(Ensure("a", 1, digest("a")))
        for model in "abc":
            await cluster.infer(1, model=model)
            weigh(cluster, model, 400)
        await asyncio.sleep(10)
        assert [one.model for one in await report(cluster)] == ["a", "c"]


@simulated
async def test_the_idle_go_when_configured_and_the_busy_do_not() -> None:
    async with Cluster(settings=settings(idle_unload=60.0)) as cluster:
        await cluster.infer(1, model="idle")
        await cluster.infer(1, model="busy")
        for _ in range(100):
            await asyncio.sleep(1)
            weigh(cluster, "busy", 1)
        assert [one.model for one in await report(cluster)] == ["busy"]


@simulated
async def test_a_spare_is_kept_used_and_replaced() -> None:
    async with Cluster(settings=settings(spare=True)) as cluster:
        await asyncio.sleep(0.1)
        launcher = cluster.launchers[0]
        assert len(launcher.runners) == 1
        await cluster.infer(1)
        assert cluster.runners() == launcher.runners[:1]
        await asyncio.sleep(1.5)
        assert len(launcher.runners) == 2
    assert launcher.runners[1].stopped == [0]


@simulated
async def test_a_spare_that_died_costs_the_model_nothing() -> None:
    async with Cluster(settings=settings(spare=True)) as cluster:
        await asyncio.sleep(0.1)
        cluster.launchers[0].runners[0].fate = "dead"
        await cluster.infer(1)
        assert cluster.runners() == cluster.launchers[0].runners[1:2]


@simulated
async def test_a_spare_that_cannot_be_started_is_tried_again_later() -> None:
    async with Cluster(workers=0) as cluster:
        cluster.add_worker(settings(spare=True))
        launcher = cluster.launchers[0]
        launcher.fates.append("refuse")
        await asyncio.sleep(1)
        assert launcher.runners == []
        await asyncio.sleep(10)
        assert len(launcher.runners) == 1


@simulated
async def test_what_is_preloaded_waits_for_the_catalog_and_follows_its_alias() -> None:
    async with Cluster(settings=settings(preload=("m", "absent"))) as cluster:
        await asyncio.sleep(1)
        assert await report(cluster) == []
        cluster.manager.publish(catalog(1, latest=1))
        assert [(one.number, one.state) for one in await report(cluster)] == [(1, "READY")]
        cluster.manager.publish(catalog(2, latest=2))
        assert [(one.number, one.state) for one in await report(cluster)] == [(1, "READY"), (2, "READY")]
        pinned = [group.pinned for group in cluster.workers[0]._groups.values()]
        assert pinned == [False, True]  # the old one may go when memory is short


@simulated
async def test_what_is_unloaded_on_purpose_is_not_preloaded() -> None:
    async with Cluster(settings=settings(preload=("m",))) as cluster:
        kept = catalog(1, latest=1)
        kept.unloaded.append("m")
        cluster.manager.publish(kept)
        assert await report(cluster) == []
        cluster.manager.publish(catalog(2, latest=1))
        assert [one.state for one in await report(cluster)] == ["READY"]


@simulated
async def test_unloading_while_it_loads_ends_it() -> None:
    async with Cluster() as cluster:
        launcher = cluster.launchers[0]
        gate = asyncio.Event()
        launch = launcher.launch

        async def slowly() -> FakeRunner:
            await gate.wait()
            return await launch()

        launcher.launch = slowly  # type: ignore[method-assign]
        waiting = asyncio.create_task(cluster.call(Ensure("m", 1, digest("m")), patience=3))
        await asyncio.sleep(0.1)
        releasing = asyncio.create_task(cluster.call(Release("m")))
        await asyncio.sleep(0.1)
        gate.set()
        await releasing
        assert await report(cluster) == []
        assert all(runner.stopped for runner in launcher.runners)
        waiting.cancel()


@simulated
async def test_what_is_asked_for_while_it_is_unloaded_is_loaded_again() -> None:
    async with Cluster() as cluster:
        await cluster.infer(1)
        first = cluster.runners()[0]
        first.gate.clear()
        held = asyncio.create_task(cluster.infer(2))
        await asyncio.sleep(0.01)
        releasing = asyncio.create_task(cluster.call(Release("m", 1, refuse=False)))
        await asyncio.sleep(0.1)
        ensuring = asyncio.create_task(cluster.call(Ensure("m", 1, digest("m"))))
        await asyncio.sleep(0.1)
        assert not ensuring.done()
        first.gate.set()
        assert (await held).outputs
        await asyncio.sleep(0.1)
        assert ensuring.done()
        assert [(one.runner, one.state) for one in await report(cluster)] == [("w0.2", "READY")]
        releasing.cancel()


@simulated
async def test_a_copy_that_failed_does_not_keep_its_version_from_going() -> None:
    async with Cluster(settings=settings(runners=2)) as cluster:
        cluster.launchers[0].fates.append("fail")
        await cluster.infer(1)
        assert sorted(one.state for one in await report(cluster)) == ["FAILED", "READY"]
        await cluster.call(Release("m", 1, refuse=False))
        assert await report(cluster) == []
        await cluster.infer(2)


@simulated
async def test_a_worker_that_stops_lets_its_runners_deliver() -> None:
    async with Cluster(settings=settings(spare=True)) as cluster:
        await cluster.infer(0)
        runner = cluster.runners()[0]
        runner.gate.clear()
        held = asyncio.create_task(cluster.infer(1))
        await asyncio.sleep(2)
        cluster.tasks[0].cancel()
        await asyncio.sleep(0.5)
        assert (await cluster.fleet()).workers[0].stopping
        runner.gate.set()
        reply = await held
        assert reply.attempts == 1
        with pytest.raises(asyncio.CancelledError):
            await cluster.tasks[0]
        assert all(one.stopped for one in cluster.launchers[0].runners)


@simulated
async def test_a_runner_that_does_not_stop_is_ended_in_time() -> None:
    async with Cluster() as cluster:
        await cluster.infer(0)
        cluster.runners()[0].gate.clear()
        held = asyncio.create_task(cluster.infer(1, patience=60))
        await asyncio.sleep(0.1)
        began = cluster.clock.monotonic()
        cluster.tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await cluster.tasks[0]
        assert cluster.clock.monotonic() - began < 7
        held.cancel()


@simulated
async def test_an_orchestrator_that_does_not_answer_is_tried_until_it_does() -> None:
    async with Cluster() as cluster:
        (link,) = cluster.workers[0]._links.values()
        orchestrator = link._orchestrator
        down = cluster.connect()
        down.cut()
        link._orchestrator = down
        await asyncio.sleep(10)
        assert (await cluster.fleet()).workers == []
        link._orchestrator = orchestrator
        await asyncio.sleep(1)
        assert len((await cluster.fleet()).workers) == 1
