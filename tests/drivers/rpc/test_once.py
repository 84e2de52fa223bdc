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


async def test_what_nobody_waits_for_any_more_goes_on_and_its_answer_is_kept() -> None:
    once, work = Once(ManualClock()), Work()
    work.may_end.clear()
    first = asyncio.create_task(once.do(KEY, work))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    second = asyncio.create_task(once.do(KEY, work))
    work.may_end.set()
    assert await second == work.done == 1


async def test_what_failed_is_done_by_whoever_asks_next() -> None:
    once, failing = Once(ManualClock()), Work(Conflict("no"))
    for times in (1, 2):
        with pytest.raises(Conflict):
            await once.do(KEY, failing)
        assert failing.done == times


async def test_what_takes_longer_than_it_is_kept_is_not_done_beside_itself() -> None:
    clock, work = ManualClock(), Work()
    once = Once(clock)
    work.may_end.clear()
    both = [asyncio.create_task(once.do(KEY, work))]
    await asyncio.sleep(0)
    clock.advance(2 * KEPT)
    both.append(asyncio.create_task(once.do(KEY, work)))
    await asyncio.sleep(0)
    work.may_end.set()
    assert await asyncio.gather(*both) == [1, 1]


async def test_at_the_end_and_of_too_many_the_oldest_are_cancelled() -> None:
    once, work = Once(ManualClock()), Work()
    work.may_end.clear()
    waiting = [asyncio.create_task(once.do(("a" * 64, "m", number), work)) for number in range(MOST + 1)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [one.cancelled() for one in waiting[:2]] == [True, False]
    once.close()
    await asyncio.wait(waiting)
    assert all(one.cancelled() for one in waiting)


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
