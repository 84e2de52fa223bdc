"""One model version's traffic: what waits, who offers to do it, and what is handed out."""

import asyncio
from collections.abc import Callable
from typing import Final

from tetherd.policy.balance import Strategy
from tetherd.policy.leases import Pace
from tetherd.policy.queue import Job, Queue
from tetherd.policy.statistics import Statistics
from tetherd.ports import Context
from tetherd.roles.orchestrator.fleet import Worker
from tetherd.types import Digest, Seconds
from tetherd.wire.messages import Batch, QueueState, Take

NEVER: Final[Seconds] = float("inf")

_SUSPECTS: Final = 256


class Seat:
    """A parked take: a runner's slot that waits for a batch."""

    __slots__ = ("deadline", "lane", "node", "peer", "take", "waiter", "worker")

    def __init__(self, lane: "Lane", take: Take, worker: Worker | None, context: Context) -> None:
        self.lane = lane
        self.take = take
        self.worker = worker
        self.peer = context.peer
        self.node = context.node
        self.deadline = context.deadline
        self.waiter: asyncio.Future[Batch] = asyncio.get_running_loop().create_future()

    @property
    def runner(self) -> str:
        """Return which runner offers."""
        return self.take.runner

    @property
    def slot(self) -> int:
        """Return which of its slots does."""
        return self.take.slot

    @property
    def runner_busy(self) -> int:
        """Return how many rows the runner holds."""
        return self.lane.held.get(self.take.runner, 0)

    @property
    def worker_busy(self) -> int:
        """Return how many batches the runners of its worker hold."""
        return self.worker.busy if self.worker else 0


class Lease:
    """A batch that a runner holds: its jobs, and until when it must be back."""

    __slots__ = (
        "deadline",
        "handed",
        "id",
        "jobs",
        "lane",
        "missed",
        "node",
        "peer",
        "rows",
        "runner",
        "slot",
        "worker",
    )

    def __init__(self, identity: int, seat: Seat, jobs: list[Job], handed: Seconds, deadline: Seconds) -> None:
        self.id = identity
        self.lane = seat.lane
        self.runner = seat.take.runner
        self.slot = seat.take.slot
        self.worker = seat.worker
        self.peer = seat.peer
        self.node = seat.node
        self.jobs = jobs
        self.rows = sum(job.request.rows or 1 for job in jobs)
        self.handed = handed
        self.deadline = deadline
        self.missed = NEVER  # since when its runner's connection is gone

    @property
    def is_orphan(self) -> bool:
        """Whether its runner has ended, as far as its worker says."""
        return self.worker is not None and not self.worker.lives(self.runner)


class Lane:
    """The queue, the parked takes and the leases of one version."""

    def __init__(self, model: str, number: int, version: Digest, limit: int, strategy: Strategy) -> None:
        self.model = model
        self.number = number
        self.version = version
        self.queue = Queue(limit)
        self.strategy = strategy
        self.parked: list[Seat] = []
        self.leases: dict[int, Lease] = {}
        self.held: dict[str, int] = {}  # rows by runner; an idle one is not in it
        self.pace = Pace()
        self.statistics = Statistics()
        self.wanted: Seconds = NEVER  # since when work waits with no runner to do it
        self.placed: Seconds = -NEVER  # when a worker was last told to load this
        self.ensuring = 0  # callers that wait until a runner is ready
        self.failure = ""
        self.failed: Seconds = -NEVER
        self.settled = asyncio.Event()  # a load ended, in one way or the other
        self.hold: asyncio.TimerHandle | None = None
        self._suspects: dict[str, int] = {}  # runners that let a lease run out, until they are done with its batch

    @property
    def in_demand(self) -> bool:
        """Whether someone waits for a runner of it."""
        return bool(self.queue.waiting or self.ensuring)

    def lend(self, lease: "Lease") -> None:
        """Note that a runner holds a batch."""
        self.leases[lease.id] = lease
        self.held[lease.runner] = self.held.get(lease.runner, 0) + lease.rows

    def end(self, lease: "Lease") -> None:
        """Note that it does not any more."""
        del self.leases[lease.id]
        self.held[lease.runner] -= lease.rows
        if not self.held[lease.runner]:
            del self.held[lease.runner]

    def withdraw(self, unwanted: Callable[[Seat], bool]) -> None:
        """Take offers back; runners that live offer again."""
        for seat in [seat for seat in self.parked if unwanted(seat)]:
            self.parked.remove(seat)
            if not seat.waiter.done():
                seat.waiter.set_result(Batch(0))

    def suspect(self, lease: "Lease") -> None:
        """Note that a runner did not bring a batch back in time: it hangs, or nothing reaches it."""
        self._suspects[lease.runner] = lease.id
        if len(self._suspects) > _SUSPECTS:
            del self._suspects[next(iter(self._suspects))]

    def hear(self, take: Take) -> None:
        """Note by an offer that a runner is done with what it was suspected of."""
        if self._suspects and self._suspects.get(take.runner) not in take.held:
            self._suspects.pop(take.runner, None)

    def is_suspect(self, runner: str) -> bool:
        """Whether a runner may hang."""
        return runner in self._suspects

    def shunned(self) -> set[str]:
        """Return the runners that hold work which may be their end: nothing else should be with it."""
        return {lease.runner for lease in self.leases.values() if lease.jobs[0].solo}

    def state(self) -> QueueState:
        """Return what there is to show of it."""
        leased = sum(self.held.values())
        return QueueState(
            self.model, self.number, self.version, self.queue.waiting, leased, len(self.parked), self.queue.limit
        )
