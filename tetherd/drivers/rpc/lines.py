"""What bytes go over: a socket as it is, or one with TLS. Either blocks or does not, as it was made."""

import contextlib
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from tetherd.types import Buffer, Seconds

_PARTS: Final = 64  # a call to the kernel takes some 1,000 parts at most; joining the small ones is cheaper anyway
_JOINED: Final = 64 * 1024  # a record of TLS costs more than to copy this
_AT_ONCE: Final = 128 * 1024  # OpenSSL takes all of it or nothing, and then wants the same again


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
            return _after(rest, self._socket.sendmsg(rest))
        except (BlockingIOError, InterruptedError):
            return rest

    def bound(self, within: Seconds) -> None:
        """See Line."""
        if within != self._socket.gettimeout():  # each time costs a call to the kernel
            self._socket.settimeout(within)

    def end(self) -> None:
        """See Line."""
        with contextlib.suppress(OSError):  # it has ended
            # Not SSLSocket.shutdown: that makes what another thread still sends go out unencrypted.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Secure(Plain):
    """A socket with TLS, whose handshake is over. Implements Line."""

    def __init__(self, found: ssl.SSLSocket) -> None:
        super().__init__(found)
        self._socket: ssl.SSLSocket = found

    def receive(self, room: memoryview) -> int | None:
        """See Line."""
        # That it would have to send first, to go on, is an error like others: a peer that asks for new keys and takes
        # nothing would be readable for ever.
        try:
            return self._socket.recv_into(room)
        except ssl.SSLWantReadError:
            return None

    def pending(self) -> bool:
        """See Line."""
        return self._socket.pending() > 0

    def send(self, parts: Iterable[Buffer]) -> list[memoryview]:
        """See Line."""
        rest = [memoryview(part) for part in parts]
        with contextlib.suppress(ssl.SSLWantWriteError):
            while rest:
                rest = _joined(rest)
                rest = _after(rest, self._socket.send(rest[0][:_AT_ONCE]))
        return rest


def exactly(found: socket.socket, size: int) -> bytes:
    """Return the next ``size`` bytes of a socket that blocks. Raises OSError, ConnectionResetError at its end."""
    heard = b""
    while len(heard) < size:
        part = found.recv(size - len(heard))
        if not part:
            raise ConnectionResetError("the connection was closed")
        heard += part
    return heard


def _few(parts: Iterable[Buffer]) -> list[memoryview]:
    """Return the parts as no more than the kernel takes at once."""
    views = [memoryview(part) for part in parts]
    return views if len(views) <= _PARTS else [memoryview(b"".join(views))]


def _after(parts: list[memoryview], sent: int) -> list[memoryview]:
    """Return what is left of ``parts`` when ``sent`` bytes of them are gone."""
    for index, part in enumerate(parts):
        if sent < len(part):
            return [part[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []


def _joined(parts: Sequence[memoryview]) -> list[memoryview]:
    """Return the parts with the small ones at their beginning as one."""
    size = count = 0
    while count < len(parts) and size + len(parts[count]) <= _JOINED:
        size += len(parts[count])
        count += 1
    return [memoryview(b"".join(parts[:count])), *parts[count:]] if count > 1 else list(parts)
