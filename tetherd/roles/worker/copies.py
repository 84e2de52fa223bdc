"""One loaded version on this worker, and its copies, each kept alive by a task of its own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from tetherd.errors import TetherError
from tetherd.policy.placement import Resident, Restarts
from tetherd.ports import Clock, Runner
from tetherd.types import Isolation, Seconds
from tetherd.wire.assignments import Bearings, Event
from tetherd.wire.chunks import BlobSource
from tetherd.wire.messages import Load, Loaded, RunnerState

_RECENT: Final[Seconds] = 2.0
_STOP: Final[Seconds] = 5.0

_log = logging.getLogger("tetherd.worker")


class Copy:
    """One runner of a version: what it is now, and what it has been seen to do."""

    def __init__(self, names: Iterator[str], since: Seconds) -> None:
        self._names = names
        self.id = next(names)
        self.state: RunnerState = "LOADING"
        self.reason = ""
        self.since = since
        self.bytes = 0
        self.runner: Runner | None = None
        self.bearings: Bearings | None = None  # as the runner was told last

    def rename(self) -> None:
        """Take another name for the next runner: what is meant for the one before must not meet it."""
        self.id = next(self._names)


class Group:
    """All copies of one version."""

    def __init__(self, load: Load, isolation: Isolation, now: Seconds) -> None:
        self.load = load
        self.isolation = isolation
        self.pinned = load.pinned
        self.used = now
        self.stopping = False
        self.successor: Load | None = None
        self.copies: list[Copy] = []
        self.sources: tuple[BlobSource, ...] = ()  # as of the latest start of a runner
        self.restarts = Restarts()

    @property
    def failed(self) -> bool:
        """Whether none of its copies will serve."""
        return all(copy.state == "FAILED" for copy in self.copies)

    def resident(self, now: Seconds) -> Resident:
        """Return it as eviction sees it."""
        busy = now - self.used < _RECENT or any(copy.state == "LOADING" for copy in self.copies)
        size = sum(copy.bytes for copy in self.copies)
        return Resident(self.load.version, size, self.used, busy, self.pinned)

    def report(self) -> list[Loaded]:
        """Return its copies as the orchestrator hears of them."""
        load = self.load
        return [
            Loaded(
                runner=copy.id,
                model=load.model,
                number=load.number,
                version=load.version,
                state=copy.state,
                reason=copy.reason,
                bytes=copy.bytes,
                isolation=self.isolation,
                since=copy.since,
                pid=copy.runner.pid if copy.runner else 0,
            )
            for copy in self.copies
        ]


class Keeper:
    """Keeps one copy alive: starts its runner, listens to it, and starts another when it dies."""

    def __init__(
        self,
        group: Group,
        copy: Copy,
        *,
        clock: Clock,
        start: Callable[[Group, Copy], Awaitable[Runner]],
        changed: Callable[[], None],
        load_timeout: Seconds,
    ) -> None:
        self._group = group
        self._copy = copy
        self._clock = clock
        self._start = start
        self._changed = changed
        self._load_timeout = load_timeout

    async def keep(self) -> None:
        """Return when the copy was stopped on purpose or will not be tried again; its state says which."""
        copy, group = self._copy, self._group
        while not group.stopping:
            final, reason = await self._live()
            if self._told_to_stop():
                return
            if final:
                self._become("FAILED", reason)
                return
            _log.warning("runner died", extra={"runner": copy.id, "model": group.load.model, "reason": reason})
            now = self._clock.monotonic()
            group.restarts.observe(now)
            pause = group.restarts.decide(now)
            if pause is None:
                self._become("FAILED", f"its runner died {Restarts.LIMIT} times within a minute, last: {reason}")
                return
            copy.rename()
            self._become("LOADING", "")
            await asyncio.sleep(pause)

    async def _live(self) -> tuple[bool, str]:
        """See one runner through its life; return whether another would end the same way, and why it ended.

        One that ended without a word, killed by whoever needed its memory, says nothing about the next.
        """
        copy = self._copy
        try:
            copy.runner = await self._start(self._group, copy)
        except TetherError as error:
            return True, error.message
        try:
            if self._told_to_stop():
                return True, ""
            try:
                event = await self._outcome(copy.runner)
            except TimeoutError:
                return True, f"loading took longer than {self._load_timeout:g} s"
            if event is None:
                return False, f"the runner ended while it loaded the model: {await copy.runner.ending()}"
            if event.kind == "failed":
                return True, event.reason
            copy.bytes = event.bytes
            self._become("READY", "")
            while (event := await copy.runner.event()) is not None:
                self._note(event)
            return False, await copy.runner.ending()
        finally:
            runner, copy.runner, copy.bytes = copy.runner, None, 0
            await runner.stop(0)

    async def _outcome(self, runner: Runner) -> Event | None:
        """Wait for how loading went; while files arrive its time starts again. Raises TimeoutError."""
        while True:
            async with asyncio.timeout(self._load_timeout):
                event = await runner.event()
            if event is None or event.kind != "fetching":
                return event

    def _told_to_stop(self) -> bool:
        return self._group.stopping

    def _note(self, event: Event) -> None:
        self._copy.bytes = event.bytes
        self._group.used = self._clock.monotonic()

    def _become(self, state: RunnerState, reason: str) -> None:
        copy = self._copy
        copy.state, copy.reason, copy.since = state, reason, self._clock.wall()
        if state == "FAILED":
            _log.error("model failed", extra={"model": self._group.load.model, "runner": copy.id, "reason": reason})
        self._changed()


async def stop(group: Group, changed: Callable[[], None]) -> None:
    """Let every copy deliver what it executes, and end it; ``changed`` is called once they are unloading."""
    group.stopping = True
    for copy in group.copies:
        copy.state = "UNLOADING"
    changed()
    await asyncio.gather(*(copy.runner.stop(_STOP) for copy in group.copies if copy.runner))
