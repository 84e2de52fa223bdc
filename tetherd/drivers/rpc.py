"""Requests between processes: frames over REQ/REP. ``Server`` answers with a role's handlers, ``RemoteCaller`` asks.

A caller that stops waiting sends a cancel, and a connection that ends cancels what it asked for: work nobody waits for
does not go on.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tetherd.drivers import contexts, ipc, nng, nng_operations
from tetherd.drivers.diagnosis import explain
from tetherd.drivers.door import Door
from tetherd.drivers.nng import Secret
from tetherd.drivers.once import Once
from tetherd.drivers.reaching import ATTEMPTS, CONNECT, IPC, REDIAL, unreachable
from tetherd.drivers.turns import Turn
from tetherd.errors import (
    BadFrame,
    Cancelled,
    DeadlineExceeded,
    Internal,
    PermissionDenied,
    QueueFull,
    TetherError,
    Unimplemented,
    revive,
)
from tetherd.ports import REQUEST_ID, Clock, Context, Handler
from tetherd.types import Buffer, Credentials, Seconds
from tetherd.wire.frames import CALL, CANCEL, FAILURE, REPLY, Codec, Frame, Header
from tetherd.wire.messages import Done, Request

K = TypeVar("K")
R = TypeVar("R")

MAX_BAD: Final = 64
"""A connection that sent this many malformed frames, or requests that its node may not make, is closed."""

MAX_CALLS: Final = 4096
"""Calls that one connection from another host may have under way."""

WONDER: Final = 3
"""Dials of another host that fail before it is found out why."""

_GRACE: Final[Seconds] = 1.0
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
                for tasks in list(self._calls.values()):
                    for task in list(tasks.values()):
                        task.cancel()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Listen to the other processes of this host."""
        if self._address.startswith(IPC):
            with ipc.listening(Path(self._address.removeprefix(IPC)), self, self._max_message):
                yield
        else:
            socket = nng.open_rep(self._max_message)
            with contexts.answering(socket, self, self._max_message):
                nng.listen(socket, self._address)
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
        if peer in self._gone or (peer, header.call) in self._unwanted:
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
            if len(calls) >= MAX_CALLS:
                raise QueueFull(f"{MAX_CALLS} calls of this connection are under way already", retry_after=1.0)
        message = self._codec.message(frame, kind)
        remaining = min(max(header.remaining_ms, 0), _FOREVER_MS) / 1000
        context = Context(self._clock.monotonic() + remaining, peer, header.request_id, turn.node)
        task = asyncio.create_task(self._answer(turn, handler, message, context, header.call))
        self._calls[peer][header.call] = task
        task.add_done_callback(partial(self._end, turn, peer, header.call))
        return None

    def _cancel(self, peer: int, call: int) -> None:
        if task := self._calls.get(peer, {}).get(call):
            task.cancel()
        else:
            # nng's threads may hand us a cancel before the call it is meant for.
            _remember(self._unwanted, (peer, call))

    def _end(self, turn: Turn, peer: int, call: int, task: asyncio.Task[None]) -> None:
        if calls := self._calls.get(peer):
            calls.pop(call, None)
        if task.cancelled():  # before it ran at all, so it has not answered
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


