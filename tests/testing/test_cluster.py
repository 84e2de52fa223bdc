import asyncio
import time

import pytest

from tetherd.errors import Unreachable
from tetherd.policy.queue import NORMAL
from tetherd.testing import Cluster
from tetherd.testing.cluster import request
from tetherd.testing.time import simulate


def test_a_cluster_starts_and_serves_in_milliseconds() -> None:
    async def main() -> None:
        async with Cluster(workers=3) as cluster:
            reply = await cluster.infer(1, 2, 3)
            assert reply.outputs[0].shape == (3,)
            assert len((await cluster.fleet()).workers) == 3

    began = time.monotonic()
    simulate(main)
    assert time.monotonic() - began < 1


def test_a_connection_that_is_cut_is_lost_for_both_ends() -> None:
    async def main() -> None:
        async with Cluster() as cluster:
            line = cluster.connect()
            waiting = asyncio.create_task(line.call(request(1, model="other"), deadline=cluster.clock.monotonic() + 9))
            await asyncio.sleep(0)
            line.cut()
            line.cut()
            with pytest.raises(Unreachable):
                await waiting
            with pytest.raises(Unreachable):
                await line.call(request(1), deadline=cluster.clock.monotonic() + 9)

    simulate(main)


def test_a_request_is_what_the_orchestrator_takes() -> None:
    message = request(1, 2, priority=NORMAL)
    assert (message.rows, message.inputs[0].shape, len(message.inputs[0].data)) == (2, (2,), 16)
