"""A listener that strangers come to: connections wait there, for the price of a file each, until they have begun well.

Nothing is begun for whoever says something else than those who are expected, or not all of it, or nothing.
"""

import asyncio
import contextlib
import errno
import logging
import select
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeAlias

from tetherd.errors import BadConfig, InUse, TetherError
from tetherd.types import Seconds

Opening: TypeAlias = Callable[[bytes], int]
"""Tells from the first bytes of a connection how many there must be to begin with it; at least one.

Raises TetherError where nobody who is expected would begin so.
"""

MOST: Final = 256
"""Connections that wait; one more ends the one that has waited the longest."""

_BACKLOG: Final = 512
_AT_ONCE: Final = 64
_READY: Final = 8
_TICK: Final[Seconds] = 0.25

_log = logging.getLogger("tetherd.lobby")


class Lobby:
    """Listens on ``listen`` (HOST:PORT, of the setting ``key``). Whoever has not begun after ``patience`` is sent away.

    Raises InUse, BadConfig. ``address`` is where it listens. Readable, as a file, when ``admit`` has something to do.
    """

    def __init__(self, listen: str, key: str, patience: Seconds, opening: Opening) -> None:
        self._listener = _open(listen, key)
        host, port = self._listener.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._patience = patience
        self._opening = opening
        self._is_shut = False
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._waiting: dict[int, tuple[socket.socket, Seconds]] = {}  # by file, in the order they came

    async def attend(self, receive: Callable[[socket.socket], Coroutine[Any, Any, None]]) -> None:
        """Have ``receive`` go on with each connection that has begun, all at the same time, until cancelled."""
        loop = asyncio.get_running_loop()

        def admit() -> None:
            for connection in self.admit(loop.time()):
                task = group.create_task(receive(connection))
                task.add_done_callback(partial(_close_unless_received, connection))

        async with asyncio.TaskGroup() as group:
            loop.add_reader(self._poll.fileno(), admit)
            try:
                while True:
                    await asyncio.sleep(_TICK)
                    self.expire(loop.time())
            finally:
                loop.remove_reader(self._poll.fileno())

    def fileno(self) -> int:
        """Return the file to watch."""
        return self._poll.fileno()

    def admit(self, now: Seconds) -> list[socket.socket]:
        """Accept who came, and return those who have begun."""
        # A few at a time, so that others have a turn in between: each may take a fraction of a millisecond.
        files = [file for file, _ in self._poll.poll(0, _READY)]
        known = [self._waiting[file][0] for file in files if file in self._waiting]
        ready = [self._release(connection) for connection in known if self._is_ready(connection)]
        if len(known) < len(files):
            self._accept(now)
        return ready

    def expire(self, now: Seconds) -> None:
        """End those that had their time, and accept again if that failed."""
        for connection, since in list(self._waiting.values()):
            if now - since < self._patience:
                break
            self._release(connection).close()
        if self._is_shut:
            self._is_shut = False
            self._poll.register(self._listener, select.EPOLLIN)

    def close(self) -> None:
        """Listen no more, and end those who wait."""
        for connection, _ in self._waiting.values():
            connection.close()
        self._waiting.clear()
        self._poll.close()
        self._listener.close()

    def _accept(self, now: Seconds) -> None:
        try:
            for _ in range(_AT_ONCE):
                connection, _ = self._listener.accept()
                if len(self._waiting) >= MOST:
                    self._release(next(iter(self._waiting.values()))[0]).close()
                connection.setblocking(False)
                self._expect(connection, self._opening(b""))
                self._poll.register(connection, select.EPOLLIN)
                self._waiting[connection.fileno()] = connection, now
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no files are left: to try again at once would leave nobody else any time
            _log.warning("could not accept a connection", extra={"reason": error.strerror})
            self._is_shut = True
            self._poll.unregister(self._listener)

    def _is_ready(self, connection: socket.socket) -> bool:
        """Tell whether a connection has begun; end it where it never will."""
        size = expected = connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        try:
            while len(data := connection.recv(size, socket.MSG_PEEK)) == size:
                if (wanted := self._opening(data)) <= size:
                    return True
                size = wanted
            if size == expected:
                raise ConnectionResetError  # readable, and yet there is less: it is at its end
            self._expect(connection, size)
        except BlockingIOError:
            pass
        except (OSError, TetherError):
            self._release(connection).close()
        return False

    def _expect(self, connection: socket.socket, size: int) -> None:
        # It counts as readable from so many bytes on: a connection that sends a byte at a time wakes nobody.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _release(self, connection: socket.socket) -> socket.socket:
        del self._waiting[connection.fileno()]
        with contextlib.suppress(OSError):
            self._poll.unregister(connection)
            self._expect(connection, 1)  # or whoever goes on with it would not hear of less either
        return connection


def _open(listen: str, key: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    place, family = (host.strip("[]"), int(port)), socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server(place, family=family, backlog=_BACKLOG, dualstack_ipv6=host == "[::]")
    except OSError as error:
        kind = InUse if error.errno == errno.EADDRINUSE else BadConfig
        message = f"cannot listen on {listen}: {error.strerror or error}"
        raise kind(message, fix=f"stop what uses it, or set {key}") from None
    listener.setblocking(False)
    return listener


def _close_unless_received(connection: socket.socket, task: asyncio.Task[None]) -> None:
    if task.cancelled():  # perhaps before it ran at all
        connection.close()
