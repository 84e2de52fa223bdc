"""Lets TLS connections in on a plain socket: so many handshakes at a time, each within its time.

Never waits for one that shakes hands: everything here is on the event loop, where waiting costs nothing.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from tetherd.drivers.host import memory
from tetherd.drivers.identity.lobby import MOST, Lobby
from tetherd.errors import BadConfig, InUse
from tetherd.types import Seconds

R = TypeVar("R")

HANDSHAKE: Final[Seconds] = 2.0
_BACKLOG: Final = 1024
_TICK: Final[Seconds] = 0.25

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
        with contextlib.closing(_open(self._listen, self._key)) as listener:
            host, port = listener.getsockname()[:2]
            self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            ready()
            with contextlib.closing(Lobby(listener, self._patience)) as lobby:
                async with asyncio.TaskGroup() as group:
                    await self._admit(lobby, group)

    async def _admit(self, lobby: Lobby, group: asyncio.TaskGroup) -> None:
        """Begin the handshakes of those who are ready for one."""
        loop = asyncio.get_running_loop()

        def admit() -> None:
            for raw in lobby.admit(loop.time()):
                group.create_task(self._receive(raw))

        loop.add_reader(lobby.fileno(), admit)
        try:
            while True:
                await asyncio.sleep(_TICK)
                lobby.expire(loop.time())
        finally:
            loop.remove_reader(lobby.fileno())

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
            drop(next(iter(self._greeting)))
        self._greeting[connection] = None
        try:
            async with asyncio.timeout(self._patience):
                await until(connection, connection.do_handshake)
        except (OSError, TimeoutError) as error:
            _log.debug("no handshake", extra={"reason": str(error) or "too slow"})
            self._debt.add()
            return False
        finally:
            del self._greeting[connection]
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


def _open(address: str, key: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both, place = host == "[::]", (host.strip("[]"), int(port))
    try:
        listener = socket.create_server(place, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        kind = InUse if error.errno == errno.EADDRINUSE else BadConfig
        message = f"cannot listen on {address}: {error.strerror or error}"
        raise kind(message, fix=f"stop what uses it, or set {key}") from None
    listener.setblocking(False)
    return listener
