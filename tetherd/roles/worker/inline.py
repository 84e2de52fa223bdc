"""Runners inside the worker's own process: no hop and no encoding, and no protection from the model either."""

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from tetherd.errors import TetherError
from tetherd.ports import Caller, Clock, Engine
from tetherd.roles.serving import SLOTS, Inline
from tetherd.types import Seconds
from tetherd.wire.assignments import Assignment, Bearings, Event, Site, identity
from tetherd.wire.chunks import BlobSource, Ways

Load: TypeAlias = Callable[[Assignment, Callable[[BlobSource], Ways]], Engine]
"""Loads a model, given where each of its sources can be dialled at the moment. Blocking."""


class InlineRunner:
    """One runner whose slots are tasks of this event loop."""

    def __init__(self, load: Load, caller: Callable[[Site], Caller], clock: Clock) -> None:
        self._load = load
        self._caller = caller
        self._clock = clock
        self._serving: asyncio.Task[None] | None = None
        self._inline: Inline | None = None
        self._bearings = Bearings(())
        self._served: dict[str, set[asyncio.Task[None]]] = {}  # the slots of each orchestrator
        self._slots: set[asyncio.Task[None]] = set()  # those that have not ended, of all
        self._group = asyncio.TaskGroup()
        self._leaving = asyncio.Event()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    @property
    def pid(self) -> int:
        """Return this process."""
        return os.getpid()

    async def assign(self, assignment: Assignment) -> None:
        """Load and serve in the background."""
        self._bearings = Bearings(assignment.orchestrators, assignment.ways)
        self._serving = asyncio.create_task(self._serve(assignment))

    async def event(self) -> Event | None:
        """Wait for the next event; None when it has ended."""
        return await self._events.get()

    async def ending(self) -> str:
        """Return how it ended, in words, once there are no more events."""
        return "its tasks ended"

    async def cancel(self, batch: int) -> None:
        """End the execution of a batch that it holds, if it still does."""
        if self._inline is not None:
            self._inline.cancel(batch)

    async def follow(self, bearings: Bearings) -> None:
        """Take work from these orchestrators, and from no others."""
        self._bearings = bearings
        if self._inline is not None and not self._leaving.is_set():
            self._meet(self._inline, bearings.orchestrators)

    async def stop(self, patience: Seconds) -> None:
        """Let it deliver what it executes, then end it: by cancelling after ``patience``. 0 = at once."""
        serving = self._serving
        if serving is None:
            return
        if patience and self._inline is not None:
            self._leaving.set()
            await asyncio.wait([serving], timeout=patience)
        serving.cancel()
        await asyncio.wait([serving])
        # An ended task keeps its frames and they the engine: in a ring its memory would wait for the collector.
        self._serving = self._inline = None
        self._group = asyncio.TaskGroup()
        for slots in self._served.values():
            slots.clear()
        self._served.clear()

    async def _serve(self, assignment: Assignment) -> None:
        try:
            engine = await asyncio.to_thread(self._load, assignment, self._ways)
            try:
                await self._execute(assignment, engine)
            finally:
                engine.close()
        except TetherError as error:
            self._events.put_nowait(Event("failed", reason=error.message))
        finally:
            self._events.put_nowait(None)

    def _ways(self, source: BlobSource) -> Ways:
        return self._bearings.ways.get(source.node, Ways())

    async def _execute(self, assignment: Assignment, engine: Engine) -> None:
        async with asyncio.TaskGroup() as self._group:
            inline = self._inline = Inline(assignment, engine, self._clock)
            watch = self._group.create_task(self._watch(engine, inline))
            self._meet(inline, self._bearings.orchestrators)
            self._events.put_nowait(Event("loaded", bytes=engine.bytes))
            await self._leaving.wait()
            inline.leave()
            while self._slots:
                await asyncio.wait(self._slots)
            watch.cancel()

    def _meet(self, inline: Inline, sites: Sequence[Site]) -> None:
        """Begin to serve orchestrators that are new, and end to serve those that are gone."""
        found = {identity(site): site for site in sites}
        for gone in self._served.keys() - found.keys():
            inline.withdraw(self._served.pop(gone))
        for name in found.keys() - self._served.keys():
            slots = self._served[name] = set()
            orchestrator = self._caller(found[name])
            for _ in range(SLOTS):
                slot = self._group.create_task(inline.serve(orchestrator, partial(self._is_served, name, slots)))
                slots.add(slot)
                self._slots.add(slot)
                slot.add_done_callback(self._slots.discard)

    def _is_served(self, name: str, slots: set[Any]) -> bool:
        return self._served.get(name) is slots

    async def _watch(self, engine: Engine, inline: Inline) -> None:
        executed = 0
        while True:
            await asyncio.sleep(1.0)
            engine.watch(self._clock.monotonic())
            if inline.executed != executed:
                executed = inline.executed
                self._events.put_nowait(Event("alive", bytes=engine.bytes, executed=executed))


class InlineLauncher:
    """Makes runners inside this process. ``caller`` gives the caller of an orchestrator."""

    def __init__(self, load: Load, caller: Callable[[Site], Caller], clock: Clock) -> None:
        self._load = load
        self._caller = caller
        self._clock = clock

    async def launch(self) -> InlineRunner:
        """Return a runner that waits for its assignment."""
        return InlineRunner(self._load, self._caller, self._clock)
