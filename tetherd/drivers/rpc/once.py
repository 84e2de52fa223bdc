"""Does nothing twice: keeps what a request of another host came to, and gives that again to the same request.

TLS lets nobody repeat what another has sent, so a repetition comes from the node itself: it lost the connection before
the answer came, or it means harm. Some requests are as good twice as once only at once, and not minutes later, when
others have changed what they change.
"""

import asyncio
from collections.abc import Awaitable, Callable
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
        """Return what ``act`` returned for this key before, or act. What failed, or was cancelled, is done again."""
        while known := self._found.get(key):
            if known[0] + KEPT <= self._clock.monotonic():
                del self._found[key]
                break
            await asyncio.wait([known[1]])
            if not known[1].cancelled():
                reply: R = known[1].result()
                return reply
        future = self._begin(key)
        try:
            reply = await act()
        except BaseException:
            future.cancel()
            self._drop(key, future)
            raise
        future.set_result(reply)
        return reply

    def _begin(self, key: Key) -> asyncio.Future[Any]:
        now, future = self._clock.monotonic(), asyncio.get_running_loop().create_future()
        self._found[key] = now, future
        while len(self._found) > MOST or next(iter(self._found.values()))[0] + KEPT <= now:
            del self._found[next(iter(self._found))]
        return future

    def _drop(self, key: Key, future: asyncio.Future[Any]) -> None:
        if key in self._found and self._found[key][1] is future:
            del self._found[key]
