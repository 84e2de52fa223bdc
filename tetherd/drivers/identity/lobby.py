"""Where connections wait until the first message of a TLS handshake is here whole, for the price of a file each.

Nothing of TLS is begun for whoever sends something else, or not all of it, or nothing.
"""

import contextlib
import logging
import select
import socket
from typing import Final

from tetherd.types import Seconds

MOST: Final = 256
"""Connections that wait; one more ends the one that has waited the longest."""

_AT_ONCE: Final = 64
_HEAD: Final = 5
_HANDSHAKE: Final = (22, 3)  # content type and major version, RFC 8446 section 5.1
_MAX_RECORD: Final = 1 << 14

_log = logging.getLogger("tetherd.lobby")


class Lobby:
    """Accepts from ``listener``, which does not block. Readable, as a file, when ``admit`` has something to do."""

    def __init__(self, listener: socket.socket, patience: Seconds) -> None:
        self._listener = listener
        self._patience = patience
        self._is_shut = False
        self._poll = select.epoll()
        self._poll.register(listener, select.EPOLLIN)
        self._waiting: dict[int, tuple[socket.socket, Seconds]] = {}  # by file, in the order they came

    def fileno(self) -> int:
        """Return the file to watch."""
        return self._poll.fileno()

    def admit(self, now: Seconds) -> list[socket.socket]:
        """Accept who came, and return those whose first message is here."""
        files = [file for file, _ in self._poll.poll(0)]
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
        """End them all."""
        for connection, _ in self._waiting.values():
            connection.close()
        self._waiting.clear()
        self._poll.close()

    def _accept(self, now: Seconds) -> None:
        try:
            for _ in range(_AT_ONCE):
                connection, _ = self._listener.accept()
                if len(self._waiting) >= MOST:
                    self._release(next(iter(self._waiting.values()))[0]).close()
                connection.setblocking(False)
                self._expect(connection, _HEAD)
                self._poll.register(connection, select.EPOLLIN)
                self._waiting[connection.fileno()] = connection, now
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no files are left: to try again at once would leave nobody else any time
            _log.warning("could not accept a connection", extra={"reason": error.strerror})
            self._is_shut = True
            self._poll.unregister(self._listener)

    def _is_ready(self, connection: socket.socket) -> bool:
        """Tell whether the first message is here; end the connection where it will never be."""
        try:
            head = connection.recv(_HEAD, socket.MSG_PEEK)
            size = int.from_bytes(head[3:])
            if len(head) < _HEAD or (head[0], head[1]) != _HANDSHAKE or size > _MAX_RECORD:
                raise ConnectionResetError
            if len(connection.recv(_HEAD + size, socket.MSG_PEEK)) == _HEAD + size:
                return True
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) > _HEAD:
                raise ConnectionResetError  # it is at its end, and there is less than was announced
            self._expect(connection, _HEAD + size)
        except BlockingIOError:
            pass
        except OSError:
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
