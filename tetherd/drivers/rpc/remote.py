"""Calls a role in another process: frames over REQ/REP of nng, on the event loop.

A caller that stops waiting sends a cancel: work nobody waits for does not go on.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from tetherd.drivers.rpc import nng, nng_operations
from tetherd.drivers.rpc.explain import explain
from tetherd.drivers.rpc.reaching import ATTEMPTS, CONNECT, REDIAL, Secret, unreachable
from tetherd.errors import DeadlineExceeded, TetherError, revive
from tetherd.ports import Clock
from tetherd.types import Buffer, Credentials, Seconds
from tetherd.wire.frames import CALL, CANCEL, FAILURE, Codec, Header
from tetherd.wire.messages import Done, Request
from tetherd.wire.peering import Ping

R = TypeVar("R")

WONDER: Final = 3
"""Dials of another host that fail before it is found out why."""

PROOF: Final[Seconds] = 3.0
"""Within how long another host has to answer the first question on a connection."""

_GRACE: Final[Seconds] = 1.0

_EXAMINER: Final = ThreadPoolExecutor(1, "examiner")
"""Finds out about one node after the other: many that are gone must not keep other blocking work waiting."""

_log = logging.getLogger("tetherd.rpc")


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
        self._proving: asyncio.Task[None] | None = None
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
        if self._pipes:
            self._renewed = True
        else:
            self._dial_anew()

    def move(self, address: str) -> None:
        """Connect to ``address`` from now on; what is under way on a connection elsewhere may have to be sent again."""
        self.address = address
        if self._pipes:
            self._renewed = True  # so that the end of this connection is the beginning of the next
            nng.hang_up(self._socket)
        else:
            self._dial_anew()

    def close(self) -> None:
        """Close the connection; calls under way end with Unreachable."""
        self._closed = True
        self._watch()
        for task in (self._finding, self._proving):
            if task is not None:
                task.cancel()
        self._socket.close()

    def _watch(self) -> None:
        """Have the dial given up in time, as long as there is no connection."""
        if self._timer is not None:
            self._timer.cancel()
        waiting = not self._pipes and not self._closed
        self._timer = asyncio.get_running_loop().call_later(self._redial, self._dial_again) if waiting else None

    def _dial_again(self) -> None:
        """Give an attempt up for a new one, unless it has just brought a connection."""
        if nng.living(self._socket):
            self._watch()
        else:
            self._dial_anew()

    def _dial_anew(self) -> None:
        """Dial as things are now. A connection of before, which nng has and we have not heard of, ends."""
        self._renewed = False
        self._failures += 1
        if self._secret and self._failures % WONDER == 0 and (self._finding is None or self._finding.done()):
            self._finding = asyncio.create_task(self._explain(self._secret))
        nng.redial(self._socket, self.address, self._secret)
        self._watch()

    async def _explain(self, secret: Secret) -> None:
        """Find out why there is no connection: nng does not tell."""
        loop, address = asyncio.get_running_loop(), self.address
        found = await loop.run_in_executor(_EXAMINER, explain, address, secret.credentials, secret.node)
        if self._pipes or self._closed or found.cause == "none" or found.message == self._why:
            return
        self._why = found.message
        details = {"peer_node": secret.node, "address": address, "cause": found.cause}
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
        if self._secret is not None:
            self._proving = asyncio.create_task(self._prove(pipe))

    async def _prove(self, pipe: int) -> None:
        """End a connection that leads nowhere.

        Over TLS nng takes one for made as soon as the other side has shown its certificate; a listener that closes in
        that moment never takes it in, and tells nobody.
        """
        try:
            await self.call(Ping(), deadline=self._clock.monotonic() + PROOF, patience=0.0)
        except DeadlineExceeded:
            _log.info("a connection leads nowhere", extra={"address": self.address})
            nng.close_pipe(self._socket, pipe)
        except TetherError:
            pass  # an answer, or its end

    def _lose(self, pipe: int) -> None:
        self._pipes.discard(pipe)
        if not self._pipes:
            self._connected.clear()
            for exchange in self._busy:
                exchange.give_up()
            if self._renewed and not self._closed:
                self._dial_anew()
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
