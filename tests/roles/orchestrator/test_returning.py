"""Runners and workers of another host whose connections end, or end without a word, and who come back."""

import asyncio
from typing import Any

import pytest

from tetherd.config.schema import Worker as Settings
from tetherd.errors import RunnerLost, TetherError, Unavailable
from tetherd.roles.orchestrator import Limits
from tetherd.testing import Bench, Cluster, simulate, simulated
from tetherd.testing.bench import finished, numbers, settle
from tetherd.types import Digest
from tetherd.wire.messages import Loaded, NextCommands, Recycle, Release

V = Digest("sha256:m-1")
HOST = "node-1"


def loaded(runner: str, state: Any = "READY") -> Loaded:
    return Loaded(runner, "m", 1, V, state)


# --- batches on connections that end ---------------------------------------------------------------------------------


@simulated
async def test_a_runner_of_another_host_comes_back_with_its_result() -> None:
    bench = Bench()
    reply = bench.infer(1)
    await settle()
    line = bench.connect(HOST)
    batch = await bench.take(line)
    line.cut()
    await asyncio.sleep(1)
    other = bench.take(bench.connect(HOST), "other")
    bench.take(bench.connect(HOST), finished=finished(batch))
    assert ((await reply).runner, (await reply).attempts) == ("r", 1)
    assert not other.done()


@simulated
async def test_a_runner_that_comes_back_keeps_what_it_executes() -> None:
    bench = Bench()
    reply = bench.infer(1)
    await settle()
    line, again = bench.connect(HOST), bench.connect(HOST)
    batch = await bench.take(line)
    line.cut()
    bench.take(again, held=[batch.id])
    await asyncio.sleep(10)
    assert not reply.done()
    bench.take(again, finished=finished(batch))
    assert (await reply).attempts == 1


@simulated
async def test_what_never_reached_its_runner_is_no_attempt() -> None:
    bench = Bench()
    reply = bench.infer(1)
    await settle()
    for _ in range(5):
        line = bench.connect(HOST)
        batch = await bench.take(line)
        line.cut()
    bench.take(bench.connect(HOST), finished=finished(batch))
    assert (await reply).attempts == 1


@simulated
async def test_what_never_reaches_any_runner_is_refused_in_the_end() -> None:
    bench = Bench()
    reply = bench.infer(1)
    await settle()
    handed = 0
    while not reply.done():
        line = bench.connect(HOST)
        offer = bench.take(line)
        await settle()
        handed += offer.done()
        line.cut()
        await settle()
        if handed > 13:
            break
        bench.take(bench.connect(HOST)).cancel()
    with pytest.raises(RunnerLost):
        await reply


@simulated
async def test_a_new_connection_is_the_end_of_one_that_died_without_a_word() -> None:
    bench = Bench()
    reply = bench.infer(1)
    await settle()
    silent = bench.connect(HOST)
    batch = await bench.take(silent)
    ghost = bench.take(silent)
    await settle()
    again = await bench.take(bench.connect(HOST))
    assert again.id != batch.id
    assert (await ghost).id == 0
    bench.take(bench.connect(HOST), finished=finished(again))
    assert (await reply).attempts == 1


@simulated
async def test_nobody_takes_away_what_a_runner_of_another_host_holds() -> None:
    bench = Bench()
    bench.infer(1)
    await settle()
    await bench.take(bench.connect(HOST))
    thief = bench.take(bench.connect("node-2"))
    await settle()
    assert not thief.done()


@simulated
async def test_a_runner_that_does_not_come_back_is_waited_for_three_seconds() -> None:
    bench = Bench()
    reply = bench.infer(1)
    await settle()
    line = bench.connect(HOST)
    await bench.take(line)
    line.cut()
    began = bench.clock.monotonic()
    batch = await bench.take(bench.connect(HOST), "other")
    assert 3 <= bench.clock.monotonic() - began < 3.2
    bench.take(bench.connect(HOST), "other", finished=finished(batch))
    assert (await reply).attempts == 2


@pytest.mark.parametrize("reported_first", [True, False])
def test_a_runner_that_its_worker_says_is_gone_is_not_waited_for(reported_first: bool) -> None:
    async def main() -> None:
        bench = Bench()
        worker, line = bench.connect(HOST), bench.connect(HOST)
        await bench.report(worker, runners=[loaded("r")])
        bench.infer(1)
        await settle()
        await bench.take(line)
        began = bench.clock.monotonic()
        if not reported_first:
            line.cut()
        await bench.report(worker, runners=[loaded("r2")])
        line.cut()
        assert numbers((await bench.take(bench.connect(HOST), "other")).inputs) == (1,)
        assert bench.clock.monotonic() - began < 0.1

    simulate(main)


