"""Requests to another process from threads: what runners use, where ``remote`` needs an event loop."""

import itertools
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from tetherd.drivers.rpc.arena import Arena
from tetherd.drivers.rpc.lane import Lane, Reach, beside, on_loopback, to_node
from tetherd.drivers.rpc.lines import Line
from tetherd.drivers.rpc.reaching import ATTEMPTS, CONNECT, IPC, TCP, Secret, target, unreachable
from tetherd.errors import revive
from tetherd.types import Seconds
from tetherd.wire.frames import CALL, FAILURE, Codec, Header
from tetherd.wire.messages import Request

R = TypeVar("R")

GRACE: Final[Seconds] = 2.0
"""How much later than it was due a reply may come, before its connection counts as lost."""


class BlockingCaller:
    """Calls the roles behind one address from threads that have nothing else to do than wait.

    Waiting in the kernel instead of on an event loop halves the time of a round trip; runners live on it. Every thread
    has its own connection. Roles of another host are called with a ``secret``, which is asked for with every attempt to
    connect: certificates change.
    """

    def __init__(self, address: str, *, max_message: int, secret: Callable[[], Secret] | None = None) -> None:
        self.address = address
        self.closed = False
        self._secret = secret
        self._max_message = max_message
        # next() on it is atomic. No two callers have the same.
        self._ids = itertools.count(secrets.randbits(48))
        self._lanes: list[Lane] = []

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
                    raise unreachable(self.address, "no connection") from None
                except ConnectionError:
                    if not attempts or self.closed:
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
        if address != self.address and not self.closed:
            target(address)
            self.address = address
            for lane in self._lanes:
                lane.end()

    def close(self) -> None:
        """Close the connections; threads that wait get Unreachable."""
        self.closed = True
        for lane in self._lanes:
            lane.close()

    def _open(self) -> Lane:
        lane = Lane(self._reach(), CONNECT, self._max_message, between=not self.address.startswith(IPC))
        self._lanes.append(lane)
        return lane

    def _reach(self) -> Reach:
        if self._secret is not None:
            return self._dial
        if self.address.startswith(IPC):
            return beside(Path(self.address.removeprefix(IPC)))
        host, _, port = self.address.removeprefix(TCP).rpartition(":")
        return on_loopback(host.strip("[]"), int(port))

    def _dial(self, patience: Seconds) -> tuple[Line, Arena | None]:
        assert self._secret is not None
        address = self.address
        line = to_node(address, self._secret(), patience)
        if address != self.address:  # it moved meanwhile
            line.close()
            raise ConnectionResetError
        return line, None
