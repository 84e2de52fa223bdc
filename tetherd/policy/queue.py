"""One bounded queue of work for one model version: what waits, in which order, and which of it forms a batch."""

from collections import OrderedDict
from typing import Any, Final

from tetherd.errors import QueueFull
from tetherd.types import Seconds
from tetherd.wire.messages import Infer

NORMAL: Final = 2
"""The level of a request that names no priority: 1 goes before it, 3 and higher after it."""


class Job:
    """One request while the orchestrator holds it. ``waiter`` is the orchestrator's, never touched here."""

    __slots__ = (
        "attempts",
        "bytes",
        "deadline",
        "excuses",
        "handed",
        "key",
        "leased",
        "queued",
        "request",
        "settled",
        "solo",
        "waiter",
    )

    def __init__(self, request: Infer, deadline: Seconds, now: Seconds, waiter: Any) -> None:
        self.request = request
        self.deadline = deadline
        self.queued = now
        self.handed = now
        self.waiter = waiter
        self.attempts = 0
        self.excuses = 0  # attempts that did not count
        self.leased = False
        self.solo = False
        self.settled = False
        self.bytes = sum([len(tensor.data) for tensor in request.inputs])
        # Rows may run together only where everything but their number is alike.
        self.key = [(tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in request.inputs]


class Queue:
    """First come, first served within a priority level. Holds nothing of work that has left it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0
        self.rows = 0
        self._levels: dict[int, OrderedDict[Job, None]] = {}

    def offer(self, job: Job) -> None:
        """Add new work at the end. Raises QueueFull beyond ``limit``."""
        if self.waiting >= self.limit:
            raise QueueFull(
                f"{self.limit} requests wait for {job.request.model} already",
                fix="send less at a time, or add workers",
                retry_after=1.0,
            )
        self._level(job)[job] = None
        self._count(job, 1)

    def oldest(self) -> Job | None:
        """Return what leaves the queue next."""
        return self._first()

    def put_back(self, jobs: list[Job]) -> None:
        """Return work that was handed out, ahead of all that waits. Never refused: it was admitted once."""
        for job in reversed(jobs):
            job.leased = False
            level = self._level(job)
            level[job] = None
            level.move_to_end(job, last=False)
            self._count(job, 1)

    def form(self, max_rows: int, max_bytes: int) -> list[Job]:
        """Remove and return the next batch: as many alike requests as wait in a row and fit, at least one if any."""
        batch: list[Job] = []
        rows = size_so_far = 0
        while (job := self._first()) is not None:
            size = job.request.rows
            if batch and (job.solo or not size or job.key != batch[0].key):
                break
            if batch and (rows + size > max_rows or size_so_far + job.bytes > max_bytes):
                break
            self._remove(job)
            job.leased = True
            batch.append(job)
            rows += size
            size_so_far += job.bytes
            if job.solo or not size:
                break
        return batch

    def discard(self, job: Job) -> None:
        """Forget work that nobody waits for any more. A batch it is part of goes on for the others in it."""
        if not job.settled:
            job.settled = True
            if not job.leased:
                self._remove(job)

    def expire(self, now: Seconds) -> list[Job]:
        """Remove and return the work whose time ran out."""
        late = [job for level in self._levels.values() for job in level if job.deadline <= now]
        for job in late:
            self.discard(job)
        return late

    def drain(self) -> list[Job]:
        """Remove and return all that waits."""
        jobs = [job for _, level in sorted(self._levels.items()) for job in level]
        for job in jobs:
            self.discard(job)
        return jobs

    def _level(self, job: Job) -> OrderedDict[Job, None]:
        return self._levels.setdefault(_priority(job), OrderedDict())

    def _first(self) -> Job | None:
        return next(iter(self._levels[min(self._levels)])) if self._levels else None

    def _remove(self, job: Job) -> None:
        level = self._level(job)
        del level[job]
        if not level:
            del self._levels[_priority(job)]
        self._count(job, -1)

    def _count(self, job: Job, change: int) -> None:
        self.waiting += change
        self.rows += change * (job.request.rows or 1)


def _priority(job: Job) -> int:
    return job.request.priority or NORMAL
