"""Runners without processes: they take work as real ones do, and crash, hang or fail to load when a test says so."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from tetherd.errors import TetherError, Unavailable
from tetherd.ports import Caller, Clock
from tetherd.roles.serving import PARK, SLOTS, Outcome, execute, take
from tetherd.types import Seconds, Signature, Tensor, TensorSpec
from tetherd.wire.assignments import Assignment, Bearings, Event
from tetherd.wire.messages import Batch

Fate: TypeAlias = Literal["serve", "fail", "hang", "crash", "dead", "refuse"]
"""What becomes of a runner: it serves, reports a failed load, never finishes loading, dies while it loads, is dead when
it is assigned, or cannot be launched."""

SIGNATURE: Final = Signature((TensorSpec("x", "INT64", (-1,)),), (TensorSpec("y", "INT64", (-1,)),), batchable=True)


class FakeEngine:
    """Implements ports.Engine: returns its inputs under the names of its outputs, or what ``answer`` makes of them.

    ``executed`` lists the inputs of every execution; ``ns`` is how long one claims to take.
    """

    def __init__(
        self,
        signature: Signature = SIGNATURE,
        answer: Callable[[list[Tensor]], list[Tensor]] | None = None,
        ns: int = 1_000_000,
    ) -> None:
        self.signature = signature
        self.bytes = 0
        self.executed: list[list[Tensor]] = []
        self.ended = threading.Event()  # set when an execution is told to end
        self.closed = False
        self._answer = answer
        self._ns = ns

    def execute(self, inputs: list[Tensor], budget: Seconds) -> tuple[list[Tensor], tuple[int, int, int]]:  # noqa: ARG002
        """See ports.Engine."""
        self.executed.append(inputs)
        if self._answer:
            return self._answer(inputs), (0, self._ns, 0)
        named = zip(self.signature.outputs, inputs, strict=False)
        return [Tensor(spec.name, one.datatype, one.shape, one.data) for spec, one in named], (0, self._ns, 0)

    def end(self, now: Seconds) -> None:  # noqa: ARG002
        """See ports.Engine."""
        self.ended.set()

    def watch(self, now: Seconds) -> Seconds:  # noqa: ARG002
        """See ports.Engine."""
        return 0.0

    def close(self) -> None:
        """See ports.Engine."""
        self.closed = True


class FakeRunner:
    """Implements ports.Runner over a connection of its own.

    While ``gate`` is closed it holds the batches it was handed; ``seen`` lists all of them, ``cancelled`` those that it
    was told to give up.
    """

    def __init__(self, connection: Caller, cut: Callable[[], None], engine: FakeEngine, clock: Clock, pid: int) -> None:
        self.pid = pid
        self.engine = engine
        self.fate: Fate = "serve"
        self.gate = asyncio.Event()
        self.cancelled: list[int] = []
        self.gate.set()
        self.seen: list[Batch] = []
        self.assignment: Assignment | None = None
        self.stopped: list[Seconds] = []
        self.told: list[Bearings] = []
        self.bytes = 0
        self._connection = connection
        self._cut = cut
        self._clock = clock
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._turn = asyncio.Lock()
        self._leaving = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._holding = 0
        self._held: set[int] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def assign(self, assignment: Assignment) -> None:
        """See ports.Runner."""
        if self.fate == "dead":
            raise Unavailable("the runner process ended before it was assigned a model")
        self.assignment = assignment
        if self.fate == "fail":
            self._events.put_nowait(Event("failed", reason="the graph makes no sense"))
        elif self.fate == "crash":
            self.crash()
        elif self.fate == "serve":
            self._tasks = [asyncio.create_task(self._serve(assignment, slot)) for slot in range(SLOTS)]
            self._events.put_nowait(Event("loaded", bytes=self.bytes))

    async def event(self) -> Event | None:
        """See ports.Runner."""
        return await self._events.get()

    async def ending(self) -> str:
        """See ports.Runner."""
        return "the test ended it"

    async def cancel(self, batch: int) -> None:
        """See ports.Runner."""
        self.cancelled.append(batch)

    async def follow(self, bearings: Bearings) -> None:
        """See ports.Runner."""
        self.told.append(bearings)

    async def stop(self, patience: Seconds) -> None:
        """See ports.Runner."""
        self.stopped.append(patience)
        self._leaving = True
        if patience:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._idle.wait()
        self.crash()

    def tell(self, event: Event) -> None:
        """Have it tell its worker something."""
        self._events.put_nowait(event)

    def crash(self) -> None:
        """End it as ``kill -9`` does."""
        for task in self._tasks:
            task.cancel()
        self._cut()
        self._events.put_nowait(None)

    async def _serve(self, assignment: Assignment, slot: int) -> None:
        outcome = Outcome()
        while not self._leaving or outcome.finished is not None:
            delivered = outcome.finished
            offer = take(assignment, delivered, slot, last=self._leaving, held=self._held)
            if delivered is not None:
                self._held.discard(delivered.batch)
            try:
                parked = asyncio.create_task(self._connection.call(offer, deadline=self._clock.monotonic() + PARK))
                parked.add_done_callback(lambda call: call.cancelled() or call.exception())
                for _ in range(2):  # its handler begins, and what is finished is delivered
                    await asyncio.sleep(0)
                self._count(-1 if delivered else 0)
                batch = await parked
                outcome.tell(None)
            except TetherError as error:
                if outcome.observe(error):
                    await asyncio.sleep(0.2)
                if outcome.finished is not None:
                    self._held.add(outcome.finished.batch)
                    self._count(1)
                continue
            if batch.id:
                self._count(1)
                self._held.add(batch.id)
                self.seen.append(batch)
                await self.gate.wait()
                async with self._turn:
                    outcome.tell(execute(self.engine, batch))

    def _count(self, change: int) -> None:
        self._holding += change
        if self._holding:
            self._idle.clear()
        else:
            self._idle.set()


class FakeLauncher:
    """Implements ports.Launcher. ``fates`` are those of the next launches, then all serve; ``runners`` are all ever."""

    def __init__(self, make: Callable[[int], FakeRunner], fates: Sequence[Fate] = ()) -> None:
        self.fates: deque[Fate] = deque(fates)
        self.runners: list[FakeRunner] = []
        self._make = make

    async def launch(self) -> FakeRunner:
        """See ports.Launcher."""
        fate = self.fates.popleft() if self.fates else "serve"
        if fate == "refuse":
            raise Unavailable("cannot start a runner process: no memory")
        runner = self._make(1000 + len(self.runners))
        runner.fate = fate
        self.runners.append(runner)
        return runner

    def serving(self, model: str) -> list[FakeRunner]:
        """Return the runners that were assigned a model, the oldest first."""
        return [runner for runner in self.runners if runner.assignment and runner.assignment.model == model]
