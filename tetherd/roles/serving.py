"""What a runner does with the batches it is handed, in a process of its own or inside a worker's."""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from functools import partial
from itertools import count
from typing import Final, TypeAlias

from tetherd.errors import Cancelled, ExecutionFailed, TetherError, Unreachable
from tetherd.policy.inline import Inlining
from tetherd.ports import Caller, Clock, Engine
from tetherd.types import Seconds
from tetherd.wire.assignments import Assignment
from tetherd.wire.messages import Batch, Finished, Take

SLOTS: Final = 2
"""One batch that executes and one that is held ready, for each orchestrator; all of them take turns."""

PARK: Final[Seconds] = 4.0
"""A take that found no work is answered after so long, and offered again: networks lose connections without a word."""

_RETRY: Final[Seconds] = 0.2
_DELIVERIES: Final = 10
_LAST_WORDS: Final = 2

Exchange: TypeAlias = Callable[[Take, Callable[[], None]], Batch]
Wanted: TypeAlias = Callable[[], bool]
"""Tells whether an orchestrator is still to be served."""

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

    def hold(self, finished: Finished) -> None:
        """Note that a batch is to be delivered again."""
        self.held.add(finished.batch)

    def release(self, finished: Finished | None) -> None:
        """Note that a batch is delivered."""
        if finished is not None:
            self.held.discard(finished.batch)
            self._given_up.discard(finished.batch)

    def give_up(self, batch: int, now: Seconds) -> None:
        """Do not begin a batch that is held, or end its execution. Called from another thread than ``take``."""
        if batch not in self.held:
            return
        # In this order: a batch that begins in between finds itself given up. Should the next one begin instead, it is
        # ended in its place and tried again by the orchestrator.
        self._given_up.add(batch)
        if self._current == batch:
            self._engine.end(now)


class Outcome:
    """What a slot has to tell of the batch it executed last, as long as it may not have been heard."""

    def __init__(self) -> None:
        self.finished: Finished | None = None
        self._failures = 0

    def tell(self, finished: Finished | None) -> None:
        """Have an outcome to tell; None: nothing any more."""
        self.finished = finished
        self._failures = 0

    def observe(self, error: TetherError) -> bool:
        """Take note that it could not be told, and return whether to pause before the next attempt.

        Where the connection was lost it is told again on the next one. What cannot be said (outputs that are too large)
        is replaced by why, so that nobody waits for it.
        """
        finished = self.finished
        self._failures += 1
        if finished is None:
            return True
        if isinstance(error, Unreachable):
            if self._failures >= _DELIVERIES:
                self.finished = None  # its lease is long over, or it is what ends the connections
            return True
        self.finished = Finished(finished.batch, failure=error.failure()) if finished.failure is None else None
        return self.finished is None


class Slots:
    """The slots of a runner process: each a thread that offers to one orchestrator, executes and delivers.

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
        self._numbers = count()
        self.executed = 0

    @property
    def holding(self) -> int:
        """Return how many batches are executed or not delivered yet."""
        return len(self._turns.held)

    def serve(self, exchange: Exchange, wanted: Wanted = lambda: True) -> None:
        """Serve one slot until ``stop``, or while it is ``wanted``. Runs in a thread of its own."""
        outcome, slot = Outcome(), next(self._numbers)
        while wanted() and not self._stopping.is_set():
            batch = self._offer(exchange, outcome, slot)
            if batch.id:
                self._turns.held.add(batch.id)
                with self._turn:
                    outcome.tell(self._turns.take(batch))
                    self.executed += 1
        for _ in range(_LAST_WORDS):
            if outcome.finished is not None:
                self._offer(exchange, outcome, slot, last=True)
        self._turns.release(outcome.finished)

    def cancel(self, batch: int, now: Seconds) -> None:
        """Do not execute a batch that nobody waits for, or end its execution."""
        self._turns.give_up(batch, now)

    def stop(self) -> None:
        """Take no more batches; what executes is finished and delivered."""
        self._stopping.set()

    def _offer(self, exchange: Exchange, outcome: Outcome, slot: int, *, last: bool = False) -> Batch:
        finished = outcome.finished
        offer = take(self._assignment, finished, slot, last=last, held=self._turns.held)
        try:
            # The last one is delivered when it is answered: what is only sent could be lost with the process.
            batch = exchange(offer, _nothing if last else partial(self._turns.release, finished))
            outcome.tell(None)
        except TetherError as error:
            batch = Batch(0)
            if outcome.observe(error):
                self._pause(_RETRY)
        if outcome.finished is None:
            self._turns.release(finished)
        else:
            self._turns.hold(outcome.finished)
        return batch


def _nothing() -> None:
    """Do nothing."""


def take(assignment: Assignment, finished: Finished | None, slot: int, *, held: set[int], last: bool = False) -> Take:
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
        list(held),
        slot,
    )


class Inline:
    """The slots of a runner hosted inside the worker's process, where its requests need no encoding."""

    def __init__(self, assignment: Assignment, engine: Engine, clock: Clock) -> None:
        self._assignment = assignment
        self._clock = clock
        self._turn = asyncio.Lock()
        self._inlining = Inlining()
        self._numbers = count()
        self._turns = Turns(engine)
        self._leaving = False
        self._parked: set[asyncio.Task[None]] = set()
        self.executed = 0

    async def serve(self, orchestrator: Caller, wanted: Wanted = lambda: True) -> None:
        """Serve one slot with an orchestrator's work, until cancelled or told to leave, or while it is ``wanted``."""
        task = asyncio.current_task()
        assert task is not None
        outcome, slot = Outcome(), next(self._numbers)
        try:
            while wanted() and not self._leaving:
                self._parked.add(task)
                batch = await self._offer(orchestrator, outcome, slot)
                self._parked.discard(task)
                if batch.id:
                    outcome.tell(await self._execute(batch))
            if outcome.finished is not None:
                await self._offer(orchestrator, outcome, slot, last=True)
        finally:
            self._parked.discard(task)
            del task  # a task whose frame names it keeps itself alive, and the engine with it

    def leave(self) -> None:
        """Withdraw the offers that are parked, and end each slot once it has delivered what it executes."""
        self._leaving = True
        self.withdraw(self._parked)

    def withdraw(self, slots: Collection[asyncio.Task[None]]) -> None:
        """End those of the slots that only wait; the others notice by themselves that they are wanted no more."""
        for task in self._parked.intersection(slots):
            task.cancel()

    async def _offer(self, orchestrator: Caller, outcome: Outcome, slot: int, *, last: bool = False) -> Batch:
        deadline = self._clock.monotonic() + PARK
        offer = take(self._assignment, outcome.finished, slot, last=last, held=self._turns.held)
        self._turns.release(outcome.finished)
        try:
            batch = await orchestrator.call(offer, deadline=deadline)
        except TetherError as error:
            pause = outcome.observe(error)
            if outcome.finished is not None:
                self._turns.hold(outcome.finished)
            if pause:
                await asyncio.sleep(_RETRY)
            return Batch(0)
        outcome.tell(None)
        return batch

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
        self._inlining.observe((finished.input_ns + finished.infer_ns + finished.output_ns) / 1e9)
        return finished
