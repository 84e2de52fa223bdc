"""Answers requests of other processes with the handlers of this one's roles: frames over REQ/REP.

A cancel, and the end of a connection, cancel what was asked for: work nobody waits for does not go on, but for changes
that other hosts ask for, which are not left half made.
"""

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tetherd.drivers.rpc import ipc
from tetherd.drivers.rpc.door import Door
from tetherd.drivers.rpc.once import Once
from tetherd.drivers.rpc.reaching import IPC, TCP
from tetherd.drivers.rpc.turns import Turn
from tetherd.errors import (
    BadFrame,
    Cancelled,
    Internal,
    PermissionDenied,
    QueueFull,
    TetherError,
    Unimplemented,
)
from tetherd.ports import REQUEST_ID, Clock, Context, Handler
from tetherd.types import Buffer
from tetherd.wire.frames import CALL, CANCEL, FAILURE, REPLY, Codec, Frame, Header
from tetherd.wire.messages import Done, Request

K = TypeVar("K")

MAX_BAD: Final = 64
"""A connection that sent this many malformed frames, or requests that its node may not make, is closed."""

MAX_CALLS: Final = 4096
"""Calls that one node on another host may have under way."""

_FOREVER_MS: Final = 24 * 3600 * 1000
_REMEMBERED: Final = 4096

_log = logging.getLogger("tetherd.rpc")


