"""Two connected sockets made one: what arrives at either leaves by the other, and nobody looks at it.

Works on sockets of the event loop without its transports: a chunk is received into one buffer that all flows share and
sent from there, so that only what the other side does not take at once is ever copied or kept. A flow reads no more
until that rest has gone: back-pressure reaches the sender through the kernel's own buffers.
"""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

from tetherd.types import Seconds

CHUNK: Final = 256 * 1024
"""Bytes moved at once, and the most that one direction of a splice keeps."""

WATCH: Final[Seconds] = 1.0
UNANSWERED: Final = 5
"""Retransmissions in a row that brought no answer, 6 s or more: the peer is gone, whatever the kernel still hopes."""

_KEEPALIVE: Final = (("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))
_RETRANSMITS: Final = 2  # the byte of the kernel's tcp_info
_RESET: Final = struct.pack("ii", 1, 0)


def tune(connection: socket.socket) -> None:
    """Make a connection ready for a splice: prompt, and aware of a peer that vanished without a word."""
    connection.setblocking(False)
    with contextlib.suppress(OSError):  # it was closed meanwhile: the splice will notice
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def reset(connection: socket.socket) -> None:
    """Close a connection so that its peer cannot take the end for a proper one."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


class Splice:
    """Carries bytes between two sockets until both directions have ended, or one broke. Owns both."""

    def __init__(self, left: socket.socket, right: socket.socket, buffer: memoryview) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends = (left, right)
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._watching: asyncio.TimerHandle | None = None
        self.rightward = _Flow(left, right, buffer, self._flow_ended)
        self.leftward = _Flow(right, left, buffer, self._flow_ended)

    @property
    def moved(self) -> int:
        """Return the bytes carried so far, both ways together."""
        return self.rightward.moved + self.leftward.moved

    async def run(self) -> None:
        """Carry until it is over, whatever the reason; both sockets are closed then."""
        self.rightward.start()
        self.leftward.start()
        self._watch()
        try:
            await self._over
        finally:
            assert self._watching is not None
            self._watching.cancel()
            proper = self.rightward.ended and self.leftward.ended
            self.rightward.stop()
            self.leftward.stop()
            for end in self._ends:
                end.close() if proper else reset(end)

    def cut(self) -> None:
        """End it now; both peers see a broken connection."""
        if not self._over.done():
            self._over.set_result(None)

    def _flow_ended(self, broken: bool) -> None:
        if broken or (self.rightward.ended and self.leftward.ended):
            self.cut()

    def _watch(self) -> None:
        if any(_unanswered(end) >= UNANSWERED for end in self._ends):
            self.cut()
        self._watching = self._loop.call_later(WATCH, self._watch)


class _Flow:
    """One direction of a splice."""

    __slots__ = ("_buffer", "_loop", "_rest", "_sink", "_source", "_tell", "ended", "moved")

    def __init__(
        self, source: socket.socket, sink: socket.socket, buffer: memoryview, tell: Callable[[bool], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = sink
        self._buffer = buffer
        self._tell = tell
        self._rest = memoryview(b"")
        self.moved = 0
        self.ended = False

    def start(self) -> None:
        self._loop.add_reader(self._source, self._read)

    def stop(self) -> None:
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)

    def _read(self) -> None:
        try:
            count = self._source.recv_into(self._buffer)
            data = self._buffer[:count]
            sent = self._send(data) if count else 0
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return self._tell(True)
        if not count:
            self._loop.remove_reader(self._source)
            self._end()
        elif sent < count:
            self._rest = memoryview(bytes(data[sent:]))  # the buffer is everybody's
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._flush)
        return None

    def _flush(self) -> None:
        try:
            self._rest = self._rest[self._send(self._rest) :]
        except OSError:
            return self._tell(True)
        if not self._rest:
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._read)
        return None

    def _send(self, data: memoryview) -> int:
        try:
            sent = self._sink.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        self.moved += sent
        return sent

    def _end(self) -> None:
        """Pass the end of the stream on; the other direction may go on for long."""
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError:
            return self._tell(True)
        self.ended = True
        return self._tell(False)


def _unanswered(connection: socket.socket) -> int:
    """Return how often in a row data was sent again to a peer that says nothing; a full peer still answers."""
    if sys.platform != "linux":
        return 0
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RETRANSMITS + 1)[_RETRANSMITS]
