"""Who is connected to a listener: reads what they ask, on the event loop itself, and writes what they are answered.

nng brings each message through two threads of its own on either side, which costs more than all that is done with a
small request; here it is one wake-up on either side.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Final

from tetherd.drivers.rpc import sp
from tetherd.drivers.rpc.lines import Line
from tetherd.drivers.rpc.turns import Desk
from tetherd.types import Buffer, Seconds

MAX_UNREAD: Final = 512 * 1024 * 1024
"""A connection that leaves this many bytes of answers unread is closed, or takes almost nothing of them for 10 s."""

STALLED: Final[Seconds] = 10.0

_LEAST: Final = 64 * 1024  # bytes, in that time
_MAX_PARKED: Final = 8192  # another host is refused long before: whoever is not read any more cannot cancel, or leave
_IN_A_ROW: Final = 64

_peers = count(1)


class Connection:
    """One peer, from when it has said which protocol it speaks. Reads while it may ask more.

    ``ended`` is called once, after the desk was told.
    """

    def __init__(self, line: Line, framing: sp.Framing, desk: Desk, ended: Callable[[], None]) -> None:
        self.peer = next(_peers)
        self._line = line
        self._framing = framing
        self._desk = desk
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._parked = 0
        self._unsent: deque[memoryview] = deque()
        self._unread = 0  # bytes in them
        self._taken = 0  # of those, since it was last said to be slow
        self._leaving = self._closed = False
        self._patience: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Hear what it asks from now on."""
        self._desk.greet(self.peer)
        self._listen()

    def answer(self, request: int, buffers: Iterable[Buffer] | None) -> None:
        """Send the answer, if any. Raises TooLarge, and may be called again then."""
        if not self._closed and buffers is not None:
            self._send(self._framing.compose(request, buffers))
        self._parked -= 1
        if self._parked == _MAX_PARKED - 1:
            self._loop.call_soon(self._resume)

    def hang_up(self) -> None:
        """Take nothing more, and close, but later: whoever asks for it is in the middle of something."""
        if not self._leaving and not self._closed:
            self._leaving = True
            self._loop.remove_reader(self._line.fileno())
            self._loop.call_soon(self.close)

    def close(self) -> None:
        """Close it, and tell the desk."""
        if self._closed:
            return
        self._closed = True
        self._be_patient(False)
        self._loop.remove_reader(self._line.fileno())
        self._loop.remove_writer(self._line.fileno())
        self._line.close()
        try:
            self._desk.forget(self.peer)
        finally:
            self._ended()

    def _may_read(self) -> bool:
        return not self._leaving and not self._closed and self._parked < _MAX_PARKED

    def _listen(self) -> None:
        if self._may_read():
            self._loop.add_reader(self._line.fileno(), self._readable)
            if self._line.pending():
                self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        for _ in range(_IN_A_ROW):
            if not self._may_read():
                return None
            try:
                size = self._line.receive(self._framing.room())
            except OSError:
                size = 0
            if size is None:
                return None
            if not size:
                return self.close()
            self._framing.received(size)
            self._take()
            if not self._line.pending():
                return None
        self._loop.call_soon(self._readable)  # watching the file would not show what is pending
        return None

    def _resume(self) -> None:
        self._take()
        self._listen()

    def _take(self) -> None:
        try:
            while self._may_read() and (message := self._framing.next()):
                # The peer may write to shared memory while we read: what is judged must be what is used.
                apart = None if message.apart is None else bytes(message.apart)
                self._parked += 1
                self._desk.begin(_Turn(self, message.request, apart), message.frame, self.peer)
        except sp.Broken:
            return self.close()
        if self._parked >= _MAX_PARKED and not self._leaving and not self._closed:
            self._loop.remove_reader(self._line.fileno())  # it reads on when fewer are under way
        return None

    def _send(self, parts: Sequence[Buffer]) -> None:
        if not self._unsent:
            try:
                rest = self._line.send(parts)
            except OSError:
                return self.hang_up()
            if not rest:
                return None
            self._be_patient(True)
            self._loop.add_writer(self._line.fileno(), self._writable)
        else:
            rest = [memoryview(part) for part in parts]
        self._unsent.extend(rest)
        self._unread += sum(len(part) for part in rest)
        if self._unread > max(MAX_UNREAD, 4 * self._framing.limit):
            self.hang_up()
        return None

    def _writable(self) -> None:
        try:
            self._unsent = deque(self._line.send(self._unsent))
        except OSError:
            return self.close()
        unread = sum(len(part) for part in self._unsent)
        self._taken += self._unread - unread
        self._unread = unread
        if not unread:
            self._be_patient(False)
            self._loop.remove_writer(self._line.fileno())
        elif self._taken >= _LEAST:
            self._be_patient(True)
        return None

    def _be_patient(self, waiting: bool) -> None:
        """Wait so long for more to be read, or no longer."""
        self._taken = 0
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self._loop.call_later(STALLED, self.close) if waiting else None


class _Turn:
    __slots__ = ("_connection", "_request", "apart", "node")

    def __init__(self, connection: Connection, request: int, apart: Buffer | None) -> None:
        self._connection = connection
        self._request = request
        self.node = ""
        self.apart = apart

    def answer(self, buffers: Iterable[Buffer] | None) -> None:
        self._connection.answer(self._request, buffers)

    def hang_up(self) -> None:
        self._connection.hang_up()
