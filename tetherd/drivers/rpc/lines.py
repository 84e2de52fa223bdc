"""What bytes go over: here a socket as it is, in ``secure`` one with TLS. They block or do not, as they were made."""

import contextlib
import socket
from collections.abc import Iterable
from typing import Final, Protocol

from tetherd.types import Buffer, Seconds

PARTS: Final = 64
"""Buffers that are sent at once. The kernel takes some 1,000; joining the small ones is cheaper anyway."""


class Line(Protocol):
    """One connection of bytes."""

    def fileno(self) -> int:
        """Return the file to watch."""
        ...

    def receive(self, room: memoryview) -> int | None:
        """Receive to ``room``; return how many bytes, 0 at the end, None when there are none now. Raises OSError."""
        ...

    def pending(self) -> bool:
        """Tell whether there is more that watching the file does not show."""
        ...

    def send(self, parts: Iterable[Buffer]) -> list[memoryview]:
        """Send what it takes, and return the rest, which is what has to be sent next. Raises OSError."""
        ...

    def bound(self, within: Seconds) -> None:
        """Have whatever blocks raise TimeoutError after so long."""
        ...

    def end(self) -> None:
        """End it from another thread than the one that uses it, and wake that one."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Plain:
    """A socket as it is. Implements Line."""

    def __init__(self, found: socket.socket) -> None:
        self._socket = found
        self.fileno = found.fileno
        self.close = found.close

    def receive(self, room: memoryview) -> int | None:
        """See Line."""
        try:
            return self._socket.recv_into(room)
        except (BlockingIOError, InterruptedError):
            return None

    def pending(self) -> bool:
        """See Line."""
        return False

    def send(self, parts: Iterable[Buffer]) -> list[memoryview]:
        """See Line."""
        rest = _few(parts)
        try:
            return after(rest, self._socket.sendmsg(rest))
        except (BlockingIOError, InterruptedError):
            return rest

    def bound(self, within: Seconds) -> None:
        """See Line."""
        self._socket.settimeout(within)

    def end(self) -> None:
        """See Line."""
        with contextlib.suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_RDWR)


def _few(parts: Iterable[Buffer]) -> list[memoryview]:
    """Return the parts as no more than the kernel takes at once."""
    views = [memoryview(part) for part in parts]
    return views if len(views) <= PARTS else [memoryview(b"".join(views))]


def after(parts: list[memoryview], sent: int) -> list[memoryview]:
    """Return what is left of ``parts`` when ``sent`` bytes of them are gone."""
    for index, part in enumerate(parts):
        if sent < len(part):
            return [part[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []
