"""Requests between processes of one host: nng's protocol on Unix sockets, read and written by the event loop itself.

nng brings each message through two threads of its own on either side, which costs more than all that is done with a
small request; here it is one wake-up on either side. The bytes are nng's, so that its sockets can dial these listeners:

    each side first sends 00 53 50 00 <protocol, 2 bytes> 00 00     (protocol: 0x30 asks, 0x31 answers)
    a message is      01 <length, 8 bytes big-endian> <request id, 4 bytes> <frame>
    or, between ours, 02 <length> <request id> <payload length, 8 bytes> <frame without its payloads>

The second form leaves the payloads in shared memory (``arena``), whose file comes along with the first bytes.
Sources: nanomsg RFCs sp-ipc-mapping-01 and sp-request-reply-01.
"""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

from tetherd.drivers.rpc import arena
from tetherd.drivers.rpc.arena import Arena
from tetherd.drivers.rpc.turns import Desk, Message, too_large
from tetherd.errors import BadConfig, InUse
from tetherd.types import Buffer, Seconds

PATH_MAX: Final = 107
HELLO: Final = struct.Struct(">4sHH")
ASKS: Final = HELLO.pack(b"\0SP\0", 0x30, 0)
ANSWERS: Final = HELLO.pack(b"\0SP\0", 0x31, 0)

_WHOLE: Final = 1
_APART: Final = 2
_HEAD: Final = struct.Struct(">BQI")
_SIZE: Final = struct.Struct(">Q")
LAST: Final = 0x8000_0000  # set in the id that was made by whoever asks; without it the message came through a device
_READ: Final = 64 * 1024
_PARTS: Final = 64  # a call to the kernel takes some 1,000 parts at most; joining the small ones is cheaper anyway
_BACKLOG: Final = 1024
_MAX_PARKED: Final = 4096
_HELLO_TIMEOUT: Final[Seconds] = 5.0
_STALLED: Final[Seconds] = 10.0

_peers = count(-1, -1)  # pipes of nng have positive ids


class Broken(Exception):
    """What came is not this protocol, or there is no more of it."""


def compose(request: int, buffers: Iterable[Buffer], limit: int, shared: Arena | None) -> list[Buffer]:
    """Return the message for a frame as buffers to be sent one after the other. Raises TooLarge beyond ``limit``."""
    head, *payloads = [memoryview(buffer).cast("B") for buffer in buffers]
    size = sum(len(part) for part in payloads)
    if len(head) + size > limit:
        raise too_large(len(head) + size, limit)
    if shared is not None and arena.fits(size):
        shared.put(payloads)
        return [_HEAD.pack(_APART, 4 + _SIZE.size + len(head), request) + _SIZE.pack(size), head]
    return [_HEAD.pack(_WHOLE, 4 + len(head) + size, request), head, *payloads]


class Reader:
    """Cuts what arrives into messages. ``shared`` is where those find their payloads that left them there."""

    def __init__(self, limit: int, shared: Arena | None = None) -> None:
        self.shared = shared
        self._limit = limit
        self._small = bytearray(_READ)
        self._room = memoryview(self._small)  # where the next bytes go: the small buffer, or that of one large message
        self._filled = 0
        self._large: bytearray | None = None

    def room(self) -> memoryview:
        """Return where the next bytes are to be received to."""
        return self._room[self._filled :]

    def received(self, size: int) -> None:
        """Note that ``size`` bytes were received to ``room``."""
        self._filled += size

    def next(self) -> Message | None:
        """Return the next complete message, if there is one. Raises Broken for what is none."""
        if self._filled < _HEAD.size:
            return None
        kind, length, request = _HEAD.unpack_from(self._room)
        end = _HEAD.size - 4 + length
        if kind not in (_WHOLE, _APART) or not 4 <= length <= self._limit + _SIZE.size + 4 or not request & LAST:
            raise Broken("not a message, or one that is too large")
        if self._filled < end:
            if end > len(self._room):
                self._grow(end)
            return None
        if self._large is None:
            frame: Buffer = bytes(self._room[_HEAD.size : end])
            self._room[: self._filled - end] = self._room[end : self._filled]
            self._filled -= end
        else:
            frame = self._room[_HEAD.size : end].toreadonly()
            self._large, self._room, self._filled = None, memoryview(self._small), 0
        return self._message(kind, request, frame)

    def _grow(self, size: int) -> None:
        # Exactly as long as the message, so that nothing of the next one gets behind it.
        self._large = bytearray(size)
        self._large[: self._filled] = self._room[: self._filled]
        self._room = memoryview(self._large)

    def _message(self, kind: int, request: int, frame: Buffer) -> Message:
        if kind == _WHOLE:
            return Message(request, frame)
        if self.shared is None or len(frame) < _SIZE.size:
            raise Broken("payloads in memory that is not shared")
        (size,) = _SIZE.unpack_from(frame)
        if size > arena.HALF:
            raise Broken("payloads larger than the memory they are in")
        return Message(request, memoryview(frame)[_SIZE.size :], self.shared.got(size))


class _Turn:
    __slots__ = ("_connection", "_request", "apart", "node")

    def __init__(self, connection: "_Connection", request: int, apart: Buffer | None) -> None:
        self._connection = connection
        self._request = request
        self.node = ""
        self.apart = apart

    def answer(self, buffers: Iterable[Buffer] | None) -> None:
        self._connection.answer(self._request, buffers)

    def hang_up(self) -> None:
        self._connection.hang_up()


