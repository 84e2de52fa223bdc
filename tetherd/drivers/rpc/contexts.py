"""Requests over nng: the contexts of one REP socket, each of which listens, is answered for, and listens again."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tetherd.drivers.rpc import nng, nng_operations
from tetherd.drivers.rpc.turns import Desk
from tetherd.types import Buffer, Seconds

_MAX: Final = 8192
_SPARE: Final = 4
_IDLE: Final = 64
_STALLED: Final[Seconds] = 10.0
_BUSY_POLL: Final[Seconds] = 0.005
MAX_UNREAD: Final = 512 * 1024 * 1024
"""A connection that leaves this many bytes of answers unread is closed, or any answer for ten seconds."""


@contextlib.contextmanager
def answering(socket: Any, desk: Desk, limit: int) -> Iterator[None]:
    """Have ``desk`` answer what comes to a REP socket, in messages of up to ``limit`` bytes; close it at the end."""
    loop = asyncio.get_running_loop()
    with nng.closing(socket):
        pool = _Pool(socket, nng_operations.Completions(loop), desk, limit)
        nng.watch_pipes(socket, loop, desk.greet, pool.forget)
        pool.top_up()
        yield


class _Pool:
    """As many contexts as there are requests under way, and a few that nobody has asked yet."""

    def __init__(self, socket: Any, completions: nng_operations.Completions, desk: Desk, limit: int) -> None:
        self.desk = desk
        self.limit = limit
        self.socket = socket
        self._completions = completions
        self._all: set[_Context] = set()
        self._idle = 0
        self._unread: dict[int, int] = defaultdict(int)  # bytes by connection

    def top_up(self) -> None:
        while self._idle < _SPARE and len(self._all) < _MAX:
            context = _Context(self, self.socket, self._completions)
            self._all.add(context)
            self._idle += 1
            context.operation.receive()

    def took(self) -> None:
        """Note that a context has been asked."""
        self._idle -= 1
        self.top_up()

    def owe(self, peer: int, size: int) -> None:
        """Note that a connection has not read an answer yet, and close it when these are too many."""
        self._unread[peer] += size
        if self._unread[peer] > max(MAX_UNREAD, 4 * self.limit):
            nng.close_pipe(self.socket, peer)

    def paid(self, peer: int, size: int) -> None:
        """Note that an answer has gone out after all."""
        if peer in self._unread:
            self._unread[peer] -= size

    def forget(self, peer: int) -> None:
        """Drop a connection that ended."""
        self._unread.pop(peer, None)
        self.desk.forget(peer)

    def free(self, context: "_Context") -> None:
        """Let a context listen again, unless enough others do."""
        if self._idle >= _IDLE:
            self._all.discard(context)
            context.operation.close()
        else:
            self._idle += 1
            context.operation.receive()

    def retire(self, context: "_Context") -> None:
        """Drop a context whose socket is closed."""
        self._idle -= 1
        self._all.discard(context)


class _Context:
    """One context, and the turn of the request that it has received."""

    __slots__ = ("_peer", "_pool", "node", "operation")

    apart: Final = None

    def __init__(self, pool: _Pool, socket: Any, completions: nng_operations.Completions) -> None:
        self._pool = pool
        self._peer = 0
        self.node = ""
        self.operation = nng_operations.Operation(socket, completions, self._received)

    def answer(self, buffers: Iterable[Buffer] | None) -> None:
        """Send the answer, if any. Raises TooLarge, and may be called again then."""
        if buffers is not None:
            message = nng_operations.pack(buffers, self._pool.limit)
            size = nng_operations.length(message)
            self.operation.send(message, _STALLED)
            if self.operation.sending():
                self._pool.owe(self._peer, size)
                return self._wait(size, asyncio.get_running_loop().time() + _STALLED)
        return self._pool.free(self)

    def hang_up(self) -> None:
        """End the connection that the request came over."""
        nng.close_pipe(self._pool.socket, self._peer)

    def _wait(self, size: int, until: Seconds) -> None:
        loop = asyncio.get_running_loop()
        if self.operation.sending():
            # Its connection is busy; the reply goes out by itself. Others listen meanwhile.
            loop.call_later(_BUSY_POLL, self._wait, size, until)
            return
        self._pool.paid(self._peer, size)
        if loop.time() >= until:
            self.hang_up()  # whoever reads nothing for so long is asked nothing more
        self._pool.free(self)

    def _received(self, result: int) -> None:
        if result == 0:
            data, self._peer = self.operation.received()
            self._pool.took()
            self._pool.desk.begin(self, data, self._peer)
        elif result in (nng_operations.CLOSED, nng_operations.CANCELED):
            self._pool.retire(self)
        else:
            self.operation.receive()
