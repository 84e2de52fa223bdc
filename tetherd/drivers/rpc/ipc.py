"""Where the other processes of this host come in: at a Unix socket, or at a port of loopback."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tetherd.drivers.rpc import arena, sp
from tetherd.drivers.rpc.arena import Arena
from tetherd.drivers.rpc.connections import Connection
from tetherd.drivers.rpc.lines import Plain
from tetherd.drivers.rpc.turns import Desk
from tetherd.errors import BadConfig, InUse
from tetherd.types import Seconds

PATH_MAX: Final = 107

_BACKLOG: Final = 1024
_HELLO_TIMEOUT: Final[Seconds] = 5.0


@contextlib.contextmanager
def listening(path: Path, desk: Desk, limit: int) -> Iterator[None]:
    """Answer at ``path`` with messages of up to ``limit`` bytes. Raises BadConfig, InUse."""
    found = _bind(path)
    inode = path.stat().st_ino
    try:
        with _answering(found, desk, limit):
            yield
    finally:
        with contextlib.suppress(OSError):
            if path.stat().st_ino == inode:
                path.unlink()


@contextlib.contextmanager
def listening_on(host: str, port: int, desk: Desk, limit: int) -> Iterator[None]:
    """Answer at a port of loopback with messages of up to ``limit`` bytes. Raises BadConfig, InUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        kind = InUse if error.errno == errno.EADDRINUSE else BadConfig
        message = f"cannot listen on tcp://{host}:{port}: {error.strerror or error}"
        raise kind(message, fix="stop what uses it, or set rpc.listen") from None
    found.setblocking(False)
    with _answering(found, desk, limit):
        yield


@contextlib.contextmanager
def _answering(found: socket.socket, desk: Desk, limit: int) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    arrivals: set[_Arrival] = set()

    def accept() -> None:
        with contextlib.suppress(OSError):  # gone again, or too many files: the next one is told anew
            connection, _ = found.accept()
            connection.setblocking(False)
            arrivals.add(_Arrival(connection, desk, limit, arrivals))

    loop.add_reader(found.fileno(), accept)
    try:
        yield
    finally:
        loop.remove_reader(found.fileno())
        found.close()
        for arrival in list(arrivals):
            arrival.close()


class _Arrival:
    """Who has been let in, and is heard once it has said that it asks."""

    def __init__(self, found: socket.socket, desk: Desk, limit: int, arrivals: "set[_Arrival]") -> None:
        self._socket = found
        self._desk = desk
        self._limit = limit
        self._arrivals = arrivals
        self._is_unix = found.family == socket.AF_UNIX
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._patience = self._loop.call_later(_HELLO_TIMEOUT, self.close)
        if not self._is_unix:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(found.fileno(), self._hello)

    def close(self) -> None:
        self._patience.cancel()
        if self._connection is not None:
            self._connection.close()
            return
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._arrivals.discard(self)

    def _hello(self) -> None:
        try:
            hello, shared = self._heard()
            if hello != sp.ASKS or self._socket.send(sp.ANSWERS) != len(sp.ANSWERS):
                return self.close()
        except (OSError, ValueError):
            return self.close()
        self._patience.cancel()
        framing = sp.Framing(self._limit, shared, between=not self._is_unix)
        self._connection = Connection(Plain(self._socket), framing, self._desk, self._ended)
        return self._connection.start()

    def _ended(self) -> None:
        self._arrivals.discard(self)
        self._connection = None  # or the memory that it shares would stay until garbage is collected

    def _heard(self) -> tuple[bytes, Arena | None]:
        if not self._is_unix:
            return self._socket.recv(len(sp.ASKS)), None
        hello, files, _, _ = socket.recv_fds(self._socket, len(sp.ASKS), 1)
        return hello, Arena(files[0], arena.ACCEPTING) if files else None


def _bind(path: Path) -> socket.socket:
    check_path(path)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.setblocking(False)
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
    return found


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
