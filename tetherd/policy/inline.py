"""Whether an execution is so short that handing it to a thread and back would cost more than the execution."""

from collections import deque
from statistics import median_low
from typing import Final

from tetherd.types import Seconds

_NOW_AND_THEN: Final = 8


class Inlining:
    """Learns how long executions take. One slow execution, on a busy host say, does not change its mind; a slow
    model does."""

    CHEAP: Final[Seconds] = 200e-6
    SEEN: Final = 32

    def __init__(self) -> None:
        self._recent: deque[Seconds] = deque(maxlen=self.SEEN)
        self._inline = False
        self._seen = 0

    def observe(self, took: Seconds) -> None:
        """Take note of one execution."""
        self._recent.append(took)
        self._seen += 1
        if self._seen % _NOW_AND_THEN == 0:  # a median costs as much as a small execution
            self._inline = len(self._recent) == self.SEEN and median_low(self._recent) < self.CHEAP

    def decide(self) -> bool:
        """Return whether the next execution should run right on the event loop."""
        return self._inline
