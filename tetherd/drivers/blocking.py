"""Requests to another process from threads: what runners use, where ``rpc`` needs an event loop."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tetherd.drivers import nng
from tetherd.drivers.nng import Secret
from tetherd.drivers.rpc import ATTEMPTS, CONNECT, REDIAL, unreachable
from tetherd.errors import revive
from tetherd.types import Seconds
from tetherd.wire.frames import CALL, FAILURE, Codec, Header
from tetherd.wire.messages import Request

R = TypeVar("R")


class BlockingCaller:
    """Calls the roles behind one address from threads that have nothing else to do than wait.

    Waiting in the kernel instead of on an event loop halves the time of a round trip; runners live on it. An attempt
    that brought no connection for ``redial`` seconds is given up for a new one by the next call that fails for it.
    Roles of another host are called with a ``secret``.
    """

    def __init__(
        self, address: str, *, max_message: int, redial: Seconds = REDIAL, secret: Secret | None = None
    ) -> None:
        self.address = address
        self._secret = secret
        self._redial = redial
        self._dialing = threading.Lock()
        self._max_message = max_message
        self._ids = itertools.count(1)  # next() on it is atomic: lanes share the connection, so also its call ids
        self._socket = nng.open_req(max_message, secret.node if secret else "")
        nng.dial(self._socket, address, secret)
        self._dialed = time.monotonic()

    def lane(self) -> Callable[..., Any]:
        """Return ``call(request, timeout, sent)`` for one thread: it sends, calls ``sent``, and returns the reply.

        It waits as long as the connection lasts. Raises what the callee raised, Unreachable when there is no connection
        for 3 s or it is lost, TooLarge before anything is sent.
        """
        codec, context = Codec(), nng.BlockingContext(self._socket, CONNECT)

        def call(request: Request[R], timeout: Seconds, sent: Callable[[], None] = lambda: None) -> R:
            attempts = ATTEMPTS if self._secret and request.REPEATABLE else 1
            for _ in range(attempts):
                header = Header(next(self._ids), request.METHOD, int(timeout * 1000))
                data = context.exchange(codec.encode(CALL, header, request), self._max_message, sent)
                if not isinstance(data, int):
                    break
                if data == nng.TIMED_OUT:
                    self._dial_again()
                    raise unreachable(self.address, "no connection")
            else:
                raise unreachable(self.address, "the connection was lost")
            frame = codec.split(data)
            if frame.kind == FAILURE:
                raise revive(codec.failure(frame))
            reply: R = codec.message(frame, request.REPLY)
            return reply

        return call

    def close(self) -> None:
        """Close the connection; threads that wait get Unreachable."""
        self._socket.close()

    def _dial_again(self) -> None:
        with self._dialing:  # lanes fail together, and each attempt is to have its time
            if time.monotonic() - self._dialed >= self._redial:
                nng.redial(self._socket, self.address, self._secret)
                self._dialed = time.monotonic()
