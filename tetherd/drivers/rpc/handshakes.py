"""Ends TCP connections that were accepted for TLS and never finish their handshake: nng waits for them for ever.

Their file descriptors are nng's. They are never closed here, only shut down, so that nng sees their end and closes
them.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias

from tetherd.drivers.host import memory
from tetherd.drivers.host.descriptors import borrowed, sockets
from tetherd.types import Seconds

PATIENCE: Final[Seconds] = 5.0
"""How long a handshake may take."""

MOST: Final = 64
"""Handshakes under way beyond this: the oldest are ended before their time, unless they have only just begun."""

_YOUNG: Final[Seconds] = 1.0  # when all of a large network comes back at once, none is ended that makes progress
_AT_ONCE: Final = 8
_BREATH: Final[Seconds] = 0.004
_ROUND: Final = 256
# nng clears away what was ended on the two threads that also carry everybody's messages, and 1,400 at once held those
# up for 15 ms. So many at a time, with a breath between them; and after so many in all it is looked anew who is late.

Remote: TypeAlias = tuple[str, int]


class Handshakes:
    """The connections to some TCP ports of this process that are no nng connections yet."""

    def __init__(
        self,
        ports: AbstractSet[int],
        patience: Seconds = PATIENCE,
        most: int = MOST,
        pause: Callable[[Seconds], None] = time.sleep,
    ) -> None:
        self._ports = ports
        self._patience = patience
        self._most = most
        self._pause = pause
        self._known: dict[int, Remote | None] = {}  # by inode; None = not to one of the ports
        self._since: dict[int, Seconds] = {}  # by inode, the oldest first
        self._debt = memory.Debt()

    def sweep(self, now: Seconds, established: AbstractSet[Remote]) -> int:
        """End the handshakes that take too long or are too many; return how many were ended.

        ``established`` holds the other ends of the connections that nng has. Blocks for microseconds per open file, and
        for half a millisecond per handshake that is ended.
        """
        files = sockets()
        self._known = {inode: self._remote(inode, files[inode]) for inode in files}
        waiting = [inode for inode, remote in self._known.items() if remote and remote not in established]
        gone = len(self._since.keys() - waiting)
        since = {inode: self._since.get(inode, now) for inode in waiting}
        self._since = dict(sorted(since.items(), key=lambda item: item[1]))
        ended = 0
        for inode in self._late(now)[:_ROUND]:
            ended += _end(inode, files[inode])
            if ended % _AT_ONCE == 0:
                self._pause(_BREATH)
        self._debt.add(gone)
        if not gone and not ended and self._debt.due():
            memory.give_back()
        return ended

    def _late(self, now: Seconds) -> list[int]:
        """Return those that had their time, and the oldest of those that are too many."""
        surplus = len(self._since) - self._most
        young = min(_YOUNG, self._patience)
        return [
            inode
            for place, (inode, began) in enumerate(self._since.items())
            if now - began >= (young if place < surplus else self._patience)
        ]

    def _remote(self, inode: int, number: int) -> Remote | None:
        if inode in self._known:
            return self._known[inode]
        with contextlib.suppress(OSError), borrowed(inode, number) as found:
            is_tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
            if is_tcp and found.getsockname()[1] in self._ports:
                host, port = found.getpeername()[:2]
                return host.partition("%")[0], port
        return None


def _end(inode: int, number: int) -> bool:
    with contextlib.suppress(OSError), borrowed(inode, number) as found:
        found.shutdown(socket.SHUT_RDWR)
        return True
    return False
