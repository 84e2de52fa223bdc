"""Does nothing twice: keeps what a request of another host came to, and gives that again to the same request.

TLS lets nobody repeat what another has sent, so a repetition comes from the node itself: it lost the connection before
the answer came, or it means harm. Some requests are as good twice as once only at once, and not minutes later, when
others have changed what they change. None is left half done because its connection was lost: it goes on, and whoever
asks again finds what it came to.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from tetherd.ports import Clock
from tetherd.types import Seconds

R = TypeVar("R")

KEPT: Final[Seconds] = 600.0
MOST: Final = 4096

Key: TypeAlias = tuple[str, str, int]
"""The node that asks, its method, and the number that it gave the call."""


class Once:
    """What requests came to in the last ten minutes, and those under way; of too many, the latest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._found: dict[Key, tuple[Seconds, asyncio.Future[Any]]] = {}

    async def do(self, key: Key, act: Callable[[], Awaitable[R]]) -> R:
        """Return what ``act`` came to for this key before, or act, to the end also if nobody waits for it any more.

        What failed is done again by whoever asks after that.
        """
        known = self._found.get(key)
        if known is None or self._is_old(known):
            known = self._begin(key, act)
        reply: R = await asyncio.shield(known[1])
        return reply

    def close(self) -> None:
        """Cancel what is under way."""
        for _, work in self._found.values():
            work.cancel()

    def _begin(self, key: Key, act: Callable[[], Awaitable[R]]) -> tuple[Seconds, asyncio.Future[Any]]:
        self._found.pop(key, None)
        begun = self._found[key] = self._clock.monotonic(), asyncio.ensure_future(act())
        begun[1].add_done_callback(partial(self._end, key))
        while len(self._found) > MOST or self._is_old(next(iter(self._found.values()))):
            self._found.pop(next(iter(self._found)))[1].cancel()
        return begun

    def _is_old(self, known: tuple[Seconds, asyncio.Future[Any]]) -> bool:
        return known[1].done() and known[0] + KEPT <= self._clock.monotonic()

    def _end(self, key: Key, work: asyncio.Future[Any]) -> None:
        if (work.cancelled() or work.exception()) and key in self._found and self._found[key][1] is work:
            del self._found[key]
