"""The relay's own port: takes connections that begin with a ticket, and splices those of one session.

A stranger gets no byte out of it, holds a place for seconds at most, and loses it to whoever comes next when places are
short. Says nothing to anyone, and connects to nobody.
"""

import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Final

from tetherd.drivers.relay.splice import CHUNK, Splice, reset, tune
from tetherd.drivers.tcp.lobby import Lobby
from tetherd.errors import TetherError
from tetherd.types import Seconds
from tetherd.wire.relay import PREFACE_SIZE, opening, read_preface

GREETING: Final[Seconds] = 5.0
"""How long a connection may take to bring its ticket."""

_log = logging.getLogger("tetherd.relay")


class SocketJunction:
    """Implements ports.Junction on ``listen``, HOST:PORT."""

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self._port = int(listen.rpartition(":")[2])
        self._buffer = memoryview(bytearray(CHUNK))
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
        with contextlib.closing(Lobby(self._listen, "relay.listen", GREETING, opening)) as lobby:
            self._port = int(lobby.address.rpartition(":")[2])
            ready()
            try:
                await lobby.attend(lambda connection: self._receive(connection, claim, ended))
            finally:
                for session in list(self._early):
                    self.end(session)

    async def _receive(
        self, connection: socket.socket, claim: Callable[[bytes], int], ended: Callable[[int, int], None]
    ) -> None:
        tune(connection)
        try:
            session = claim(read_preface(connection.recv(PREFACE_SIZE)))
        except (TetherError, OSError) as error:
            _log.debug("a connection without a ticket was closed", extra={"reason": str(error)})
            return reset(connection)
        other = self._early.pop(session, None)
        if other is None:
            self._early[session] = connection
            return None
        splice = self._splices[session] = Splice(other, connection, self._buffer)
        await splice.run()
        if self._splices.pop(session, None):
            ended(session, splice.moved)
        return None
