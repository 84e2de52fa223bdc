"""A thread's own connection to a process of this host: what runners live on. The protocol is that of ``ipc``."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Final

from tetherd.drivers.rpc import arena, ipc
from tetherd.drivers.rpc.arena import Arena
from tetherd.drivers.rpc.turns import Message
from tetherd.types import Buffer, Seconds

_RETRY: Final[Seconds] = 0.02


class Lane:
    """Asks and waits, one question at a time. For one thread; ``close`` may be called from another."""

    def __init__(self, path: Path, patience: Seconds, limit: int) -> None:
        self._path = path
        self._patience = patience
        self._limit = limit
        self._ids = count()
        self._socket: socket.socket | None = None
        self._reader = ipc.Reader(limit)

    def exchange(self, buffers: Iterable[Buffer], sent: Callable[[], None], _within: Seconds = 0) -> Message:
        """Send a frame, call ``sent`` and wait for its answer, for ever. The answer lasts until the next exchange.

        No time ends the wait: within a host, no connection is lost unnoticed.

        Connects first where there is no connection. Raises TimeoutError when none comes about within the patience,
        ConnectionError when it is lost, TooLarge before anything is sent.
        """
        found = self._socket or self._connect()
        request = ipc.LAST | next(self._ids) % ipc.LAST
        parts = ipc.few(ipc.compose(request, buffers, self._limit, self._reader.shared))
        try:
            while parts:
                parts = ipc.after(parts, found.sendmsg(parts))
            sent()
            while not (message := self._reader.next()):
                self._receive(found)
        except (OSError, ipc.Broken) as error:
            self._socket = None
            found.close()
            raise ConnectionResetError(str(error)) from None
        return message

    def close(self) -> None:
        """End the connection; a thread that waits is woken."""
        if found := self._socket:
            with contextlib.suppress(OSError):  # closing alone does not wake it
                found.shutdown(socket.SHUT_RDWR)
            found.close()
            self._socket = None

    def _receive(self, found: socket.socket) -> None:
        size = found.recv_into(self._reader.room())
        if not size:
            raise ConnectionResetError("the other side ended it")
        self._reader.received(size)

    def _connect(self) -> socket.socket:
        until = time.monotonic() + self._patience
        while True:
            found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                found.settimeout(max(until - time.monotonic(), 0.001))
                found.connect(str(self._path))
                self._reader = ipc.Reader(self._limit, _greet(found))
            except OSError:
                found.close()
                if time.monotonic() + _RETRY >= until:
                    raise TimeoutError from None
                time.sleep(_RETRY)
            else:
                found.settimeout(None)
                self._socket = found
                return found


def _greet(found: socket.socket) -> Arena | None:
    """Begin the protocol; return the memory that was handed over with it, where this host has such."""
    file = _file()
    socket.send_fds(found, [ipc.ASKS], [] if file is None else [file])
    shared = None if file is None else Arena(file, arena.OFFERING)
    if found.recv(len(ipc.ANSWERS), socket.MSG_WAITALL) != ipc.ANSWERS:
        raise ConnectionResetError("it speaks another protocol")
    return shared


def _file() -> int | None:
    with contextlib.suppress(OSError):  # without it payloads go through the socket
        return arena.make() if arena.AVAILABLE else None
    return None
