"""Which worker loads a version, and which runner a worker stops when memory is short."""

from collections.abc import Sequence
from typing import Final

import msgspec

from tetherd.types import Seconds

FAIL_FAST: Final[Seconds] = 3.0
"""Work for which there has been no worker for so long is refused at once."""

LOAD_RETRY: Final[Seconds] = 10.0
"""A version that failed to load is not tried again sooner, unless someone asks for it."""


class Room(msgspec.Struct, frozen=True):
    """A worker as placement sees it."""

    worker: str
    memory_limit: int
    memory_used: int
    runners: int


def choose(rooms: Sequence[Room]) -> str | None:
    """Return the worker with the largest share of its memory free, fewest runners first among equals."""
    if not rooms:
        return None
    return min(rooms, key=lambda room: (room.memory_used / max(room.memory_limit, 1), room.runners, room.worker)).worker


class Resident(msgspec.Struct, frozen=True):
    """A loaded version as eviction sees it."""

    version: str
    bytes: int
    used: Seconds
    busy: bool
    pinned: bool


def evict(residents: Sequence[Resident], *, over: int, surplus: int) -> list[str]:
    """Return the versions to unload, least recently used first, until ``over`` bytes and ``surplus`` runners are freed.

    Busy and pinned ones stay. May free less than asked when nothing else can go.
    """
    chosen: list[str] = []
    for resident in sorted(residents, key=lambda one: one.used):
        if over <= 0 and surplus <= 0:
            break
        if resident.busy or resident.pinned:
            continue
        chosen.append(resident.version)
        over -= resident.bytes
        surplus -= 1
    return chosen


class Restarts:
    """Whether a runner that died may be started again: at once, after a growing pause, or not for a minute."""

    WINDOW: Final[Seconds] = 60.0
    LIMIT: Final = 5

    def __init__(self) -> None:
        self._deaths: list[Seconds] = []

    def observe(self, now: Seconds) -> None:
        """Take note of a death."""
        self._deaths = [death for death in self._deaths if now - death < self.WINDOW] + [now]

    def decide(self, now: Seconds) -> Seconds | None:
        """Return how long to wait before the next start, or None when it died too often to be tried again soon."""
        recent = [death for death in self._deaths if now - death < self.WINDOW]
        if len(recent) >= self.LIMIT:
            return None
        return 0.0 if len(recent) <= 1 else min(2.0 ** (len(recent) - 2), self.WINDOW)
