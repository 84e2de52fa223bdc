"""Requests to another process from threads: what runners use, where ``remote`` needs an event loop."""

import contextlib
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from tetherd.drivers.rpc import nng, nng_operations
from tetherd.drivers.rpc.lane import Lane
from tetherd.drivers.rpc.nng import Secret
from tetherd.drivers.rpc.reaching import ATTEMPTS, CONNECT, IPC, REDIAL, unreachable
from tetherd.drivers.rpc.turns import Message
from tetherd.errors import BadConfig, revive
from tetherd.types import Buffer, Seconds
from tetherd.wire.frames import CALL, FAILURE, Codec, Header
from tetherd.wire.messages import Request

R = TypeVar("R")

GRACE: Final[Seconds] = 2.0
"""How much later than it was due a reply may come, before its connection counts as lost."""

_TOGETHER: Final[Seconds] = 0.5
"""Lanes that share a connection lose it at the same time, and hear of it within this."""


class _Exchange(Protocol):
    def exchange(self, buffers: Iterable[Buffer], sent: Callable[[], None], within: Seconds, /) -> Message:
        """Send a frame, call ``sent``, wait for the answer. Raises TimeoutError (no connection), ConnectionError."""
        ...


class BlockingCaller:
    """Calls the roles behind one address from threads that have nothing else to do than wait.

    Waiting in the kernel instead of on an event loop halves the time of a round trip; runners live on it. To a process
    of this host every thread has its own connection; to others they share one, and an attempt that brought none for
    ``redial`` seconds is given up for a new one by the next call that fails for it. Roles of another host are called
    with a ``secret``, which is asked for anew with every attempt after that, or after a loss: certificates change.
    """

    def __init__(
        self, address: str, *, max_message: int, redial: Seconds = REDIAL, secret: Callable[[], Secret] | None = None
    ) -> None:
        self.address = address
        self._secret = secret
        self._redial = redial
        self._dialing = threading.Lock()
        self._max_message = max_message
        # next() on it is atomic: lanes may share the connection, so also its call ids. No two callers have the same.
        self._ids = itertools.count(secrets.randbits(48))
        self._lanes: list[Lane] = []
        self.closed = False
        self._socket: Any = None
        if not address.startswith(IPC):
            shown = secret() if secret else None
            self._socket = nng.open_req(max_message, shown.node if shown else "")
            nng.dial(self._socket, address, shown)
        self._dialed = time.monotonic()

    def lane(self) -> Callable[..., Any]:
        """Return ``call(request, timeout, sent)`` for one thread: it sends, calls ``sent``, and returns the reply.

        It waits as long as the connection lasts; over a network, one that brings no reply for ``GRACE`` after the time
        was over counts as lost. Tensors of the reply last until the thread's next call. Raises what the callee raised,
        Unreachable when there is no connection for 3 s or it is lost, TooLarge before anything is sent.
        """
        codec, lane = Codec(), self._open()

        def call(request: Request[R], timeout: Seconds, sent: Callable[[], None] = lambda: None) -> R:
            attempts = ATTEMPTS if self._secret and request.REPEATABLE else 1
            number = next(self._ids)
            while True:
                attempts -= 1
                header = Header(number, request.METHOD, int(timeout * 1000))
                try:
                    message = lane.exchange(codec.encode(CALL, header, request), sent, timeout + GRACE)
                    break
                except TimeoutError:
                    self._give_up()
                    raise unreachable(self.address, "no connection") from None
                except ConnectionError:
                    # nng would go on with the certificates of the last time, and those may be why it ended.
                    self._dial_again()
                    if not attempts:
                        raise unreachable(self.address, "the connection was lost") from None
            frame = codec.split(message.frame, message.apart)
            if frame.kind == FAILURE:
                raise revive(codec.failure(frame))
            reply: R = codec.message(frame, request.REPLY)
            return reply

        return call

    def move(self, address: str) -> None:
        """Connect to this address of another host from now on; threads that wait for a reply ask again, or lose it.

        Raises BadConfig where it is no address.
        """
        with self._dialing:
            if address != self.address and not self.closed:
                self.address = address
                self._dial()

    def close(self) -> None:
        """Close the connections; threads that wait get Unreachable."""
        self.closed = True
        if self._socket is not None:
            self._socket.close()
        for lane in self._lanes:
            lane.close()

    def _open(self) -> _Exchange:
        if self._socket is not None:
            return nng_operations.BlockingContext(self._socket, CONNECT, self._max_message)
        lane = Lane(Path(self.address.removeprefix(IPC)), CONNECT, self._max_message)
        self._lanes.append(lane)
        return lane

    def _give_up(self) -> None:
        """Give an attempt that had its time up for a new one, unless it has just brought a connection."""
        with self._dialing:  # lanes fail together
            if self._socket is not None and not self.closed and time.monotonic() - self._dialed >= self._redial:
                if not nng.living(self._socket):
                    nng.redial(self._socket, self.address, self._secret() if self._secret else None)
                self._dialed = time.monotonic()

    def _dial_again(self) -> None:
        """Dial anew after a loss, whether nng has noted it yet or not."""
        with self._dialing:
            if self._socket is not None and not self.closed and time.monotonic() - self._dialed >= _TOGETHER:
                with contextlib.suppress(BadConfig):  # closed meanwhile, or short of something: there is a next time
                    self._dial()

    def _dial(self) -> None:
        nng.hang_up(self._socket)
        nng.dial(self._socket, self.address, self._secret() if self._secret else None)
        self._dialed = time.monotonic()
