"""Runners inside the worker's own process: no hop and no encoding, and no protection from the model either."""

import asyncio
import os
from collections.abc import Callable, Sequence

from tetherd.errors import TetherError
from tetherd.ports import Caller, Clock, Engine
from tetherd.roles.serving import SLOTS, Inline
from tetherd.types import Seconds
from tetherd.wire.assignments import Assignment, Event


class InlineRunner:
    """One runner whose slots are tasks of this event loop."""

    def __init__(self, load: Callable[[Assignment], Engine], orchestrators: Sequence[Caller], clock: Clock) -> None:
        self._load = load
        self._orchestrators = orchestrators
        self._clock = clock
        self._serving: asyncio.Task[None] | None = None
        self._inline: Inline | None = None
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    @property
    def pid(self) -> int:
        """Return this process."""
        return os.getpid()

    async def assign(self, assignment: Assignment) -> None:
        """Load and serve in the background."""
        self._serving = asyncio.create_task(self._serve(assignment))

    async def event(self) -> Event | None:
        """Wait for the next event; None when it has ended."""
        return await self._events.get()

    async def cancel(self, batch: int) -> None:
        """End the execution of a batch that it holds, if it still does."""
        if self._inline is not None:
            self._inline.cancel(batch)

    async def stop(self, patience: Seconds) -> None:
        """Let it deliver what it executes, then end it: by cancelling after ``patience``. 0 = at once."""
        serving = self._serving
        if serving is None:
            return
        if patience and self._inline is not None:
            self._inline.leave()
            await asyncio.wait([serving], timeout=patience)
        serving.cancel()
        await asyncio.wait([serving])
        # An ended task keeps its frames and they the engine: in a ring its memory would wait for the collector.
        self._serving = self._inline = None

    async def _serve(self, assignment: Assignment) -> None:
        try:
            engine = await asyncio.to_thread(self._load, assignment)
            try:
                await self._execute(assignment, engine)
            finally:
                engine.close()
        except TetherError as error:
            self._events.put_nowait(Event("failed", reason=error.message))
        finally:
            self._events.put_nowait(None)

    async def _execute(self, assignment: Assignment, engine: Engine) -> None:
        inline = self._inline = Inline(assignment, engine, self._clock)
        async with asyncio.TaskGroup() as group:
            slots = [group.create_task(inline.serve(one)) for one in self._orchestrators for _ in range(SLOTS)]
            watch = group.create_task(self._watch(engine, inline))
            self._events.put_nowait(Event("loaded", bytes=engine.bytes))
            await asyncio.wait(slots)
            watch.cancel()

    async def _watch(self, engine: Engine, inline: Inline) -> None:
        executed = 0
        while True:
            await asyncio.sleep(1.0)
            engine.watch(self._clock.monotonic())
            if inline.executed != executed:
                executed = inline.executed
                self._events.put_nowait(Event("alive", bytes=engine.bytes, executed=executed))


class InlineLauncher:
    """Makes runners inside this process."""

    def __init__(self, load: Callable[[Assignment], Engine], orchestrators: Sequence[Caller], clock: Clock) -> None:
        self._load = load
        self._orchestrators = orchestrators
        self._clock = clock

    async def launch(self) -> InlineRunner:
        """Return a runner that waits for its assignment."""
        return InlineRunner(self._load, self._orchestrators, self._clock)
