"""A worker's side of one orchestrator: what it hears from here, and what it commands."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from tetherd.errors import TetherError
from tetherd.ports import Caller, Clock
from tetherd.types import Seconds
from tetherd.wire.messages import Commands, NextCommands, Report

HEARTBEAT: Final[Seconds] = 1.0
_PARK: Final[Seconds] = 30.0
_ANSWER: Final[Seconds] = 5.0
_RETRY: Final[Seconds] = 0.25

_log = logging.getLogger("tetherd.worker")


class Link:
    """One orchestrator, told of every change and obeyed. ``changed`` is set when there is something to tell."""

    def __init__(
        self, orchestrator: Caller, *, state: Callable[[], Report], obey: Callable[[Commands], None], clock: Clock
    ) -> None:
        self._orchestrator = orchestrator
        self._state = state
        self._obey = obey
        self._clock = clock
        self.changed = asyncio.Event()
        self._duties: list[asyncio.Task[None]] = []

    def begin(self, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """Report and obey, in tasks that ``spawn`` starts, until ``end``."""
        self._duties = [spawn(self.report()), spawn(self.obey())]

    def end(self) -> None:
        """Have nothing to do with it any more."""
        for duty in self._duties:
            duty.cancel()

    async def report(self) -> None:
        """Tell it the worker's state on every change, and now and then, until cancelled."""
        reachable = True
        while True:
            self.changed.clear()
            try:
                await self._orchestrator.call(self._state(), deadline=self._clock.monotonic() + _ANSWER)
                reachable = True
            except TetherError as error:
                if reachable:
                    _log.warning("the orchestrator does not answer", extra={"reason": error.message})
                reachable = False
                await asyncio.sleep(_RETRY)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await self.changed.wait()

    async def obey(self) -> None:
        """Do what it commands until cancelled."""
        received = 0
        while True:
            try:
                question = NextCommands(self._state().worker, received)
                commands = await self._orchestrator.call(question, deadline=self._clock.monotonic() + _PARK)
            except TetherError:
                await asyncio.sleep(_RETRY)
                continue
            if commands.number > received:  # the same ones come again when an answer or the next question was lost
                received = commands.number
                self._obey(commands)

    async def leave(self) -> None:
        """Tell it the worker's state once more, if it is there."""
        with contextlib.suppress(TetherError):
            await self._orchestrator.call(self._state(), deadline=self._clock.monotonic() + HEARTBEAT)
