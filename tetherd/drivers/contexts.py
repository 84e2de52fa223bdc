"""Requests over nng: the contexts of one REP socket, each of which listens, is answered for, and listens again."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tetherd.drivers import nng
from tetherd.drivers.ipc import Desk, Message
from tetherd.types import Buffer, Seconds

_MAX: Final = 8192
_SPARE: Final = 4
_IDLE: Final = 64
_STALLED: Final[Seconds] = 10.0
_BUSY_POLL: Final[Seconds] = 0.005


@contextlib.contextmanager
def listening(address: str, desk: Desk, limit: int) -> Iterator[None]:
    """Answer at ``address`` with messages of up to ``limit`` bytes. Raises BadConfig, InUse if it is taken."""
    loop = asyncio.get_running_loop()
    with nng.closing(nng.open_rep(limit)) as socket:
        nng.watch_pipes(socket, loop, desk.greet, desk.forget)
        nng.listen(socket, address)
        pool = _Pool(socket, nng.Completions(loop), desk, limit)
        pool.top_up()
        yield


class _Pool:
    """As many contexts as there are requests under way, and a few that nobody has asked yet."""

    def __init__(self, socket: Any, completions: nng.Completions, desk: Desk, limit: int) -> None:
        self.desk = desk
        self.limit = limit
        self.socket = socket
        self._completions = completions
        self._all: set[_Context] = set()
        self._idle = 0

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

    __slots__ = ("_peer", "_pool", "operation")

    def __init__(self, pool: _Pool, socket: Any, completions: nng.Completions) -> None:
        self._pool = pool
        self._peer = 0
        self.operation = nng.Operation(socket, completions, self._received)

    def answer(self, buffers: Iterable[Buffer] | None) -> None:
        """Send the answer, if any. Raises TooLarge, and may be called again then."""
        if buffers is not None:
            self.operation.send(nng.pack(buffers, self._pool.limit), _STALLED)
        self._relisten()

    def hang_up(self) -> None:
        """End the connection that the request came over."""
        nng.close_pipe(self._pool.socket, self._peer)

    def _received(self, result: int) -> None:
        if result == 0:
            data, self._peer = self.operation.received()
            self._pool.took()
            self._pool.desk.begin(self, Message(0, data, None), self._peer)
        elif result in (nng.CLOSED, nng.CANCELED):
            self._pool.retire(self)
        else:
            self.operation.receive()

    def _relisten(self) -> None:
        if self.operation.sending():
            # Its connection is busy; the reply goes out by itself. Others listen meanwhile.
            asyncio.get_running_loop().call_later(_BUSY_POLL, self._relisten)
        else:
            self._pool.free(self)
