"""Discovery by multicast: keeps a process that speaks mDNS (``multicast.py``) and passes on what it hears.

A flood can slow, starve or end that process, which is then started again; it reaches this one as a few lines a second.
The mDNS library is never imported here.
"""

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import Final

import msgspec

from tetherd.discovery.announcement import MAX_LINE, Found, Gone, Orders, Report, Tally, Turned, decode_report, encode
from tetherd.discovery.hints import Hint
from tetherd.errors import MALFORMED
from tetherd.ports import Clock, Ears
from tetherd.types import Seconds

PATIENCE: Final[Seconds] = 2.0
"""How long the process may take to say goodbye on the network before it is ended."""

_FIRST_PAUSE: Final[Seconds] = 1.0
_LAST_PAUSE: Final[Seconds] = 60.0
_STABLE: Final[Seconds] = 60.0
_log = logging.getLogger("tetherd.mdns")


class Mdns:
    """One node's mDNS. ``tally`` is the process's latest count, ``starts`` how often it was started."""

    def __init__(self, orders: Orders, ears: Ears, clock: Clock) -> None:
        self._orders = orders
        self._ears = ears
        self._clock = clock
        self.tally = Tally()
        self.starts = 0
        self.pid = 0

    async def run(self) -> None:
        """Announce and listen until cancelled; then say goodbye. Never raises anything else."""
        pause = _FIRST_PAUSE
        while True:
            began = self._clock.monotonic()
            fault = await self._once()
            self.tally = msgspec.structs.replace(self.tally, fault=fault)
            if self._clock.monotonic() - began > _STABLE:
                pause = _FIRST_PAUSE
            _log.warning("%s; it starts again in %g s", fault, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)

    async def _once(self) -> str:
        """Run the process once; return in words why it ended."""
        self.starts += 1
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tetherd.drivers.discovery.multicast"),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                limit=MAX_LINE,
                start_new_session=True,
            )
        except OSError as error:
            return f"the process for mDNS cannot be started: {error.strerror}"
        self.pid = process.pid
        try:
            await self._follow(process)
            await _end(process)  # by itself it goes on, where it said what cannot be read
            return f"the process for mDNS ended with code {process.returncode}"
        finally:
            self.pid = 0
            await _end(process)

    async def _follow(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError, ValueError, *MALFORMED):
            process.stdin.write(encode(self._orders))
            await process.stdin.drain()
            while line := await process.stdout.readline():
                self._take(decode_report(line))

    def _take(self, report: Report) -> None:
        if isinstance(report, Found):
            self._ears.hear(
                Hint(
                    source="mdns",
                    node=report.node,
                    origin=report.instance,
                    addresses=report.addresses,
                    ports=report.ports,
                    ttl=report.ttl,
                )
            )
        elif isinstance(report, Gone):
            self._ears.vanish("mdns", report.instance, report.node)
        elif isinstance(report, Turned):
            self._ears.drop(msgspec.structs.replace(report.drop, last=self._clock.monotonic()))
        else:
            self.tally = report


async def _end(process: Process) -> None:
    """Close its standard input, which ends it; by force if that takes too long."""
    if process.returncode is not None:
        return
    if process.stdin:
        process.stdin.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