class _Connection:
    """One peer. Reads while it may ask more, and writes what the socket takes."""

    def __init__(self, desk: Desk, found: socket.socket, limit: int, ended: Callable[["_Connection"], None]) -> None:
        self.peer = next(_peers)
        self._desk = desk
        self._socket = found
        self._limit = limit
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(limit)
        self._parked = 0
        self._unsent: deque[memoryview] = deque()
        self._greeted = self._leaving = self._closed = False
        self._patience = self._loop.call_later(_HELLO_TIMEOUT, self.close)
        self._loop.add_reader(found, self._hello)

    def answer(self, request: int, buffers: Iterable[Buffer] | None) -> None:
        if not self._closed and buffers is not None:
            self._send(compose(request, buffers, self._limit, self._reader.shared))
        self._parked -= 1
        if self._parked == _MAX_PARKED - 1:
            self._loop.call_soon(self._resume)

    def hang_up(self) -> None:
        # Takes nothing more, but closes later: whoever asks for it is in the middle of something.
        self._leaving = True
        self._loop.remove_reader(self._socket)
        self._loop.call_soon(self.close)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._patience.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._ended(self)
        if self._greeted:
            self._desk.forget(self.peer)

    def _hello(self) -> None:
        try:
            hello, files, _, _ = socket.recv_fds(self._socket, HELLO.size, 1)
            shared = Arena(files[0], arena.ACCEPTING) if files else None
            if hello != ASKS or self._socket.send(ANSWERS) != len(ANSWERS):
                return self.close()
        except (OSError, ValueError):
            return self.close()
        self._reader.shared = shared
        self._patience.cancel()
        self._greeted = True
        self._loop.add_reader(self._socket, self._readable)
        return self._desk.greet(self.peer)

    def _readable(self) -> None:
        try:
            size = self._socket.recv_into(self._reader.room())
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            size = 0
        if not size:
            return self.close()
        self._reader.received(size)
        return self._take()

    def _resume(self) -> None:
        if not self._leaving and not self._closed:
            self._loop.add_reader(self._socket, self._readable)
            self._take()

    def _take(self) -> None:
        try:
            while not self._leaving and self._parked < _MAX_PARKED and (message := self._reader.next()):
                # The peer may write to shared memory while we read: what is judged must be what is used.
                apart = None if message.apart is None else bytes(message.apart)
                self._parked += 1
                self._desk.begin(_Turn(self, message.request, apart), message.frame, self.peer)
        except Broken:
            return self.close()
        if self._parked >= _MAX_PARKED and not self._leaving:
            self._loop.remove_reader(self._socket)  # it reads on when fewer are under way
        return None

    def _send(self, parts: Sequence[Buffer]) -> None:
        if self._unsent:
            self._unsent.extend(memoryview(part) for part in parts)
            return
        rest = _send_some(self._socket, parts)
        if rest is None:
            self.hang_up()
        elif rest:
            self._unsent.extend(rest)
            self._patience = self._loop.call_later(_STALLED, self.close)
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        rest = _send_some(self._socket, self._unsent)
        if rest is None:
            return self.close()
        self._unsent = deque(rest)
        self._patience.cancel()
        if rest:
            self._patience = self._loop.call_later(_STALLED, self.close)
        else:
            self._loop.remove_writer(self._socket)
        return None


def _send_some(found: socket.socket, parts: Iterable[Buffer]) -> list[memoryview] | None:
    """Send what the socket takes; return the rest, or None when there is nobody to send to."""
    rest = few(parts)
    try:
        sent = found.sendmsg(rest)
    except (BlockingIOError, InterruptedError):
        return rest
    except OSError:
        return None
    return after(rest, sent)


def few(parts: Iterable[Buffer]) -> list[memoryview]:
    """Return the parts as no more than the kernel takes at once."""
    views = [memoryview(part) for part in parts]
    return views if len(views) <= _PARTS else [memoryview(b"".join(views))]


def after(parts: list[memoryview], sent: int) -> list[memoryview]:
    """Return what is left of ``parts`` when ``sent`` bytes of them are gone."""
    for index, part in enumerate(parts):
        if sent < len(part):
            return [part[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []


@contextlib.contextmanager
def listening(path: Path, desk: Desk, limit: int) -> Iterator[None]:
    """Answer at ``path`` with messages of up to ``limit`` bytes. Raises BadConfig and InUse like ``nng.listen``."""
    loop = asyncio.get_running_loop()
    found = _bind(path)
    inode = path.stat().st_ino
    connections: set[_Connection] = set()

    def accept() -> None:
        with contextlib.suppress(OSError):  # gone again, or too many files: the next one is told anew
            connection, _ = found.accept()
            connection.setblocking(False)
            connections.add(_Connection(desk, connection, limit, connections.discard))

    loop.add_reader(found, accept)
    try:
        yield
    finally:
        loop.remove_reader(found)
        found.close()
        with contextlib.suppress(OSError):
            if path.stat().st_ino == inode:
                path.unlink()
        for connection in list(connections):
            connection.close()


def _bind(path: Path) -> socket.socket:
    check_path(path)
    found: Any = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        try:
            found.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or _answers(path):
                raise
            path.unlink()  # left behind by a process that was killed
            found.bind(str(path))
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise InUse(f"ipc://{path} is in use by another process", fix="stop it, or set rpc.listen") from None
        raise BadConfig(
            f"cannot listen on ipc://{path}: {error.strerror}", fix="set rpc.listen to a path in a directory you own"
        ) from None
    return socket.socket(fileno=found.detach())


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) != errno.ECONNREFUSED


def check_path(path: Path) -> None:
    """Raise BadConfig unless ``path`` can be a socket of ours: short enough, and not somebody's file."""
    if len(os.fsencode(path)) > PATH_MAX:
        raise BadConfig(
            f"the socket path {path} is longer than {PATH_MAX} bytes", fix="set node.runtime_dir to a shorter path"
        )
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise BadConfig(
            f"{path} exists and is not a socket of this user; listening there would delete it",
            fix="move the file away, or set rpc.listen",
        )
