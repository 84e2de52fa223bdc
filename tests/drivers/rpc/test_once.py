"""What was done for a call is not done again for the same one, and nothing of it is kept for ever."""

import asyncio

import pytest

from tetherd.drivers.rpc.once import KEPT, MOST, Once
from tetherd.errors import Conflict
from tetherd.testing import ManualClock

KEY = ("a" * 64, "alias.move", 7)


class Work:
    """Counts how often it is done; waits to be allowed to end where it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done = 0
        self.error = error
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self) -> int:
        self.done += 1
        await self.may_end.wait()
        if self.error:
            raise self.error
        return self.done


async def test_the_same_call_has_the_same_answer_for_ten_minutes() -> None:
    clock, work = ManualClock(), Work()
    once = Once(clock)
    assert [await once.do(KEY, work) for _ in range(3)] == [1, 1, 1]
    clock.advance(KEPT - 1)
    assert await once.do(KEY, work) == 1
    clock.advance(1)
    assert await once.do(KEY, work) == 2


@pytest.mark.parametrize("other", [("b" * 64, *KEY[1:]), (KEY[0], "model.remove", 7), (*KEY[:2], 8)])
async def test_another_node_method_or_call_is_another(other: tuple[str, str, int]) -> None:
    once, work = Once(ManualClock()), Work()
    await once.do(KEY, work)
    assert await once.do(other, work) == 2


async def test_what_is_under_way_is_waited_for() -> None:
    once, work = Once(ManualClock()), Work()
    work.may_end.clear()
    both = [asyncio.create_task(once.do(KEY, work)) for _ in range(2)]
    await asyncio.sleep(0)
    work.may_end.set()
    assert await asyncio.gather(*both) == [1, 1]


async def test_what_was_cancelled_or_failed_is_done_by_whoever_asks_next() -> None:
    once, work = Once(ManualClock()), Work()
    work.may_end.clear()
    first, second = (asyncio.create_task(once.do(KEY, work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    work.may_end.set()
    assert await second == 2
    failing = Work(Conflict("no"))
    for times in (1, 2):
        with pytest.raises(Conflict):
            await once.do(("c" * 64, "alias.move", 1), failing)
        assert failing.done == times


async def test_a_bounded_number_is_kept() -> None:
    clock, work = ManualClock(), Work()
    once = Once(clock)
    for number in range(MOST + 10):
        await once.do(("a" * 64, "m", number), work)
    assert len(once._found) == MOST
    assert await once.do(("a" * 64, "m", MOST + 9), work) == MOST + 10
    clock.advance(KEPT)
    await once.do(KEY, work)
    assert len(once._found) == 1
