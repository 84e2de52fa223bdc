"""A thread's own connection to another process: what runners live on. The protocol is that of ``sp``."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

from tetherd.drivers.rpc import arena, silence, sp
from tetherd.drivers.rpc.arena import Arena
from tetherd.drivers.rpc.lines import Line, Plain, Secure, exactly
from tetherd.drivers.rpc.reaching import Secret, target
from tetherd.drivers.rpc.turns import Message
from tetherd.drivers.tcp import mutual, names
from tetherd.errors import TetherError
from tetherd.types import Buffer, Seconds

Reach: TypeAlias = Callable[[Seconds], tuple[Line, Arena | None]]
"""Connects within so many seconds; the memory is what both share. Raises OSError, TetherError."""

_RETRY: Final[Seconds] = 0.02
_RETRY_BETWEEN: Final[Seconds] = 0.1
_MOST: Final = 8  # times as long as that it pauses at most


class Lane:
    """Asks and waits, one question at a time. For one thread; ``end`` and ``close`` may be called from another.

    ``between``: whom it asks is on another host, or might be.
    """

    def __init__(self, reach: Reach, patience: Seconds, limit: int, *, between: bool = False) -> None:
        self._reach = reach
        self._patience = patience
        self._limit = limit
        self._between = between
        self._ids = count()
        self._line: Line | None = None
        self._closed = threading.Event()
        self._turn = threading.Lock()  # held by whoever uses the line
        self._failures = 0
        self._framing = sp.Framing(limit)

    def exchange(self, buffers: Iterable[Buffer], sent: Callable[[], None], within: Seconds) -> Message:
        """Send a frame, call ``sent`` and wait for its answer. The answer lasts until the next exchange.

        Within a host the wait lasts for ever, since no connection is lost unnoticed there; ``within`` is for the
        network, which forgets connections and tells nobody.

        Connects first where there is no connection. Raises TimeoutError when none comes about within the patience,
        ConnectionError when it is lost, TooLarge before anything is sent.
        """
        try:
            with self._turn:
                return self._exchange(self._line or self._connect(), buffers, sent, within)
        finally:
            self._leave()

    def end(self) -> None:
        """End the connection; a thread that waits is woken, and may connect again."""
        if line := self._line:
            line.end()

    def close(self) -> None:
        """End the connection for good."""
        self._closed.set()
        self.end()
        self._leave()

    def _leave(self) -> None:
        """After ``close``, close the line unless it is in use: then whoever uses it does."""
        if self._closed.is_set() and self._turn.acquire(blocking=False):
            if line := self._line:
                self._line = None
                line.close()
            self._turn.release()

    def _exchange(self, line: Line, buffers: Iterable[Buffer], sent: Callable[[], None], within: Seconds) -> Message:
        parts: Sequence[Buffer] = self._framing.compose(sp.LAST | next(self._ids) % sp.LAST, buffers)
        try:
            if self._between:
                line.bound(within)
            while parts:
                parts = line.send(parts)
            sent()
            while not (message := self._framing.next()):
                self._receive(line)
        except (OSError, sp.Broken) as error:
            self._line = None
            line.close()
            raise ConnectionResetError(str(error)) from None
        return message

    def _receive(self, line: Line) -> None:
        size = line.receive(self._framing.room())
        if not size:
            raise ConnectionResetError("the other side ended it")
        self._framing.received(size)

    def _connect(self) -> Line:
        until = time.monotonic() + self._patience
        while not self._closed.is_set():
            try:
                line, shared = self._reach(max(until - time.monotonic(), 0.001))
            except (OSError, TetherError):
                self._failures += 1
                if time.monotonic() + self._pause() >= until:
                    raise TimeoutError from None
                self._closed.wait(self._pause())
            else:
                self._failures = 0
                self._framing = sp.Framing(self._limit, shared, between=self._between)
                self._line = line
                if self._closed.is_set():  # by now, and without this connection
                    line.end()
                return line
        raise ConnectionAbortedError("it is closed")

    def _pause(self) -> Seconds:
        # Who is turned away at once comes again less and less often.
        return _RETRY_BETWEEN * min(self._failures, _MOST) if self._between else _RETRY


def beside(path: Path) -> Reach:
    """Return the way to a process at a Unix socket of this host."""

    def reach(patience: Seconds) -> tuple[Line, Arena | None]:
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            found.settimeout(patience)
            found.connect(str(path))
            shared = _greet(found)
            found.settimeout(None)
            stack.pop_all()
        return Plain(found), shared

    return reach


def on_loopback(host: str, port: int) -> Reach:
    """Return the way to a process at a port of this host."""

    def reach(patience: Seconds) -> tuple[Line, Arena | None]:
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(socket.create_connection((host, port), patience))
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found.sendall(sp.ASKS)
            _expect_answers(found)
            stack.pop_all()
        return Plain(found), None

    return reach


def to_node(address: str, secret: Secret, patience: Seconds) -> Line:
    """Return a line to a node of another host, on which it has been said who asks. Blocks. Raises OSError, TetherError.

    An attempt to connect takes ``patience`` at most, and so does each step after that.
    """
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(names.connect(*target(address), patience))
        plain.settimeout(patience)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        silence.bound(plain)
        found = stack.enter_context(mutual.dialling(secret.credentials).wrap_socket(plain))
        if mutual.peer(found) != secret.node:
            raise ConnectionRefusedError(f"{address} is another node than the one that is meant")
        found.sendall(sp.ASKS)
        _expect_answers(found)
        stack.pop_all()
    return Secure(found)


def _greet(found: socket.socket) -> Arena | None:
    """Begin the protocol; return the memory that was handed over with it, where this host has such."""
    file = _file()
    try:
        socket.send_fds(found, [sp.ASKS], [] if file is None else [file])
    finally:  # the file is closed in any case
        shared = None if file is None else Arena(file, arena.OFFERING)
    _expect_answers(found)
    return shared


def _expect_answers(found: socket.socket) -> None:
    if exactly(found, len(sp.ANSWERS)) != sp.ANSWERS:
        raise ConnectionResetError("it speaks another protocol")


def _file() -> int | None:
    with contextlib.suppress(OSError):  # without it payloads go through the socket
        return arena.make() if arena.AVAILABLE else None
    return None
