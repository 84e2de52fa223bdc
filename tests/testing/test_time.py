import asyncio
import time

import pytest

from tetherd.testing.time import Deadlock, LoopClock, ManualClock, simulate


def test_an_hour_takes_no_time() -> None:
    async def main() -> float:
        began = LoopClock().monotonic()
        await asyncio.sleep(3600)
        return LoopClock().monotonic() - began

    began = time.monotonic()
    assert simulate(main) == pytest.approx(3600)
    assert time.monotonic() - began < 1


def test_timers_fire_in_their_order() -> None:
    async def main() -> list[int]:
        fired: list[int] = []

        async def fire(number: int) -> None:
            await asyncio.sleep(number)
            fired.append(number)

        await asyncio.gather(*(fire(number) for number in (3, 1, 2)))
        return fired

    assert simulate(main) == [1, 2, 3]


def test_waiting_for_nothing_is_an_error_and_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        simulate(main)


def test_threads_work_at_once() -> None:
    async def main() -> tuple[int, float]:
        began = LoopClock().monotonic()
        return await asyncio.to_thread(lambda: 7), LoopClock().monotonic() - began

    result, took = simulate(main)
    assert (result, took < 0.001) == (7, True)

    async def failing() -> None:
        await asyncio.to_thread(lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        simulate(failing)


def test_a_clock_moves_only_when_it_is_moved() -> None:
    clock = ManualClock(5.0)
    clock.advance(2.5)
    assert clock.monotonic() == clock.wall() == 7.5
