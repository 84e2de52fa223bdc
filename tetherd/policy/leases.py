"""How long a runner may hold a batch, and what becomes of the work when it does not bring it back."""

from collections import deque
from typing import Final

from tetherd.policy.queue import Job
from tetherd.types import Seconds

FLOOR: Final[Seconds] = 1.0
FACTOR: Final = 4.0
SAMPLES: Final = 16
"""Executions to have seen before the bound follows them."""

_REMEMBERED: Final = 64
_EXCUSES: Final = 10


class Pace:
    """Learns how long a version's executions take."""

    def __init__(self) -> None:
        self._recent: deque[Seconds] = deque(maxlen=_REMEMBERED)
        self._slowest: Seconds = 0.0

    def observe(self, took: Seconds) -> None:
        """Take note of one execution."""
        forgotten = self._recent[0] if len(self._recent) == _REMEMBERED else -1.0
        self._recent.append(took)
        if took >= self._slowest:
            self._slowest = took
        elif forgotten == self._slowest:
            self._slowest = max(self._recent)

    def decide(self, ceiling: Seconds) -> Seconds:
        """Return how long one execution may take: four times the slowest of late, at least 1 s, at most ``ceiling``."""
        if len(self._recent) < SAMPLES:
            return ceiling
        return min(ceiling, max(FLOOR, FACTOR * self._slowest))


class Recovery:
    """What becomes of a lost batch: jobs to try again alone, and jobs that had their attempts or their time."""

    def __init__(self, again: list[Job], spent: list[Job], late: list[Job]) -> None:
        self.again = again
        self.spent = spent
        self.late = late


def excuse(jobs: list[Job]) -> None:
    """Take back that jobs were tried: they never reached a runner.

    Not for ever: what never reaches any runner may be what ends the connections.
    """
    for job in jobs:
        if job.excuses < _EXCUSES:
            job.excuses += 1
            job.attempts -= 1


def recover(jobs: list[Job], attempts: int, now: Seconds) -> Recovery:
    """Sort the unfinished work of a runner that died, hung or failed.

    Every job is tried again on its own: if one of them is what killed the runner, it takes no other with it. Inference
    is idempotent, so another execution does no harm; ``attempts`` bounds how many runners one job can cost.
    """
    again: list[Job] = []
    spent: list[Job] = []
    late: list[Job] = []
    for job in jobs:
        if job.settled:
            continue
        job.solo = True
        if job.deadline <= now:
            late.append(job)
        elif job.attempts >= attempts:
            spent.append(job)
        else:
            again.append(job)
    return Recovery(again, spent, late)
