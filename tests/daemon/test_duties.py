"""A duty that nobody's request needs starts again after a bug; it ends when it is done or cancelled."""

import asyncio
import itertools
from collections.abc import Callable

import pytest

from tetherd.daemon.duties import PAUSE, enduring
from tetherd.testing import LoopClock, simulated


@pytest.mark.parametrize("bug", [AssertionError("a bug"), ExceptionGroup("tasks", [KeyError("a bug")])])
def test_a_duty_that_met_a_bug_starts_again(bug: Exception, caplog: pytest.LogCaptureFixture) -> None:
    began: list[float] = []

    async def duty(ready: Callable[[], None]) -> None:
        ready()
        began.append(LoopClock().monotonic())
        if len(began) < 3:
            raise bug

    @simulated
    async def run() -> None:
        await enduring(duty)(lambda: None)

    run()
    assert [round(after - before, 3) for before, after in itertools.pairwise(began)] == [PAUSE, PAUSE]
    found = [record for record in caplog.records if "starts again" in record.message]
    assert [record.exc_info and record.exc_info[1] for record in found] == [bug, bug]


@simulated
async def test_a_duty_that_is_cancelled_ends() -> None:
    async def duty(_: Callable[[], None]) -> None:
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(enduring(duty)(lambda: None))
    await asyncio.sleep(1.0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
