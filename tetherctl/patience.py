"""When to try a broken transfer again: capped back-off for as long as a daemon may need to come back."""

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from tetherctl.progress import Progress
from tetherd.errors import TetherError

T = TypeVar("T")

FIRST: Final = 0.1
LONGEST: Final = 2.0
IN_ALL: Final = 30.0
LONGEST_ASKED: Final = 5.0
"""Seconds a server's Retry-After is followed at most."""


def waits() -> Iterator[float]:
    """Yield the seconds to wait before each further try, about IN_ALL in sum."""
    total, wait = 0.0, FIRST
    while total < IN_ALL:
        yield wait
        total += wait
        wait = min(wait * 2, LONGEST)


class Patience:
    """Tries again after a break. ``moved`` tells how many bytes went through so far: any progress renews it."""

    def __init__(
        self, progress: Progress, moved: Callable[[], int], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.progress = progress
        self.moved = moved
        self.sleep = sleep

    def run(self, act: Callable[[], T]) -> T:
        """Return what ``act`` returns. Raises its error when that cannot pass, or did not in time."""
        attempt, pauses, before = 0, waits(), self.moved()
        while True:
            try:
                return act()
            except TetherError as error:
                if self.moved() > before:
                    attempt, pauses, before = 0, waits(), self.moved()
                pause = next(pauses, None) if error.retryable else None
                if pause is None:
                    raise
                attempt += 1
                self.progress.retry(attempt, error.message)
                self.sleep(max(pause, min(error.retry_after or 0, LONGEST_ASKED)))
