"""The desk: takes requests in, hands them out late and in batches, and takes them back from runners that fail.

Everything that reserves happens in one step of the event loop: between choosing a runner and counting its lease there
is no await, so no decision is made on a state that another one has changed meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec

from tetherd.errors import DeadlineExceeded, InvalidInput, QueueFull, RunnerLost, TetherError, TooLarge, revive
from tetherd.policy import batching, leases, placement
from tetherd.policy.balance import Strategy
from tetherd.policy.queue import Job
from tetherd.ports import Clock, Context
from tetherd.roles.orchestrator import refusals
from tetherd.roles.orchestrator.fleet import MAX_NAME, Fleet, Worker, longest
from tetherd.roles.orchestrator.lane import NEVER, Lane, Lease, Seat
from tetherd.types import Seconds
from tetherd.wire import tensors
from tetherd.wire.messages import Batch, Cancel, Ensure, Finished, Infer, Inferred, Load, Recycle, Take

MAX_LANES: Final = 4096
"""Versions whose traffic is kept apart, and counted, at once."""

_PLACE_AGAIN: Final[Seconds] = 2.0
_FRAME_ROOM: Final = 64 * 1024

_log = logging.getLogger("tetherd.orchestrator")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The orchestrator's bounds: rows and bytes of a batch, seconds a batch may be delayed or executed."""

    queue_depth: int = 1024
    max_batch: int = 64
    max_bytes: int = 16 * 1024 * 1024
    batch_delay: Seconds = 0.0
    attempts: int = 3
    execution: Seconds = 30.0


