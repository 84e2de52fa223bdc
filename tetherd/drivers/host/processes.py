"""Runner processes: started by exec and never by fork, spoken to over their standard streams."""

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from typing import Final

from tetherd.errors import MALFORMED, Unavailable
from tetherd.types import Seconds
from tetherd.wire.assignments import Assignment, Bearings, Event, GiveUp, Told, decode_event, encode

_ENDING: Final[Seconds] = 1.0


class RunnerProcess:
    """One runner process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    async def assign(self, assignment: Assignment) -> None:
        """Say what it is to be. Raises Unavailable when it is dead."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode(assignment))
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError):
            raise Unavailable("the runner process ended before it was assigned a model") from None

    async def event(self) -> Event | None:
        """Wait for its next event; None when it has ended."""
        assert self._process.stdout is not None
        while True:
            # A library found our pipe after all: what it writes is no JSON, no text or a line without end.
            with contextlib.suppress(*MALFORMED, ValueError):
                line = await self._process.stdout.readline()
                return decode_event(line) if line else None

    async def ending(self) -> str:
        """Return how it ended, in words, once there are no more events."""
        try:
            async with asyncio.timeout(_ENDING):
                code = await self._process.wait()
        except TimeoutError:
            return "it closed its output"
        if code >= 0:
            return f"it ended with code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"it was killed by {name}"

    async def cancel(self, batch: int) -> None:
        """End the execution of a batch that it holds, if it still does."""
        await self._tell(GiveUp(batch))

    async def follow(self, bearings: Bearings) -> None:
        """Say where those are now that it deals with."""
        await self._tell(bearings)

    async def stop(self, patience: Seconds) -> None:
        """Let it deliver what it executes, then end it: by force after ``patience``. 0 = at once."""
        if self._process.stdin and not self._process.stdin.is_closing():
            self._process.stdin.close()
        if patience:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._process.wait()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()

    async def _tell(self, told: Told) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):  # it is ending anyway
            self._process.stdin.write(encode(told))
            await self._process.stdin.drain()


class ProcessLauncher:
    """Starts runner processes with this very interpreter."""

    async def launch(self) -> RunnerProcess:
        """Return a process that waits for its assignment. Raises Unavailable when none can be started."""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tetherd.runner", stdin=PIPE, stdout=PIPE, start_new_session=True
            )
        except OSError as error:
            raise Unavailable(f"cannot start a runner process: {error.strerror}") from None
        return RunnerProcess(process)