# --- leases that run out ---------------------------------------------------------------------------------------------


@simulated
async def test_when_a_lease_runs_out_the_offers_of_its_host_are_withdrawn() -> None:
    bench = Bench(Limits(execution=1.0))
    silent = [bench.connect(HOST) for _ in range(4)]
    ghosts = [bench.take(line, f"r{number}") for number, line in enumerate(silent)]
    await settle()
    reply = bench.infer(1, patience=60)
    await asyncio.sleep(2.5)
    assert [ghost.result().id > 0 for ghost in ghosts].count(True) == 1
    batch = await bench.take(bench.connect("node-2"), "living")
    bench.take(bench.connect("node-2"), "living", finished=finished(batch))
    assert (await reply).attempts == 2


@simulated
async def test_a_runner_that_hangs_is_handed_nothing_more() -> None:
    bench = Bench(Limits(execution=1.0))
    reply = bench.infer(1, patience=60)
    await settle()
    one, other = bench.connect(), bench.connect()
    hung = await bench.take(one)
    second = bench.take(other)
    assert (await second).id == 0
    second = bench.take(other, held=[hung.id])
    await asyncio.sleep(1)
    assert not second.done()
    bench.take(one, finished=finished(hung))  # late, but it did not hang
    await settle()
    batch = second.result()
    bench.take(other, finished=finished(batch))
    assert (await reply).attempts == 2


# --- commands --------------------------------------------------------------------------------------------------------


@simulated
async def test_commands_answered_into_the_void_come_again() -> None:
    bench = Bench()
    line = bench.connect(HOST)
    await bench.report(line, runners=[loaded("r")])
    soon = bench.clock.monotonic() + 3
    into_the_void = asyncio.create_task(line.call(NextCommands("w"), deadline=soon))
    bench.take(bench.connect(HOST))
    await settle()
    releasing = asyncio.create_task(line.call(Release("m", 1, refuse=False), deadline=soon))
    lost = await into_the_void
    assert [unload.version for unload in lost.unload] == [V]
    assert await line.call(NextCommands("w"), deadline=soon) == lost
    assert (await line.call(NextCommands("w", lost.number), deadline=soon)).number == 0
    releasing.cancel()


@simulated
async def test_a_command_for_a_runner_that_was_replaced_ends_nothing() -> None:
    async with Cluster() as cluster:
        await cluster.infer(1)
        worker = cluster.workers[0]
        (old,) = (await cluster.fleet()).workers[0].runners
        cluster.runners()[0].crash()
        await asyncio.sleep(0.1)
        (new,) = (await cluster.fleet()).workers[0].runners
        assert new.runner != old.runner
        worker._recycle(Recycle(old.runner))
        await asyncio.sleep(0.1)
        assert not cluster.runners()[1].stopped
        worker._recycle(Recycle(new.runner))
        await asyncio.sleep(0.1)
        assert cluster.runners()[1].stopped


# --- workers ---------------------------------------------------------------------------------------------------------


@simulated
async def test_a_worker_of_another_host_that_stays_away_is_done_without() -> None:
    async with Cluster(node=HOST) as cluster:
        await cluster.infer(1)
        for line in cluster.lines:
            line.cut()
        began = cluster.clock.monotonic()
        with pytest.raises(Unavailable, match="no worker"):
            await cluster.infer(2)
        assert 6 <= cluster.clock.monotonic() - began < 7  # three to come back, three for another one
        assert (await cluster.fleet()).workers == []


@pytest.mark.parametrize("pause", [0.01, 0.5, 2.5])
def test_no_request_fails_when_all_connections_end_again_and_again(pause: float) -> None:
    async def main() -> None:
        own = Settings(memory_limit=1 << 30, max_concurrency=64, spare=False)
        async with Cluster(node=HOST, settings=own) as cluster:
            errors: list[TetherError] = []
            answered = 0

            async def ask() -> None:
                nonlocal answered
                while cluster.clock.monotonic() < until:
                    try:
                        assert numbers((await cluster.infer(7)).outputs) == (7,)
                        answered += 1
                    except TetherError as error:
                        errors.append(error)
                    await asyncio.sleep(0.001)

            await cluster.infer(1)
            until = cluster.clock.monotonic() + 15
            clients = [asyncio.create_task(ask()) for _ in range(4)]
            for _ in range(3):
                await asyncio.sleep(1.037)
                for line in cluster.lines:
                    line.drop(pause)
                await asyncio.sleep(pause)
            await asyncio.gather(*clients)
            assert errors == []
            assert answered > 500
            assert len(cluster.runners()) == 1

    simulate(main)
