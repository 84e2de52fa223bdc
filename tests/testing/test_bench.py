import asyncio

from tetherd.testing import Bench, simulated
from tetherd.testing.bench import finished, numbers


@simulated
async def test_the_test_plays_the_runner() -> None:
    bench = Bench()
    reply = bench.infer(1, 2)
    line = bench.connect()
    await bench.report(line)
    batch = await bench.take(line)
    assert (await bench.queue()).leased == 2
    bench.take(line, finished=finished(batch))
    assert numbers((await reply).outputs) == (1, 2)
    assert [worker.worker for worker in (await bench.state()).workers] == ["w"]
    await asyncio.sleep(0)
