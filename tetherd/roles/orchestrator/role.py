"""The orchestrator role: admits work, hands it out late, and takes it back from runners that fail.

Everything that reserves happens in one step of the event loop: between choosing a runner and counting its lease there
is no await, so no decision is made on a state that another one has changed meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from tetherd.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelLoadFailed,
    ModelUnloaded,
    RunnerLost,
    TetherError,
    TooLarge,
    Unavailable,
    revive,
)
from tetherd.policy import batching, leases, placement
from tetherd.policy.balance import Strategy
from tetherd.policy.queue import Job
from tetherd.ports import Clock, Context, Handler
from tetherd.roles.orchestrator.fleet import Fleet, Worker
from tetherd.roles.orchestrator.lane import NEVER, Lane, Lease, Seat
from tetherd.types import Seconds
from tetherd.wire import tensors
from tetherd.wire.messages import (
    Batch,
    Commands,
    Done,
    Ensure,
    Finished,
    FleetState,
    GetFleet,
    Infer,
    Inferred,
    Load,
    NextCommands,
    Recycle,
    Release,
    Report,
    Request,
    Take,
    Unload,
)

_TICK: Final[Seconds] = 0.05
_IDLE_TICK: Final[Seconds] = 1.0
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


class Orchestrator:
    """Queues, batches and leases for every model version, and the workers that serve them."""

    def __init__(self, *, clock: Clock, limits: Limits, strategy: Callable[[], Strategy]) -> None:
        self._clock = clock
        self._limits = limits
        self._make_strategy = strategy
        self._strategies: dict[str, Strategy] = {}
        self._fleet = Fleet()
        self._lanes: dict[str, Lane] = {}
        self._leases: dict[int, Lease] = {}
        self._unloaded: set[str] = set()
        # A runner may bring back what it took from the process before this one: its batches must not look like ours.
        self._ids = int(clock.wall() * 1000) << 20
        self._active = asyncio.Event()

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what the orchestrator answers."""
        return {
            Infer: self._infer,
            Take: self._take,
            Report: self._report,
            NextCommands: self._commands,
            Ensure: self._ensure,
            Release: self._release,
            GetFleet: self._state,
        }

    async def run(self, ready: Callable[[], None]) -> None:
        """Watch deadlines until cancelled."""
        ready()
        while True:
            self._sweep(self._clock.monotonic())
            busy = self._leases or any(lane.queue.waiting for lane in self._lanes.values())
            self._active.clear()
            if busy:
                await asyncio.sleep(_TICK)
            else:
                # Idle, the daemon should sleep: work that arrives wakes the sweep, a silent worker can wait.
                try:
                    async with asyncio.timeout(_IDLE_TICK):
                        await self._active.wait()
                except TimeoutError:
                    pass

    def lost(self, peer: int) -> None:
        """Take back what the runners and workers behind a connection held, now that it has ended."""
        for lane in self._lanes.values():
            # Before anything is handed out again: these handlers are cancelled, but have not run yet.
            lane.parked = [seat for seat in lane.parked if seat.peer != peer]
        for lease in [lease for lease in self._leases.values() if lease.peer == peer]:
            self._take_back(lease, "its runner was lost")
        for worker in self._fleet.remove_lost(peer):
            self._bury(worker, "connection lost")

    async def drain(self, until: Seconds) -> None:
        """Return when no work waits or is handed out, at the latest at ``until``."""
        while self._clock.monotonic() < until:
            if not self._leases and not any(lane.queue.waiting for lane in self._lanes.values()):
                return
            await asyncio.sleep(_TICK)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _infer(self, request: Infer, context: Context) -> Inferred:
        now = self._clock.monotonic()
        self._admit(request)
        lane = self._lane(request)
        job = Job(request, context.deadline, now, asyncio.get_running_loop().create_future())
        if job.bytes + _FRAME_ROOM > self._limits.max_bytes:
            raise TooLarge(
                f"the inputs take {job.bytes} bytes, more than one message may hold ({self._limits.max_bytes})",
                fix="split the request, or raise rpc.max_message",
            )
        lane.queue.offer(job)
        self._active.set()
        if not lane.parked and not lane.leases:
            self._place(lane, now)
        self._dispatch(lane)
        try:
            reply: Inferred = await job.waiter
        except asyncio.CancelledError:
            lane.queue.discard(job)
            raise
        return reply

    def _admit(self, request: Infer) -> None:
        if request.rows and any(tensor.shape[:1] != (request.rows,) for tensor in request.inputs):
            raise InvalidInput(f"the request says {request.rows} rows, its inputs have another number")
        if request.model in self._unloaded:
            raise _unloaded(request.model)
        lane = self._lanes.get(request.version)
        if lane and lane.failure and not lane.parked:
            wait = lane.failed + placement.LOAD_RETRY - self._clock.monotonic()
            if wait > 0:
                raise _load_failed(lane, wait)

    # --- work --------------------------------------------------------------------------------------------------------

    async def _take(self, take: Take, context: Context) -> Batch:
        if take.finished is not None:
            self._settle(take.finished, take.runner)
        if take.last:
            return Batch(0)
        lane = self._lane(take)
        seat = Seat(lane, take, self._fleet.get(take.worker), context.peer, context.deadline)
        lane.parked.append(seat)
        lane.wanted = NEVER
        self._dispatch(lane)
        try:
            return await seat.waiter
        except asyncio.CancelledError:
            if seat in lane.parked:
                lane.parked.remove(seat)
            elif not seat.waiter.cancelled() and (lease := self._leases.get(seat.waiter.result().id)):
                self._take_back(lease, "its taker left")  # in the very moment in which it was handed the batch
            raise

    def _dispatch(self, lane: Lane) -> None:
        while lane.parked and lane.queue.waiting:
            seats = self._candidates(lane)
            if not seats:
                return
            seat = seats[0] if len(seats) == 1 else seats[self._strategy(lane).decide(seats)]
            self._hand_over(lane, seat)

    def _candidates(self, lane: Lane) -> list[Seat]:
        """Return the seats that may be answered now: a second batch goes to a runner only where none is idle.

        Work that may have spoilt a batch or killed a runner is executed where nothing else is held with it.
        """
        held, shunned = lane.held(), lane.shunned()
        oldest = lane.queue.oldest()
        seats = [seat for seat in lane.parked if not seat.waiter.done() and not (seat.worker and seat.worker.saturated)]
        free = [seat for seat in seats if seat.runner not in held]
        if not free and not (oldest and oldest.solo):
            free = [seat for seat in seats if seat.runner not in shunned]
        return [seat for seat in free if self._due(lane, seat, held.get(seat.runner, 0))]

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
        self._dispatch(lane)

    def _hand_over(self, lane: Lane, seat: Seat) -> None:
        now = self._clock.monotonic()
        jobs = lane.queue.form(min(seat.take.max_rows, self._limits.max_batch), self._limits.max_bytes - _FRAME_ROOM)
        if not jobs:
            return
        latest = max(job.deadline for job in jobs)
        budget = min(lane.pace.decide(self._limits.execution), max(latest - now, 0.001))
        self._ids += 1
        # The lease ends a little after the budget: a runner that keeps its budget says so itself.
        lease = Lease(self._ids, seat, jobs, now, now + budget + leases.FLOOR)
        self._leases[lease.id] = lane.leases[lease.id] = lease
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

    def _settle(self, finished: Finished, runner: str) -> None:
        lease = self._leases.get(finished.batch)
        if lease is None or lease.runner != runner:
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
            self._refuse(lease.lane, lease.jobs[0], error)
        else:
            # One of them may have spoilt it for the others: each gets its own try.
            self._recover(lease, error)

    def _take_back(self, lease: Lease, why: str) -> None:
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
        if lane.model in self._unloaded:
            for job in lease.jobs:
                self._refuse(lane, job, _unloaded(lane.model))
        recovery = leases.recover(lease.jobs, self._limits.attempts, now)
        for job in recovery.late:
            self._refuse(lane, job, _late(job))
        for job in recovery.spent:
            self._refuse(lane, job, error)
        lane.queue.put_back(recovery.again)
        if recovery.again and not lane.parked:
            self._place(lane, now)
        self._dispatch(lane)

    def _refuse(self, lane: Lane, job: Job, error: TetherError) -> None:
        if job.leased and job.settled:
            return  # its caller left, or it was answered when its time ran out
        job.settled = True
        lane.statistics.failed(total_ns=int((self._clock.monotonic() - job.queued) * 1e9))
        if not job.waiter.done():
            job.waiter.set_exception(error)

    def _end(self, lease: Lease) -> None:
        del self._leases[lease.id]
        del lease.lane.leases[lease.id]
        if lease.worker:
            lease.worker.busy -= 1

    def _serve_others(self, lease: Lease) -> None:
        """Let other work have the place that a lease leaves on a worker that was saturated, the oldest first."""
        worker = lease.worker
        if worker is None or worker.busy + 1 < worker.report.max_concurrency:
            return
        waiting = [(job.queued, lane) for lane in self._lanes.values() if (job := lane.queue.oldest())]
        for _, lane in sorted(waiting, key=lambda pair: pair[0]):
            self._dispatch(lane)

    # --- workers -----------------------------------------------------------------------------------------------------

    async def _report(self, report: Report, context: Context) -> Done:
        known = self._fleet.get(report.worker) is not None
        worker = self._fleet.observe(report, context.peer, self._clock.monotonic())
        if not known:
            _log.info("worker joined", extra={"worker": report.worker, "node_name": report.node})
        for lane in self._lanes.values():
            for seat in lane.parked:
                if seat.worker is None and seat.take.worker == report.worker:
                    seat.worker = worker
        for runner in report.runners:
            self._observe(runner.version, runner.state, runner.reason)
        if not known:
            for lane in self._lanes.values():
                lane.wanted = NEVER
                if lane.queue.waiting:
                    self._place(lane, self._clock.monotonic(), again=True)
        return Done()

    def _observe(self, version: str, state: str, reason: str) -> None:
        lane = self._lanes.get(version)
        if lane is None:
            return
        if state == "READY":
            lane.failure = ""
            lane.settled.set()
        elif state == "FAILED" and not self._fleet.may_serve(version):
            if lane.failure != reason or lane.failed < lane.placed:
                lane.failure, lane.failed = reason, self._clock.monotonic()
            lane.settled.set()
            for job in lane.queue.drain():
                self._refuse(lane, job, _load_failed(lane, placement.LOAD_RETRY))

    async def _commands(self, request: NextCommands, context: Context) -> Commands:
        worker = self._fleet.get(request.worker)
        if worker is None:
            raise Unavailable("report first", retry_after=0.1)
        worker.obeyed()
        try:
            async with asyncio.timeout(max(0.0, context.deadline - self._clock.monotonic() - 1.0)):
                await worker.called.wait()
        except TimeoutError:
            pass
        return worker.fetch()

    async def _ensure(self, request: Ensure, context: Context) -> Done:
        self._unloaded.discard(request.model)
        lane = self._lane(request)
        holders = [worker for worker in self._fleet if worker.has(request.version)]
        for worker in holders:
            worker.command(Load(lane.model, lane.number, lane.version, pinned=True, fresh=True))
        if any(runner.state == "READY" for runner in self._fleet.runners(request.version)):
            return Done()
        lane.failure = ""
        lane.settled.clear()
        if not self._fleet.rooms():
            raise _no_worker(request.model)
        lane.ensuring += 1
        try:
            if not holders:
                self._place(lane, self._clock.monotonic(), again=True)
            async with asyncio.timeout(max(0.0, context.deadline - self._clock.monotonic())):
                await lane.settled.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"'{request.model}' is still loading", fix="wait, then ask again") from None
        finally:
            lane.ensuring -= 1
        if lane.failure:
            raise _load_failed(lane, placement.LOAD_RETRY)
        return Done()

    async def _release(self, request: Release, context: Context) -> Done:
        if request.refuse:
            self._unloaded.add(request.model)
        lanes = [
            lane for lane in self._lanes.values() if lane.model == request.model and request.number in (0, lane.number)
        ]
        for lane in lanes:
            for job in lane.queue.drain():
                self._refuse(lane, job, _unloaded(request.model))
            for worker in self._fleet:
                if worker.has(lane.version):
                    worker.command(Unload(lane.version))
        while any(self._fleet.runners(lane.version) for lane in lanes):
            if self._clock.monotonic() >= context.deadline:
                raise DeadlineExceeded(f"'{request.model}' is still unloading", fix="wait, then ask again")
            await asyncio.sleep(_TICK)
        for lane in lanes:
            lane.failure = ""
        return Done()

    async def _state(self, _: GetFleet, __: Context) -> FleetState:
        now = self._clock.monotonic()
        return FleetState(
            workers=[worker.state(now) for worker in self._fleet],
            queues=[lane.state() for lane in self._lanes.values()],
            stats=[lane.statistics.value(lane.model, lane.number, lane.version) for lane in self._lanes.values()],
            unloaded=sorted(self._unloaded),
        )

    def _place(self, lane: Lane, now: Seconds, *, again: bool = False) -> None:
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

    # --- time --------------------------------------------------------------------------------------------------------

    def _sweep(self, now: Seconds) -> None:
        for worker in self._fleet.remove_silent(now):
            self._bury(worker, "silent")
        for lease in list(self._leases.values()):
            self._sweep_lease(lease, now)
        for lane in self._lanes.values():
            for job in lane.queue.expire(now):
                self._refuse(lane, job, _late(job))
            for seat in [seat for seat in lane.parked if seat.deadline <= now + 1.0]:
                lane.parked.remove(seat)
                if not seat.waiter.done():
                    seat.waiter.set_result(Batch(0))
            if lane.in_demand and not lane.parked and not lane.leases:
                self._place(lane, now)
                self._fail_fast(lane, now)

    def _sweep_lease(self, lease: Lease, now: Seconds) -> None:
        for job in lease.jobs:
            if job.deadline <= now:
                self._refuse(lease.lane, job, _late(job))
        if lease.deadline <= now:
            self._take_back(lease, "its lease ran out")
            if lease.worker:
                lease.worker.command(Recycle(lease.runner))

    def _fail_fast(self, lane: Lane, now: Seconds) -> None:
        if not self._fleet.rooms() and now - lane.wanted > placement.FAIL_FAST:
            for job in lane.queue.drain():
                self._refuse(lane, job, _no_worker(lane.model))

    def _bury(self, worker: Worker, why: str) -> None:
        _log.warning("worker lost", extra={"worker": worker.report.worker, "reason": why})
        for lease in [lease for lease in self._leases.values() if lease.worker is worker]:
            self._take_back(lease, "its worker was lost")
        for lane in self._lanes.values():
            for seat in [seat for seat in lane.parked if seat.worker is worker]:
                lane.parked.remove(seat)
                if not seat.waiter.done():
                    seat.waiter.set_result(Batch(0))  # the runner may live: it offers again
            if lane.in_demand and not lane.parked:
                self._place(lane, self._clock.monotonic(), again=True)

    def _lane(self, request: Infer | Take | Ensure) -> Lane:
        lane = self._lanes.get(request.version)
        if lane is None:
            lane = Lane(request.model, request.number, request.version, self._limits.queue_depth)
            self._lanes[request.version] = lane
        return lane

    def _strategy(self, lane: Lane) -> Strategy:
        strategy = self._strategies.get(lane.version)
        if strategy is None:
            strategy = self._strategies[lane.version] = self._make_strategy()
        return strategy


def _late(job: Job) -> DeadlineExceeded:
    waited = "while it waited" if not job.attempts else "while it was executed"
    return DeadlineExceeded(f"Request timeout expired {waited}", fix="allow more time, or add workers")


def _unloaded(model: str) -> ModelUnloaded:
    return ModelUnloaded(f"model '{model}' was unloaded", fix=f"tetherctl models load {model}")


def _load_failed(lane: Lane, wait: Seconds) -> ModelLoadFailed:
    return ModelLoadFailed(
        f"failed to load '{lane.model}', version {lane.number}: {lane.failure}",
        fix=f"see tetherctl models show {lane.model}",
        retry_after=round(max(wait, 0.0), 1),
    )


def _no_worker(model: str) -> Unavailable:
    return Unavailable(
        f"no worker is available to serve '{model}'", fix="start one: tetherd run --role worker", retry_after=1.0
    )