class Server:
    """Answers the requests of ``routes`` on one address of this host, and at the ``door`` for other hosts, if any.

    ``lost`` is called with a connection's id (``Context.peer``) after it ended and its handlers were cancelled.
    """

    def __init__(
        self,
        address: str,
        routes: Mapping[type[Request[Any]], Handler],
        *,
        clock: Clock,
        max_message: int,
        lost: Callable[[int], None],
        door: Door | None = None,
    ) -> None:
        self._address = address
        self._methods = {kind.METHOD: (kind, handler) for kind, handler in routes.items()}
        self._clock = clock
        self._max_message = max_message
        self._lost = lost
        self._door = door
        self._codec = Codec()
        self._calls: dict[int, dict[int, asyncio.Task[None]]] = defaultdict(dict)
        self._under_way: Counter[str] = Counter()  # calls, by who asked for them
        self._gone: dict[int, None] = {}  # in order, to forget the oldest
        self._unwanted: dict[tuple[int, int], None] = {}
        self._bad: dict[int, int] = defaultdict(int)
        self._once = Once(clock)

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled. Raises BadConfig where an address cannot be listened on, or not safely."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._listening())
            if self._door:
                await stack.enter_async_context(self._door.open(self, self._max_message))
            ready()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._once.close()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Listen to the other processes of this host."""
        if self._address.startswith(IPC):
            found = ipc.listening(Path(self._address.removeprefix(IPC)), self, self._max_message)
        else:
            host, _, port = self._address.removeprefix(TCP).rpartition(":")
            found = ipc.listening_on(host.strip("[]"), int(port), self, self._max_message)
        with found:
            yield

    def begin(self, turn: Turn, data: Buffer, peer: int) -> None:
        """Start to answer a request."""
        try:
            frame = self._codec.split(data, turn.apart)
            if frame.kind == CALL:
                self._start(turn, frame, peer)
            elif frame.kind == CANCEL:
                self._cancel(peer, frame.header.call)
                self._finish(turn, self._codec.encode(REPLY, Header(frame.header.call), Done()))
            else:
                raise BadFrame("a reply came where calls are answered")
        except TetherError as error:
            self._judge(error, turn, peer)
            self._finish(turn, self._codec.encode(FAILURE, Header(0), error.failure()))

    def _start(self, turn: Turn, frame: Frame, peer: int) -> None:
        header = frame.header
        if (peer, header.call) in self._unwanted:
            return self._finish(turn, None)
        method = self._methods.get(header.method)
        if method is None:
            raise Unimplemented(f"method {header.method[:64]!r} is not answered here")
        calls = self._calls.get(peer, {})
        if header.call in calls:
            raise BadFrame(f"call {header.call} is under way already")
        kind, handler = method
        if turn.node:
            assert self._door is not None
            self._door.permit(turn.node, kind)
            if self._under_way[turn.node] >= MAX_CALLS:
                raise QueueFull(f"{MAX_CALLS} calls of this node are under way already", retry_after=1.0)
        message = self._codec.message(frame, kind)
        remaining = min(max(header.remaining_ms, 0), _FOREVER_MS) / 1000
        context = Context(self._clock.monotonic() + remaining, peer, header.request_id, turn.node)
        task = asyncio.create_task(self._answer(turn, handler, message, context, header.call))
        self._calls[peer][header.call] = task
        self._under_way[turn.node] += 1
        task.add_done_callback(partial(self._end, turn, peer, header.call))
        return None

    def _cancel(self, peer: int, call: int) -> None:
        if task := self._calls.get(peer, {}).get(call):
            task.cancel()
        else:
            # A caller's threads may have sent the cancel before the call it is meant for.
            _remember(self._unwanted, (peer, call))

    def _end(self, turn: Turn, peer: int, call: int, task: asyncio.Task[None]) -> None:
        self._under_way[turn.node] -= 1
        if task.cancelled():  # before it ran at all, so it has not answered
            self._calls.get(peer, {}).pop(call, None)
            self._finish(turn, self._codec.encode(FAILURE, Header(call), Cancelled("the caller went away").failure()))

    async def _answer(self, turn: Turn, handler: Handler, message: Any, context: Context, call: int) -> None:
        REQUEST_ID.set(context.request_id)
        try:
            kind, reply = REPLY, await self._do(handler, message, context, call)
        except TetherError as error:
            self._judge(error, turn, context.peer)
            kind, reply = FAILURE, error.failure()
        except asyncio.CancelledError:
            kind, reply = FAILURE, Cancelled("the caller went away").failure()
        except Exception:
            _log.exception("a handler failed", extra={"method": type(message).METHOD})
            kind, reply = FAILURE, Internal("the request met a bug; the log has the details").failure()
        assert context.peer is not None
        self._calls.get(context.peer, {}).pop(call, None)  # first: who has the answer may give the number again at once
        self._finish(turn, self._codec.encode(kind, Header(call), reply))

    async def _do(self, handler: Handler, message: Any, context: Context, call: int) -> Any:
        if not (context.node and message.ONCE):
            return await handler(message, context)
        return await self._once.do((context.node, message.METHOD, call), partial(handler, message, context))

    def _finish(self, turn: Turn, buffers: list[Buffer] | None) -> None:
        try:
            turn.answer(buffers)
        except TetherError as error:
            turn.answer(self._codec.encode(FAILURE, Header(0), error.failure()))

    def _judge(self, error: TetherError, turn: Turn, peer: int | None) -> None:
        """Count what only a broken or hostile peer sends, and hang up when there is too much of it."""
        bad = isinstance(error, BadFrame) or (turn.node and isinstance(error, PermissionDenied))
        if not bad or peer is None or peer in self._gone:
            return
        self._bad[peer] += 1
        if self._bad[peer] >= MAX_BAD:
            _log.warning("closing a connection that sent %d requests nobody may make", MAX_BAD, extra={"peer": peer})
            turn.hang_up()
            if self._door and turn.node:
                self._door.reprimand(turn.node)

    def greet(self, peer: int) -> None:
        """Note a connection that began."""
        _log.debug("connection opened", extra={"peer": peer})

    def forget(self, peer: int) -> None:
        """Cancel what a connection that ended has asked for."""
        _remember(self._gone, peer)
        self._bad.pop(peer, None)
        for task in list(self._calls.pop(peer, {}).values()):
            task.cancel()
        self._lost(peer)


def _remember(seen: dict[K, None], key: K) -> None:
    seen[key] = None
    if len(seen) > _REMEMBERED:
        del seen[next(iter(seen))]
