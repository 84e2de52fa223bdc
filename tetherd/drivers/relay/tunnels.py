"""This host's ends of relayed connections: loopback listeners that lead to a relay, and connections back from one.

Local ends are loopback TCP and not Unix sockets, because that is all that TLS over nng can dial. What another user of
this host could gain there is what anybody on the network has at a node that is reachable: a listener that demands a
certificate.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from tetherd.drivers.relay.splice import CHUNK, Splice, reset, tune
from tetherd.drivers.tcp.names import resolve
from tetherd.errors import Unavailable, Unreachable
from tetherd.ports import Guest
from tetherd.types import Seconds
from tetherd.wire.relay import Way

CONNECT: Final[Seconds] = 3.0
GUESTS: Final = 256
"""Connections through one door at once; more are closed as they come."""

_SHORT_OF_FILES: Final[Seconds] = 0.1

_log = logging.getLogger("tetherd.relay")


class SocketTunnels:
    """Implements ports.Tunnels."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(CHUNK))

    async def connect(self, host: str, port: int) -> Guest:
        """See ports.Tunnels."""
        return _Guest(await _connect(host, port), self._buffer)

    def listen(self, receive: Callable[[Guest], Coroutine[Any, Any, None]]) -> "_Door":
        """See ports.Tunnels."""
        return _Door(receive, self._buffer)


class _Guest:
    """Implements ports.Guest."""

    def __init__(self, connection: socket.socket, buffer: memoryview) -> None:
        self._connection = connection
        self._buffer = buffer
        self.place: tuple[str, int] = connection.getsockname()[:2]

    async def carry(self, way: Way) -> int:
        """See ports.Guest."""
        relay = await _connect(way.host, way.port)
        try:
            # On a fresh connection 40 bytes always find room.
            relay.send(way.preface)
        except OSError as error:
            reset(relay)
            raise _unreachable(way.host, way.port, error) from None
        splice = Splice(self._connection, relay, self._buffer)
        await splice.run()
        return splice.leftward.moved

    def close(self) -> None:
        """See ports.Guest."""
        reset(self._connection)


class _Door:
    """Implements ports.Door."""

    def __init__(self, receive: Callable[[Guest], Coroutine[Any, Any, None]], buffer: memoryview) -> None:
        self._receive = receive
        self._buffer = buffer
        try:
            self._listener = socket.create_server(("127.0.0.1", 0))
        except OSError as error:  # of files, most likely: every connection takes some
            why = f"cannot open a way through a relay: {error.strerror}"
            raise Unavailable(why, fix="raise the limit of open files (ulimit -n)") from None
        self._listener.setblocking(False)
        self._guests: set[asyncio.Task[None]] = set()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = asyncio.create_task(self._accept())
        self._accepting.add_done_callback(lambda _: self._listener.close())

    def close(self) -> None:
        """See ports.Door."""
        for task in (self._accepting, *self._guests):
            task.cancel()

    async def _accept(self) -> None:
        while True:
            connection = await self._next()
            if len(self._guests) >= GUESTS:
                reset(connection)
                continue
            tune(connection)
            guest = _Guest(connection, self._buffer)
            task = asyncio.create_task(self._welcome(guest))
            self._guests.add(task)
            task.add_done_callback(partial(self._farewell, guest))

    async def _next(self) -> socket.socket:
        """Return the next connection; waits while this process has no files to spare."""
        while True:
            try:
                return (await asyncio.get_running_loop().sock_accept(self._listener))[0]
            except OSError as error:
                _log.warning("connections cannot be taken for now", extra={"reason": str(error)})
                await asyncio.sleep(_SHORT_OF_FILES)

    async def _welcome(self, guest: _Guest) -> None:
        try:
            await self._receive(guest)
        except Exception:
            _log.exception("a relayed connection met a bug")

    def _farewell(self, guest: _Guest, task: asyncio.Task[None]) -> None:
        self._guests.discard(task)
        guest.close()


async def _connect(host: str, port: int) -> socket.socket:
    """Return a connection to the first address of ``host`` that answers. Raises Unreachable."""
    loop = asyncio.get_running_loop()
    failure: OSError = OSError("no address")
    try:
        async with asyncio.timeout(CONNECT):
            for family, kind, protocol, _, address in await resolve(host, port):
                connection = socket.socket(family, kind, protocol)
                tune(connection)
                try:
                    await loop.sock_connect(connection, address)
                except OSError as error:
                    failure = error
                    connection.close()
                except asyncio.CancelledError:
                    connection.close()
                    raise
                else:
                    return connection
    except OSError as error:  # TimeoutError is one
        failure = error
    raise _unreachable(host, port, failure)


def _unreachable(host: str, port: int, error: OSError) -> Unreachable:
    # asyncio puts words of its own in the place of the system's; failures of names have no number of the system's.
    why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or "no answer"
    return Unreachable(f"cannot reach {host}:{port}: {why}", fix="is that daemon running, and is its port open?")
