"""The relay role: introduces nodes that cannot reach each other, and carries what they say without understanding it.

It leads to members that wait here, by their ids, and to nothing else: nobody can have it connect anywhere, and itself
it connects to nobody.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from tetherd.errors import PermissionDenied
from tetherd.policy.relaying import PRESENT, Limits, Relaying
from tetherd.ports import Clock, Context, Handler, Junction
from tetherd.types import Seconds
from tetherd.wire.messages import Request
from tetherd.wire.relay import TICKET_SIZE, Admission, AwaitRelay, OpenRelay, Summoned

PARK: Final[Seconds] = 4.0
"""How long a node waits before it has to ask again: so soon does it notice that its own address has changed."""

SWEEP: Final[Seconds] = 1.0

_log = logging.getLogger("tetherd.relay")


class Relay:
    """Implements ports.Role. ``member`` tells of a node id whether it belongs to the network, as of now."""

    def __init__(
        self, *, node: str, member: Callable[[str], bool], junction: Junction, limits: Limits, clock: Clock
    ) -> None:
        self._node = node
        self._member = member
        self._junction = junction
        self._clock = clock
        self._relaying = Relaying(limits)
        self._parked: dict[str, set[asyncio.Future[None]]] = {}

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """See ports.Role."""
        return {AwaitRelay: self._await, OpenRelay: self._open}

    async def run(self, ready: Callable[[], None]) -> None:
        """See ports.Role."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._junction.run(self._claim, self._ended, ready))
            while True:
                await asyncio.sleep(SWEEP)
                self._sweep()

    async def _await(self, request: AwaitRelay, context: Context) -> Summoned:
        node = self._caller(context)
        until = min(context.deadline, self._clock.monotonic() + (0.0 if request.first else PARK))
        self._relaying.arrive(node)
        rested = None
        try:
            while not (summons := self._relaying.summons(node)):
                if not await self._rung(node, until - self._clock.monotonic()):
                    break
            rested = self._clock.monotonic() + PRESENT
        finally:
            self._relaying.leave(node, rested)
        return Summoned(self._junction.port, summons)

    async def _rung(self, node: str, patience: Seconds) -> bool:
        """Wait until somebody wants the node; return whether somebody does."""
        bell = asyncio.get_running_loop().create_future()
        parked = self._parked.setdefault(node, set())
        parked.add(bell)
        try:
            async with asyncio.timeout(patience):
                await bell
        except TimeoutError:
            return False
        finally:
            parked.discard(bell)
            if not parked:
                self._parked.pop(node, None)
        return True

    async def _open(self, request: OpenRelay, context: Context) -> Admission:
        dialer, target = self._caller(context), request.target
        tickets = secrets.token_bytes(TICKET_SIZE), secrets.token_bytes(TICKET_SIZE)
        if not self._member(target):
            raise PermissionDenied("a relay leads to members of its own network only", fix="see: tetherctl nodes ls")
        session = self._relaying.open((dialer, target), request.service, tickets, self._clock.monotonic())
        for bell in self._parked.get(target, ()):
            if not bell.done():
                bell.set_result(None)
        _log.debug("a session was opened", extra={"session": session.id, "dialer": dialer, "target": target})
        return Admission(tickets[0], self._junction.port)

    def _caller(self, context: Context) -> str:
        """Return who asks, as its certificate says; this host may use its own relay."""
        node = context.node or self._node
        if not self._member(node):
            raise PermissionDenied("a relay serves members of its own network only", fix="see: tetherctl nodes ls")
        return node

    def _claim(self, ticket: bytes) -> int:
        return self._relaying.claim(ticket, self._clock.monotonic())

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        for number, total in self._junction.moved().items():
            self._relaying.moved(number, total, now)
        for number, why in self._relaying.overdue(now, self._member):
            self._conclude(number, self._junction.end(number), why)

    def _ended(self, number: int, total: int) -> None:
        self._conclude(number, total, "its ends are done")

    def _conclude(self, number: int, total: int, why: str) -> None:
        now = self._clock.monotonic()
        self._relaying.moved(number, total, now)
        if session := self._relaying.end(number):
            facts = {"session": number, "dialer": session.dialer, "target": session.target, "service": session.service}
            facts |= {"bytes": session.moved, "seconds": round(now - session.opened, 3), "reason": why}
            _log.info("a session ended", extra=facts)
