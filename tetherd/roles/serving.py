"""What a runner does with the batches it is handed, in a process of its own or inside a worker's."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from tetherd.errors import Cancelled, ExecutionFailed, TetherError
from tetherd.policy.inline import Inlining
from tetherd.ports import Caller, Clock, Engine
from tetherd.types import Seconds
from tetherd.wire.assignments import Assignment
from tetherd.wire.messages import Batch, Finished, Take

SLOTS: Final = 2
"""One batch that executes and one that is held ready."""

PARK: Final[Seconds] = 4.0
"""A take that found no work is answered after so long, and offered again: networks lose connections without a word."""

_RETRY: Final[Seconds] = 0.2

Exchange: TypeAlias = Callable[[Take, Callable[[], None]], Batch]

_log = logging.getLogger("tetherd.runner")


def execute(engine: Engine, batch: Batch) -> Finished:
    """Execute a batch and return its outcome, whatever it is."""
    try:
        outputs, (input_ns, infer_ns, output_ns) = engine.execute(batch.inputs, batch.budget_ms / 1000)
    except TetherError as error:
        return Finished(batch.id, failure=error.failure())
    except Exception as error:
        _log.exception("the engine failed", extra={"requests": batch.request_ids[:8]})
        failed = ExecutionFailed(f"the engine failed: {type(error).__name__}", fix="see the worker's log")
        return Finished(batch.id, failure=failed.failure())
    return Finished(batch.id, outputs, None, input_ns, infer_ns, output_ns)


class Turns:
    """The batches that one runner holds, executed one at a time, each of which can be given up."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._current = 0
        self.held: set[int] = set()
        self._given_up: set[int] = set()

    def take(self, batch: Batch) -> Finished:
        """Execute a batch, unless it was given up."""
        self._current = batch.id
        try:
            if batch.id in self._given_up:
                return Finished(batch.id, failure=Cancelled("nobody waits for this batch").failure())
            return execute(self._engine, batch)
        finally:
            self._current = 0

    def release(self, batch: int) -> None:
        """Note that a batch is delivered."""
        self.held.discard(batch)
        self._given_up.discard(batch)

    def give_up(self, batch: int, now: Seconds) -> None:
        """Do not begin a batch that is held, or end its execution. Called from another thread than ``take``."""
        if batch not in self.held:
            return
        # In this order: a batch that begins in between finds itself given up. Should the next one begin instead, it is
        # ended in its place and tried again by the orchestrator.
        self._given_up.add(batch)
        if self._current == batch:
            self._engine.end(now)


class Slots:
    """The slots of a runner process: each a thread that offers, executes and delivers.

    ``exchange`` sends a take, calls back when it is sent, and waits for its batch, however long that takes; it raises
    TetherError when the orchestrator cannot be reached, and is called again after ``pause``. ``executed`` counts the
    batches executed since the start.
    """

    def __init__(self, assignment: Assignment, engine: Engine, pause: Callable[[Seconds], None]) -> None:
        self._assignment = assignment
        self._pause = pause
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._turns = Turns(engine)
        self.executed = 0

    @property
    def holding(self) -> int:
        """Return how many batches are executed or not delivered yet."""
        return len(self._turns.held)

    def serve(self, exchange: Exchange) -> None:
        """Serve one slot until ``stop``. Runs in a thread of its own."""
        finished: Finished | None = None
        while not self._stopping.is_set():
            batch = self._offer(exchange, finished)
            finished = None
            if batch is not None and batch.id:
                self._turns.held.add(batch.id)
                with self._turn:
                    finished = self._turns.take(batch)
                    self.executed += 1
        if finished is not None:
            self._offer(exchange, finished, last=True)

    def cancel(self, batch: int, now: Seconds) -> None:
        """Do not execute a batch that nobody waits for, or end its execution."""
        self._turns.give_up(batch, now)

    def stop(self) -> None:
        """Take no more batches; what executes is finished and delivered."""
        self._stopping.set()

    def _offer(self, exchange: Exchange, finished: Finished | None, *, last: bool = False) -> Batch | None:
        def deliver() -> None:
            if finished is not None:
                self._turns.release(finished.batch)

        try:
            # The last one is delivered when it is answered: what is only sent could be lost with the process.
            return exchange(take(self._assignment, finished, last=last), _nothing if last else deliver)
        except TetherError as error:
            if undelivered := _undelivered(finished, error):
                return self._offer(exchange, undelivered, last=last)
            self._pause(_RETRY)
            return None
        finally:
            deliver()


def _nothing() -> None:
    """Do nothing."""


def _undelivered(finished: Finished | None, error: TetherError) -> Finished | None:
    """Return what to say instead of outputs that could not be delivered (too large, say), so that nobody waits."""
    if finished is None or finished.failure is not None:
        return None
    return Finished(finished.batch, failure=error.failure())


def take(assignment: Assignment, finished: Finished | None, *, last: bool = False) -> Take:
    """Return the offer of one slot of a runner."""
    return Take(
        assignment.runner,
        assignment.worker,
        assignment.model,
        assignment.number,
        assignment.version,
        assignment.max_rows,
        finished,
        last,
    )


class Inline:
    """The slots of a runner hosted inside the worker's process, where its requests need no encoding."""

    def __init__(self, assignment: Assignment, engine: Engine, caller: Caller, clock: Clock) -> None:
        self._assignment = assignment
        self._caller = caller
        self._clock = clock
        self._turn = asyncio.Lock()
        self._inlining = Inlining()
        self._turns = Turns(engine)
        self._leaving = False
        self._parked: set[asyncio.Task[None]] = set()
        self.executed = 0

    async def serve(self) -> None:
        """Serve one slot until cancelled or told to leave."""
        task = asyncio.current_task()
        assert task is not None
        finished: Finished | None = None
        try:
            while not self._leaving:
                self._parked.add(task)
                batch, finished = await self._offer(finished)
                self._parked.discard(task)
                if batch.id:
                    finished = await self._execute(batch)
            if finished is not None:
                await self._offer(finished, last=True)
        finally:
            self._parked.discard(task)
            del task  # a task whose frame names it keeps itself alive, and the engine with it

    def leave(self) -> None:
        """Withdraw the offers that are parked, and end each slot once it has delivered what it executes."""
        self._leaving = True
        for task in self._parked:
            task.cancel()

    async def _offer(self, finished: Finished | None, *, last: bool = False) -> tuple[Batch, Finished | None]:
        deadline = self._clock.monotonic() + PARK
        try:
            return await self._caller.call(take(self._assignment, finished, last=last), deadline=deadline), None
        except TetherError as error:
            undelivered = _undelivered(finished, error)
            if undelivered is None:
                await asyncio.sleep(_RETRY)
            return Batch(0), undelivered

    def cancel(self, batch: int) -> None:
        """Do not execute a batch that nobody waits for, or end its execution."""
        self._turns.give_up(batch, self._clock.monotonic())

    async def _execute(self, batch: Batch) -> Finished:
        self._turns.held.add(batch.id)
        async with self._turn:
            self.executed += 1
            if self._inlining.decide():
                finished = self._turns.take(batch)
            else:
                finished = await asyncio.to_thread(self._turns.take, batch)
        self._turns.release(batch.id)
        self._inlining.observe((finished.input_ns + finished.infer_ns + finished.output_ns) / 1e9)
        return finished