class Desk:
    """Every lane, and what happens to the work in it.

    ``unloaded``: models for which no work is taken. ``active`` is set when there is work to watch over.
    """

    def __init__(self, *, fleet: Fleet, clock: Clock, limits: Limits, strategy: Callable[[], Strategy]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._limits = limits
        self._strategy = strategy
        self._lanes: dict[str, Lane] = {}
        self._leases: dict[int, Lease] = {}
        # A runner may bring back what it took from the process before this one: its batches must not look like ours.
        self._ids = int(clock.wall() * 1000) << 20
        self.unloaded: set[str] = set()
        self.active = asyncio.Event()

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    @property
    def idle(self) -> bool:
        """Whether no work waits and none is handed out."""
        return not self._leases and not any(lane.queue.waiting for lane in self._lanes.values())

    def leases(self) -> list[Lease]:
        """Return what is handed out."""
        return list(self._leases.values())

    def forget(self, lane: Lane) -> None:
        """Drop the lane of a version that is gone, unless it is in use again."""
        if not (lane.queue.waiting or lane.leases or lane.parked or lane.ensuring):
            self._lanes.pop(lane.version, None)

    def _make_room(self) -> None:
        """Drop the lane that has been there for longest and is not in use, where there are too many."""
        if len(self._lanes) < MAX_LANES:
            return
        for lane in self:
            self.forget(lane)
            if len(self._lanes) < MAX_LANES:
                return
        raise QueueFull(f"{MAX_LANES} versions are in use at once", retry_after=1.0)

    def find(self, version: str) -> Lane | None:
        """Return a version's lane, if it ever had work or a runner."""
        return self._lanes.get(version)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def infer(self, request: Infer, context: Context) -> Inferred:
        """Take a request in and return its answer. Raises what becomes of it otherwise."""
        now = self._clock.monotonic()
        self._admit(request)
        lane = self.lane(request)
        job = Job(request, context.deadline, now, asyncio.get_running_loop().create_future())
        if job.bytes + _FRAME_ROOM > self._limits.max_bytes:
            raise TooLarge(
                f"the inputs take {job.bytes} bytes, more than one message may hold ({self._limits.max_bytes})",
                fix="split the request, or raise rpc.max_message",
            )
        lane.queue.offer(job)
        self.active.set()
        if lane.parked:
            self.dispatch(lane)
        elif not lane.leases:
            self.place(lane, now)
        try:
            reply: Inferred = await job.waiter
        except asyncio.CancelledError:
            lane.queue.discard(job)
            self._abandon(lane, job)
            raise
        return reply

    def _abandon(self, lane: Lane, job: Job) -> None:
        """End the execution of a batch whose last caller left."""
        for lease in lane.leases.values():
            if job in lease.jobs and lease.worker and all(one.settled for one in lease.jobs):
                lease.worker.command(Cancel(lease.runner, lease.id))

    def _admit(self, request: Infer) -> None:
        if request.rows and [tensor for tensor in request.inputs if tensor.shape[:1] != (request.rows,)]:
            raise InvalidInput(f"the request says {request.rows} rows, its inputs have another number")
        if request.model in self.unloaded:
            raise refusals.unloaded(request.model)
        lane = self._lanes.get(request.version)
        if lane and lane.failure and not lane.parked:
            wait = lane.failed + placement.LOAD_RETRY - self._clock.monotonic()
            if wait > 0:
                raise refusals.load_failed(lane, wait)

    def refuse(self, lane: Lane, job: Job, error: TetherError) -> None:
        """Answer a request with an error, if it still waits for an answer."""
        if job.leased and job.settled:
            return  # its caller left, or it was answered when its time ran out
        job.settled = True
        lane.statistics.failed(total_ns=int((self._clock.monotonic() - job.queued) * 1e9))
        if not job.waiter.done():
            job.waiter.set_exception(error)

    # --- work --------------------------------------------------------------------------------------------------------

    async def take(self, take: Take, context: Context) -> Batch:
        """Settle what a runner brings, and park its offer until there is work for it."""
        if take.finished is not None:
            self._settle(take.finished, take.runner, context.node)
        if context.node:
            self._compare(take, context)
        if take.last:
            return Batch(0)
        worker = self._fleet.get(take.worker)
        if worker is not None and worker.node != context.node:
            raise refusals.not_yours(take.worker)
        lane = self.lane(take)
        lane.hear(take)
        seat = Seat(lane, take, worker, context)
        lane.parked.append(seat)
        lane.wanted = NEVER
        if take.finished is None and seat.worker:
            seat.worker.serves(take.runner)
        self.dispatch(lane)
        try:
            return await seat.waiter
        except asyncio.CancelledError:
            if seat in lane.parked:
                lane.parked.remove(seat)
            elif not seat.waiter.cancelled() and (lease := self._leases.get(seat.waiter.result().id)):
                self.take_back(lease, "its taker left")  # in the very moment in which it was handed the batch
            raise

    def dispatch(self, lane: Lane) -> None:
        """Hand out what waits in a lane to those that wait for it."""
        while lane.parked and lane.queue.waiting:
            seats = self._candidates(lane)
            if not seats:
                return
            seat = seats[0] if len(seats) == 1 else seats[lane.strategy.decide(seats)]
            self._hand_over(lane, seat)

    def _candidates(self, lane: Lane) -> list[Seat]:
        """Return the seats that may be answered now: a second batch goes to a runner only where none is idle.

        Work that may have spoilt a batch or killed a runner is executed where nothing else is held with it.
        """
        held = lane.held
        seats = [seat for seat in lane.parked if self._is_open(seat)]
        free = [seat for seat in seats if seat.runner not in held]
        if not free and not ((oldest := lane.queue.oldest()) and oldest.solo):
            shunned = lane.shunned()
            free = [seat for seat in seats if seat.runner not in shunned]
        return [seat for seat in free if self._due(lane, seat, held.get(seat.runner, 0))]

    def _is_open(self, seat: Seat) -> bool:
        if seat.waiter.done() or seat.lane.is_suspect(seat.runner):
            return False
        return not (seat.worker and seat.worker.saturated)

    def _due(self, lane: Lane, seat: Seat, executing: int) -> bool:
        rows = min(seat.take.max_rows, self._limits.max_batch)
        age = 0.0
        if self._limits.batch_delay and (oldest := lane.queue.oldest()):
            age = self._clock.monotonic() - oldest.queued
        wait = batching.decide(
            waiting_rows=lane.queue.rows,
            executing_rows=executing,
            max_rows=rows,
            age=age,
            delay=self._limits.batch_delay,
        )
        if 0 < wait < NEVER and lane.hold is None:
            lane.hold = asyncio.get_running_loop().call_later(wait, self._release_hold, lane)
        return wait == 0

    def _release_hold(self, lane: Lane) -> None:
        lane.hold = None
        self.dispatch(lane)

    def _hand_over(self, lane: Lane, seat: Seat) -> None:
        now = self._clock.monotonic()
        rows = min(seat.take.max_rows, self._limits.max_batch)
        jobs = lane.queue.form(rows, min(batching.MAX_JOINED, self._limits.max_bytes - _FRAME_ROOM))
        if not jobs:
            return
        latest = max(job.deadline for job in jobs)
        budget = min(lane.pace.decide(self._limits.execution), max(latest - now, 0.001))
        self._ids += 1
        # The lease ends a little after the budget: a runner that keeps its budget says so itself.
        lease = Lease(self._ids, seat, jobs, now, now + budget + leases.FLOOR)
        self._leases[lease.id] = lease
        lane.lend(lease)
        for job in jobs:
            job.handed = now
            job.attempts += 1
        if seat.worker:
            seat.worker.busy += 1
        lane.parked.remove(seat)
        first = jobs[0].request.inputs
        inputs = [tensors.concat([job.request.inputs[index] for job in jobs]) for index in range(len(first))]
        seat.waiter.set_result(
            Batch(lease.id, inputs, [job.request.request_id for job in jobs], max(1, int(budget * 1000)))
        )

    def _settle(self, finished: Finished, runner: str, node: str) -> None:
        lease = self._leases.get(finished.batch)
        if lease is None or lease.runner != runner or lease.node != node:
            return  # it came after its lease ran out: the work is someone else's now
        self._end(lease)
        if finished.failure is None:
            try:
                self._answer(lease, finished)
            except TetherError as error:
                self._fail(lease, error)
        else:
            self._fail(lease, revive(finished.failure))
        self._serve_others(lease)

    def _answer(self, lease: Lease, finished: Finished) -> None:
        now = self._clock.monotonic()
        lane, jobs = lease.lane, lease.jobs
        if len(jobs) == 1:
            shares = [finished.outputs]
        else:
            counts = [job.request.rows for job in jobs]
            split = [tensors.rows(output, counts) for output in finished.outputs]
            shares = [[output[index] for output in split] for index in range(len(jobs))]
        lane.pace.observe(finished.infer_ns / 1e9)
        rows = sum(job.request.rows for job in jobs) or 1
        lane.statistics.executed(finished, rows=rows, requests=len(jobs), wall_ms=int(self._clock.wall() * 1000))
        for job, outputs in zip(jobs, shares, strict=True):
            if job.settled:
                continue
            queued = int((job.handed - job.queued) * 1e9)
            lane.statistics.succeeded(total_ns=int((now - job.queued) * 1e9), queue_ns=queued)
            if not job.waiter.done():
                job.waiter.set_result(Inferred(outputs, lease.runner, rows, job.attempts, queued, finished.infer_ns))

    def _fail(self, lease: Lease, error: TetherError) -> None:
        if len(lease.jobs) == 1 and not isinstance(error, DeadlineExceeded):
            self.refuse(lease.lane, lease.jobs[0], error)
        else:
            # One of them may have spoilt it for the others: each gets its own try.
            self._recover(lease, error)

    def lose(self, peer: int) -> None:
        """Take back what the runners behind a connection hold, now that it has ended.

        The slots of one runner have connections of their own. On this host these end with its process, and the first to
        end is the word of its end: its other slots must not be handed the work that is taken back. A slot on another
        host has some time to come back with what it holds.
        """
        held = self.leases()
        known: list[Seat | Lease] = [*held, *(seat for lane in self for seat in lane.parked)]
        gone = {one.runner for one in known if one.peer == peer and not one.node}
        for lane in self:  # before anything is handed out again
            lane.withdraw(lambda seat: seat.peer == peer or seat.runner in gone)
        for lease in held:
            if lease.runner in gone or (lease.peer == peer and lease.is_orphan):
                self.take_back(lease, "its runner was lost")
            elif lease.peer == peer:
                lease.missed = self._clock.monotonic()

    def miss(self, worker: Worker) -> None:
        """Take back what was held by runners that neither have a connection nor are on their worker any more."""
        for lease in self.leases():
            if lease.worker is worker and lease.missed != NEVER and lease.is_orphan:
                self.take_back(lease, "its runner was lost")

    def run_out(self, lease: Lease) -> None:
        """Take back what was not brought back in time.

        The runner may hang, or nothing may reach its host any more: no network says so. Whoever is there offers again.
        """
        lease.lane.suspect(lease)
        for lane in self:
            lane.withdraw(lambda seat: seat.runner == lease.runner or "" != lease.node == seat.node)
        if lease.worker and lease.missed == NEVER:
            lease.worker.command(Recycle(lease.runner))
        self.take_back(lease, "its lease ran out")

    def _compare(self, take: Take, context: Context) -> None:
        """Find out what became of the batch that a slot on another host was handed on an earlier connection.

        It has one at a time, so none but the one of this offer counts. What the runner does not hold never reached it.
        """
        lane = self.lane(take)
        earlier = partial(_is_earlier, take, context)
        lane.withdraw(earlier)
        for lease in [lease for lease in lane.leases.values() if earlier(lease)]:
            if lease.id in take.held:
                lease.peer, lease.missed = context.peer, NEVER
            else:
                leases.excuse(lease.jobs)
                self.take_back(lease, "it did not reach its runner")

    def take_back(self, lease: Lease, why: str) -> None:
        """Give the work of a lease that ended badly to other runners."""
        self._end(lease)
        _log.warning(
            "batch taken back",
            extra={"model": lease.lane.model, "runner": lease.runner, "requests": len(lease.jobs), "reason": why},
        )
        error = RunnerLost(
            f"{self._limits.attempts} runners of '{lease.lane.model}' were lost while they executed this request",
            fix="the input may crash the model: see tetherctl models show " + lease.lane.model,
        )
        self._recover(lease, error)
        self._serve_others(lease)

    def _recover(self, lease: Lease, error: TetherError) -> None:
        lane, now = lease.lane, self._clock.monotonic()
        if lane.model in self.unloaded:
            for job in lease.jobs:
                self.refuse(lane, job, refusals.unloaded(lane.model))
        recovery = leases.recover(lease.jobs, self._limits.attempts, now)
        for job in recovery.late:
            self.refuse(lane, job, refusals.late(job))
        for job in recovery.spent:
            self.refuse(lane, job, error)
        lane.queue.put_back(recovery.again)
        if recovery.again and not lane.parked:
            self.place(lane, now)
        self.dispatch(lane)

    def _end(self, lease: Lease) -> None:
        del self._leases[lease.id]
        lease.lane.end(lease)
        if lease.worker:
            lease.worker.busy -= 1

    def _serve_others(self, lease: Lease) -> None:
        """Let other work have the place that a lease leaves on a worker that was saturated, the oldest first."""
        worker = lease.worker
        if worker is None or worker.busy + 1 < worker.report.max_concurrency:
            return
        waiting = [(job.queued, lane) for lane in self._lanes.values() if (job := lane.queue.oldest())]
        for _, lane in sorted(waiting, key=lambda pair: pair[0]):
            self.dispatch(lane)

    # --- runners -----------------------------------------------------------------------------------------------------

    def place(self, lane: Lane, now: Seconds, *, again: bool = False) -> None:
        """Have a worker load a lane's version, unless one does or was just told to."""
        lane.wanted = min(lane.wanted, now)
        if not again and now - lane.placed < _PLACE_AGAIN:
            return
        if any(runner.state in ("LOADING", "READY") for runner in self._fleet.runners(lane.version)):
            return
        worker = self._fleet.get(placement.choose(self._fleet.rooms()) or "")
        if worker is not None:
            lane.placed = now
            pinned, fresh = lane.ensuring > 0, bool(lane.failure) or again
            worker.command(Load(lane.model, lane.number, lane.version, pinned, fresh))

    def lane(self, request: Infer | Take | Ensure) -> Lane:
        """Return the lane of a version, a new one for a new version. Raises InvalidInput, QueueFull."""
        lane = self._lanes.get(request.version)
        if lane is None:
            if longest((request.model, request.version)) > MAX_NAME:
                raise InvalidInput("no model and no version has so long a name")
            self._make_room()
            lane = Lane(request.model, request.number, request.version, self._limits.queue_depth, self._strategy())
            self._lanes[request.version] = lane
        return lane


def _is_earlier(take: Take, context: Context, one: Seat | Lease) -> bool:
    """Whether a slot on another host had an offer or a batch on another connection than its present one."""
    return (one.runner, one.slot, one.node) == (take.runner, take.slot, context.node) and one.peer != context.peer
