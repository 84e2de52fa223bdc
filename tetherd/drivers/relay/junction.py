"""The relay's own port: takes connections that begin with a ticket, and splices those of one session.

A stranger gets no byte out of it, holds a place for seconds at most, and loses it to whoever comes next when places are
short. Says nothing to anyone, and connects to nobody.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from tetherd.drivers.relay.splice import CHUNK, Splice, reset, tune
from tetherd.errors import BadConfig, InUse, TetherError
from tetherd.types import Seconds
from tetherd.wire.relay import PREFACE_SIZE, read_preface

GREETING: Final[Seconds] = 5.0
"""How long a connection may take to bring its ticket."""

STRANGERS: Final = 256
"""Connections without a ticket at once; a further one takes the place of the oldest."""

_BACKLOG: Final = 512
_SHORT_OF_FILES: Final[Seconds] = 0.1

_log = logging.getLogger("tetherd.relay")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::")
    except OSError as error:
        kind = InUse if error.errno == errno.EADDRINUSE else BadConfig
        why = error.strerror or str(error)
        raise kind(f"cannot listen on {host}:{port}: {why}", fix="set relay.listen to a free address") from None
    listener.setblocking(False)
    return listener


class SocketJunction:
    """Implements ports.Junction."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._buffer = memoryview(bytearray(CHUNK))
        self._strangers: dict[asyncio.Task[None], None] = {}  # in the order they came
        self._early: dict[int, socket.socket] = {}
        self._splices: dict[int, Splice] = {}

    @property
    def port(self) -> int:
        """See ports.Junction."""
        return self._port

    def moved(self) -> Mapping[int, int]:
        """See ports.Junction."""
        return {session: splice.moved for session, splice in self._splices.items()}

    def end(self, session: int) -> int:
        """See ports.Junction."""
        if early := self._early.pop(session, None):
            reset(early)
        splice = self._splices.pop(session, None)
        if splice is None:
            return 0
        splice.cut()
        return splice.moved

    async def run(
        self, claim: Callable[[bytes], int], ended: Callable[[int, int], None], ready: Callable[[], None]
    ) -> None:
        """See ports.Junction. Raises BadConfig and InUse where it cannot listen."""
        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        ready()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    connection = await accept(listener)
                    task = group.create_task(self._receive(connection, claim, ended))
                    self._strangers[task] = None
                    task.add_done_callback(partial(self._settled, connection))
                    if len(self._strangers) > STRANGERS:
                        next(iter(self._strangers)).cancel()
        finally:
            listener.close()
            for session in list(self._early):
                self.end(session)

    def _settled(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._strangers.pop(task, None)
        if task.cancelled():  # perhaps before it ran at all
            reset(connection)

    async def _receive(
        self, connection: socket.socket, claim: Callable[[bytes], int], ended: Callable[[int, int], None]
    ) -> None:
        tune(connection)
        try:
            async with asyncio.timeout(GREETING):
                session = claim(read_preface(await _first(connection)))
        except (TetherError, OSError) as error:  # TimeoutError is an OSError
            _log.debug("a connection without a ticket was closed", extra={"reason": str(error)})
            return reset(connection)
        self._strangers.pop(asyncio.current_task(), None)  # type: ignore[arg-type]
        other = self._early.pop(session, None)
        if other is None:
            self._early[session] = connection
            return None
        splice = self._splices[session] = Splice(other, connection, self._buffer)
        await splice.run()
        if self._splices.pop(session, None):
            ended(session, splice.moved)
        return None


async def accept(listener: socket.socket) -> socket.socket:
    """Return the next connection; waits while this process has no files to spare."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return (await loop.sock_accept(listener))[0]
        except OSError as error:
            _log.warning("connections cannot be taken for now", extra={"reason": str(error)})
            await asyncio.sleep(_SHORT_OF_FILES)


async def _first(connection: socket.socket) -> bytes:
    """Return a preface's worth of bytes, and leave what follows to the splice."""
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < PREFACE_SIZE:
        more = await loop.sock_recv(connection, PREFACE_SIZE - len(data))
        if not more:
            raise ConnectionAbortedError("closed before its ticket was complete")
        data += more
    return data