class RemoteCaller:
    """Calls the roles behind one address. Connects in the background and again after every loss.

    An attempt that brought no connection for ``redial`` seconds is given up for a new one. Roles of another host are
    called with a ``secret``. Connections to them end whenever their certificate changes: what may be sent twice is.
    When there was no connection for some time it finds out why, and says so in the log and in the errors of calls.
    """

    def __init__(
        self, address: str, *, clock: Clock, max_message: int, redial: Seconds = REDIAL, secret: Secret | None = None
    ) -> None:
        self.address = address
        self._redial = redial
        self._secret = secret
        self._renewed = False
        self._failures = 0
        self._why = "no connection"
        self._finding: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._clock = clock
        self._max_message = max_message
        self._codec = Codec()
        self._ids = itertools.count(secrets.randbits(48))  # no two callers of a node give calls the same numbers
        self._pipes: set[int] = set()
        self._connected = asyncio.Event()
        self._free: list[_Exchange] = []
        self._busy: set[_Exchange] = set()
        loop = asyncio.get_running_loop()
        self._completions = nng_operations.Completions(loop)
        self._socket = nng.open_req(max_message, secret.node if secret else "")
        nng.watch_pipes(self._socket, loop, self._gain, self._lose)
        nng.dial(self._socket, address, secret)
        self._watch()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return bool(self._pipes)

    async def call(
        self, request: Request[R], *, deadline: Seconds, request_id: str = "", patience: Seconds = CONNECT
    ) -> R:
        """Return the reply.

        Raises what the callee raised; Unreachable when there is no connection for ``patience`` or it is lost;
        DeadlineExceeded; TooLarge before anything is sent.
        """
        attempts = ATTEMPTS if self._secret and request.REPEATABLE else 1
        call = next(self._ids)
        while True:
            try:
                frame = self._codec.split(await self._ask(request, call, deadline, request_id, patience))
            except _Unsent:
                continue
            except TimeoutError:
                self._doubt()
                raise DeadlineExceeded(f"{self.address} did not answer in time") from None
            except ConnectionError as error:
                attempts -= 1
                if attempts and not self._closed:
                    continue
                raise unreachable(self.address, str(error)) from None
            if frame.kind == FAILURE:
                raise revive(self._codec.failure(frame))
            reply: R = self._codec.message(frame, request.REPLY)
            return reply

    async def _ask(
        self, request: Request[Any], call: int, deadline: Seconds, request_id: str, patience: Seconds
    ) -> Buffer:
        remaining = deadline - self._clock.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded("the request's time ran out before it was sent")
        if not self._pipes:
            await self._connect(min(remaining, patience))
            remaining = max(deadline - self._clock.monotonic(), 0.0)
        header = Header(call, request.METHOD, int(remaining * 1000) + 1, request_id)
        message = self._pack(CALL, header, request)
        try:
            return await self._exchange().start(message, remaining + _GRACE)
        except asyncio.CancelledError:
            self._cancel(call)
            raise

    def renew(self, credentials: Credentials) -> None:
        """Appear as ``credentials`` from the next connection on; the one there is stays."""
        assert self._secret is not None
        self._secret = Secret(credentials, self._secret.node)
        self._renewed = True
        if not self._pipes:
            self._dial_again()

    def move(self, address: str) -> None:
        """Connect to ``address`` from now on; what is under way on a connection elsewhere may have to be sent again."""
        self.address = address
        if self._pipes:
            self._renewed = True  # so that the end of this connection is the beginning of the next
            nng.hang_up(self._socket)
        else:
            self._dial_again()

    def close(self) -> None:
        """Close the connection; calls under way end with Unreachable."""
        self._closed = True
        self._watch()
        self._socket.close()

    def _watch(self) -> None:
        """Have the dial given up in time, as long as there is no connection."""
        if self._timer is not None:
            self._timer.cancel()
        waiting = not self._pipes and not self._closed
        self._timer = asyncio.get_running_loop().call_later(self._redial, self._dial_again) if waiting else None

    def _dial_again(self) -> None:
        self._renewed = False
        self._failures += 1
        if self._secret and self._failures % WONDER == 0:
            self._finding = asyncio.create_task(self._explain(self._secret))
        nng.redial(self._socket, self.address, self._secret)
        self._watch()

    async def _explain(self, secret: Secret) -> None:
        """Find out why there is no connection: nng does not tell."""
        found = await asyncio.to_thread(explain, self.address, secret.credentials, secret.node)
        if self._pipes or self._closed or found.cause == "none":
            return
        self._why = found.message
        details = {"peer_node": secret.node, "address": self.address, "cause": found.cause}
        _log.warning("cannot reach a node: %s", found.message, extra=details)

    async def _connect(self, patience: Seconds) -> None:
        try:
            async with asyncio.timeout(patience):
                await self._connected.wait()
        except TimeoutError:
            raise unreachable(self.address, self._why) from None

    def _gain(self, pipe: int) -> None:
        self._failures = 0
        self._why = "no connection"
        self._pipes.add(pipe)
        self._connected.set()
        self._watch()

    def _lose(self, pipe: int) -> None:
        self._pipes.discard(pipe)
        if not self._pipes:
            self._connected.clear()
            for exchange in self._busy:
                exchange.give_up()
            if self._renewed and not self._closed:
                self._dial_again()
            else:
                self._watch()

    def _doubt(self) -> None:
        """Find out whether there is a connection still: nng misses some ends, and answers nothing on those for ever."""
        there = nng.living(self._socket)
        for pipe in self._pipes - there:
            self._lose(pipe)

    def _exchange(self) -> "_Exchange":
        if not self._free:
            self._free.append(_Exchange(self._socket, self._completions, self._free, self._busy))
        return self._free.pop()

    def _pack(self, kind: int, header: Header, message: Any) -> Any:
        return nng_operations.pack(self._codec.encode(kind, header, message), self._max_message)

    def _cancel(self, call: int) -> None:
        with contextlib.suppress(TetherError):  # this caller is closed: the connection's end cancels it
            waiter = self._exchange().start(self._pack(CANCEL, Header(call), Done()), _GRACE)
            waiter.add_done_callback(lambda done: done.cancelled() or done.exception())


class _Unsent(ConnectionError):
    """The connection ended before a request was sent."""


class _Exchange:
    """One context of a caller: sends one request and receives its reply, then is free for the next."""

    __slots__ = ("_busy", "_free", "_operation", "_waiter")

    def __init__(
        self, socket: Any, completions: nng_operations.Completions, free: "list[_Exchange]", busy: "set[_Exchange]"
    ) -> None:
        self._free = free
        self._busy = busy
        self._waiter: asyncio.Future[Buffer] | None = None
        self._operation = nng_operations.Operation(socket, completions, self._received)

    def start(self, message: Any, timeout: Seconds) -> asyncio.Future[Buffer]:
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(self._abandon)
        self._busy.add(self)
        self._operation.send(message, timeout)
        self._operation.receive(timeout)
        return waiter

    def give_up(self) -> None:
        """End it unless it was sent: nng keeps a request that came too late for one connection until the next one."""
        if self._operation.sending():
            self._operation.cancel()

    def _abandon(self, waiter: asyncio.Future[Buffer]) -> None:
        if waiter.cancelled():
            self._operation.cancel()

    def _received(self, result: int) -> None:
        waiter, self._waiter = self._waiter, None
        assert waiter is not None
        self._operation.sending()
        data = self._operation.received()[0] if result == 0 else b""
        if not waiter.done():
            if result == 0:
                waiter.set_result(data)
            elif result == nng_operations.TIMED_OUT:
                waiter.set_exception(TimeoutError())
            elif result == nng_operations.CANCELED:
                waiter.set_exception(_Unsent())
            else:
                why = "this process is stopping" if result == nng_operations.CLOSED else "the connection was lost"
                waiter.set_exception(ConnectionResetError(why))
        self._busy.discard(self)
        self._free.append(self)
