"""Lets TLS connections in on a plain socket: so many handshakes at a time, each within its time.

Never waits for one that shakes hands: everything here is on the event loop, where waiting costs nothing.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

from tetherd.drivers.host import memory
from tetherd.drivers.tcp.lobby import MOST, Lobby
from tetherd.errors import BadFrame
from tetherd.types import Seconds

R = TypeVar("R")

HANDSHAKE: Final[Seconds] = 2.0
_HEAD: Final = 5
_HANDSHAKE: Final = (22, 3)  # content type and major version
_MAX_RECORD: Final = 1 << 14

_log = logging.getLogger("tetherd.reception")


class Reception:
    """Listens on ``listen`` (``HOST:PORT``, of the setting ``key``) and has ``meet`` serve whoever shook hands.

    ``context`` is asked for the TLS context of each connection, so a renewed certificate is shown from then on.
    ``meet`` is given the connection, which does not block, and need not close it.
    """

    def __init__(
        self,
        listen: str,
        key: str,
        context: Callable[[], ssl.SSLContext],
        meet: Callable[[ssl.SSLSocket], Awaitable[None]],
        patience: Seconds = HANDSHAKE,
    ) -> None:
        self.address = ""
        self._listen = listen
        self._key = key
        self._context = context
        self._meet = meet
        self._patience = patience
        self._greeting: dict[ssl.SSLSocket, None] = {}  # in the order they came
        self._debt = memory.Debt()

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen, call ``ready``, and serve until cancelled. Raises InUse, BadConfig."""
        async with self.open() as serving:
            ready()
            await serving

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[asyncio.Task[None]]:
        """Listen, and serve as the task that is yielded. Raises InUse, BadConfig."""
        with contextlib.closing(Lobby(self._listen, self._key, self._patience, _hello)) as lobby:
            self.address = lobby.address
            serving = asyncio.create_task(lobby.attend(self._receive))
            try:
                yield serving
            finally:
                serving.cancel()
                await asyncio.wait([serving])

    async def _receive(self, raw: socket.socket) -> None:
        connection = raw
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._context().wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
            if await self._greet(connection):
                await self._meet(connection)
        except OSError as error:  # whoever goes before the handshake begins, too
            _log.debug("lost a connection", extra={"reason": str(error)})
        except Exception:
            _log.exception("a connection met a bug")
        finally:
            connection.close()

    async def _greet(self, connection: ssl.SSLSocket) -> bool:
        """Shake hands; return whether that came to an end."""
        if len(self._greeting) >= MOST:
            oldest = next(iter(self._greeting))
            del self._greeting[oldest]  # now: it leaves by itself only later, and others may come before
            drop(oldest)
        self._greeting[connection] = None
        try:
            async with asyncio.timeout(self._patience):
                await until(connection, connection.do_handshake)
        except (OSError, TimeoutError) as error:
            _log.debug("no handshake", extra={"reason": str(error) or "too slow"})
            self._debt.add()
            return False
        finally:
            self._greeting.pop(connection, None)
            if not self._greeting and self._debt.due():
                asyncio.get_running_loop().run_in_executor(None, memory.give_back)
        return True


async def until(connection: ssl.SSLSocket, act: Callable[[], R]) -> R:
    """Do what needs no thread as often as the connection asks for it. Raises what ``act`` does."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return act()
        except ssl.SSLWantReadError:
            await _next(connection, loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _next(connection, loop.add_writer, loop.remove_writer)


async def _next(connection: socket.socket, watch: Callable[..., None], unwatch: Callable[..., Any]) -> None:
    """Wait until the connection is what ``watch`` watches for."""
    event = asyncio.Event()
    watch(connection, event.set)
    try:
        await event.wait()
    finally:
        unwatch(connection)


def drop(connection: ssl.SSLSocket) -> None:
    """End a connection that somebody else is still using, so that they notice."""
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown: that makes later sends of the other user go out unencrypted.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _hello(data: bytes) -> int:
    """Return how long the first message of a handshake is that begins so (RFC 8446, section 5.1)."""
    if len(data) < _HEAD:
        return _HEAD
    size = int.from_bytes(data[3:_HEAD])
    if (data[0], data[1]) != _HANDSHAKE or size > _MAX_RECORD:
        raise BadFrame("a connection does not begin with a handshake of TLS")
    return _HEAD + size
