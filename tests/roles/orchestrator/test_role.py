"""The whole orchestrator: what it counts, and that it forgets nothing."""

import asyncio
from typing import Any

from tetherd.config.schema import Worker as Settings
from tetherd.testing import Bench, Cluster, simulated
from tetherd.testing.bench import finished, settle
from tetherd.types import Digest

V = Digest("sha256:m-1")


def settings(**changes: Any) -> Settings:
    return Settings(**{"memory_limit": 1 << 30, "max_concurrency": 64, "spare": False} | changes)


@simulated
async def test_statistics_add_up() -> None:
    bench = Bench()
    line = bench.connect()
    for numbers in ([1], [2, 3], [4]):
        bench.infer(*numbers)
    await settle()
    batch = await bench.take(line)
    bench.take(line, finished=finished(batch, input_ns=1, infer_ns=10, output_ns=2))
    await settle()
    bench.infer(5)
    await settle()
    state = await bench.state()
    stats = state.stats[0]
    assert (stats.inference_count, stats.execution_count) == (4, 1)
    assert (stats.success.count, stats.fail.count, stats.queue.count) == (3, 0, 3)
    assert (stats.infer.count, stats.infer.ns) == (3, 30)
    assert [(one.rows, one.infer.count, one.infer.ns) for one in stats.batches] == [(4, 1, 10)]
    assert stats.last_inference_ms > 0


@simulated
async def test_a_thousand_callers_come_and_go_and_nothing_is_left_behind() -> None:
    async with Cluster(workers=2, settings=settings(runners=2)) as cluster:
        await cluster.infer(0)
        tasks = [asyncio.create_task(cluster.infer(number)) for number in range(1000)]
        await asyncio.sleep(0)
        for task in tasks[::7]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [one for one in done if isinstance(one, Exception)]
        state = await cluster.fleet()
        assert [(one.waiting, one.leased) for one in state.queues] == [(0, 0)]
        assert [worker.busy for worker in state.workers] == [0, 0]
