"""Requests under way: whom they went to, when silence stops blocking, when they are sent again, when they failed."""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final, Protocol

from tetherd.discovery.contacts import Address
from tetherd.types import Seconds
from tetherd.wire.datagrams import Answer, Ping, Put, Seek

HEDGE_MIN: Final[Seconds] = 0.05
HEDGE_MAX: Final[Seconds] = 0.4
HEDGE_FACTOR: Final = 4.0
TRIES: Final = 3
FAIL_MIN: Final[Seconds] = 0.8
"""No node counts as failed sooner: a busy host may take this long once."""


def hedge(rtt: Seconds) -> Seconds:
    """Return after how long a silent node stops blocking; ``rtt`` below zero = unknown."""
    return HEDGE_MAX if rtt < 0 else min(HEDGE_MAX, max(HEDGE_MIN, HEDGE_FACTOR * rtt))


class Request:
    """One request to one node. ``node`` is empty where nobody knows yet who is at the address."""

    __slots__ = ("address", "again", "asker", "body", "fail", "node", "patience", "proven", "sent", "tid", "tries")

    def __init__(self, node: bytes, address: Address, body: Ping | Seek | Put, asker: "Asker", rtt: Seconds) -> None:
        self.node = node
        self.address = address
        self.body = body
        self.asker = asker
        self.patience = hedge(rtt)
        self.proven = False
        self.again = False
        self.tid = b""
        self.sent = 0.0
        self.fail = 0.0
        self.tries = 0


class Asker(Protocol):
    """Whoever has requests under way, and is told what becomes of each."""

    def answered(self, request: Request, answer: Answer, now: Seconds, /) -> None:
        """Take the answer."""
        ...

    def silent(self, request: Request, now: Seconds, /) -> None:
        """Take note that the answer is overdue; it may still come."""
        ...

    def failed(self, request: Request, now: Seconds, /) -> None:
        """Take note that no usable answer came."""
        ...


class Requests:
    """All that is under way, and what is due next."""

    def __init__(self) -> None:
        self._open: dict[bytes, Request] = {}
        self._due: list[tuple[Seconds, bytes]] = []

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, request: Request, tid: bytes, now: Seconds) -> None:
        """Take a request in that is sent for the first time now."""
        request.tid = tid
        request.sent = now
        request.tries = 1
        request.fail = now + max(FAIL_MIN, 3 * request.patience)
        self._open[tid] = request
        heappush(self._due, (now + request.patience, tid))

    def end(self, tid: bytes, source: Address) -> Request | None:
        """Return the request that an answer from ``source`` belongs to, and end it."""
        request = self._open.get(tid)
        if request is None or request.address != source:
            return None
        return self._open.pop(tid)

    def next(self) -> Seconds | None:
        """Return when something is due."""
        while self._due and self._due[0][1] not in self._open:
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def due(self, now: Seconds) -> Iterator[Request]:
        """Yield what is overdue: to be sent again, or ended by the caller when ``fail`` has come."""
        while self._due and self._due[0][0] <= now:
            _, tid = heappop(self._due)
            request = self._open.get(tid)
            if request is None:
                continue
            if now >= request.fail:
                del self._open[tid]
            else:
                request.tries += 1
                again = now + request.patience * request.tries
                heappush(self._due, (again if request.tries < TRIES and again < request.fail else request.fail, tid))
            yield request
