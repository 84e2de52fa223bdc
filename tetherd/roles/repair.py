"""What a primary does about versions that it does not hold itself, since it took them over: it fetches them."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tetherd.policy.replication import GRACE
from tetherd.ports import Clock
from tetherd.roles.copying import Copying
from tetherd.roles.holdings import Holders
from tetherd.types import Digest, Seconds

_HEARTBEAT: Final[Seconds] = 2.0

_log = logging.getLogger("tetherd.repair")


class Repair:
    """Has ``copying`` bring what is missing from those of whom ``holders`` knows that they have it."""

    def __init__(self, holders: Holders, copying: Copying, clock: Clock) -> None:
        self._holders = holders
        self._copying = copying
        self._clock = clock
        self._told: set[Digest] = set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Look what is missing, at the beginning and on every news, and have it brought, until cancelled."""
        ready()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copying.obey())
                group.create_task(self._order())
        finally:
            self._copying.close()

    async def _order(self) -> None:
        patience = self._clock.monotonic() + GRACE  # by then all who are there have said what they hold
        while True:
            self._copying.news.clear()
            await self._copying.look()
            self._copying.order(self._holders.lacking())
            if self._clock.monotonic() > patience:
                self._tell(self._holders.lost())
            try:
                async with asyncio.timeout(_HEARTBEAT if self._copying.missing else None):
                    await self._copying.news.wait()
            except TimeoutError:
                continue

    def _tell(self, lost: set[Digest]) -> None:
        for version in sorted(lost - self._told):
            _log.error(
                "no manager that is there holds a version in full: start one that did, or push its files again",
                extra={"version": version},
            )
        self._told = lost
