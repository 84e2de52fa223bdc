"""How a node uses relays: to be reached through them where it cannot be dialled, and to reach others that cannot.

Both sides only dial out. What passes is TLS between the two nodes: a relay can cut it and delay it, and nothing else.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from tetherd.errors import TetherError, Unreachable
from tetherd.ports import Caller, Clock, Guest, Tunnels
from tetherd.types import Seconds
from tetherd.wire.relay import AwaitRelay, OpenRelay, Service, Summons, Way, preface

PATIENCE: Final[Seconds] = 8.0
"""How long an answer to a parked request may take; a relay parks for half as long."""

OPENING: Final[Seconds] = 3.0
AGAIN: Final[Seconds] = 1.0
SESSIONS: Final = 512
"""Connections that one relay may have this node open at once."""

_log = logging.getLogger("tetherd.relay")


class Via(msgspec.Struct, frozen=True):
    """A relay: its node id, the host it was reached at, and a caller of its roles."""

    node: str
    host: str
    caller: Caller


class RelayedNode:
    """Keeps this node reachable through one relay, for as long as ``run`` runs.

    ``services`` are the listeners of this host that a relay may lead to, as host and port. ``reachable`` tells whether
    the relay took us in when it was last asked, ``carried`` where on this host the connections begin that it led here.
    """

    def __init__(
        self, via: Via, services: Mapping[Service, tuple[str, int]], *, tunnels: Tunnels, clock: Clock
    ) -> None:
        self._via = via
        self._services = services
        self._tunnels = tunnels
        self._clock = clock
        self._open: set[asyncio.Task[None]] = set()
        self.reachable = False
        self.carried: set[tuple[str, int]] = set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Wait at the relay until cancelled; ``ready`` is called when it first took us in."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    deadline = self._clock.monotonic() + PATIENCE
                    summoned = await self._via.caller.call(AwaitRelay(not self.reachable), deadline=deadline)
                except TetherError as error:
                    self._tell(False, error.message)
                    await asyncio.sleep(AGAIN)
                    continue
                if not self.reachable:
                    self._tell(True, "")
                    ready()
                for summons in summoned.summons[: SESSIONS - len(self._open)]:
                    task = group.create_task(self._answer(summons, summoned.port))
                    self._open.add(task)
                    task.add_done_callback(self._open.discard)

    def _tell(self, reachable: bool, why: str) -> None:
        if reachable != self.reachable:
            message = "reachable through a relay" if reachable else "no longer reachable through a relay"
            _log.info(message, extra={"relay": self._via.node, "reason": why})
        self.reachable = reachable

    async def _answer(self, summons: Summons, port: int) -> None:
        try:
            place = self._services.get(summons.service)
            if place is None:
                raise Unreachable(f"this node has no {summons.service} listener")
            guest = await self._tunnels.connect(*place)
            self.carried.add(guest.place)
            try:
                await guest.carry(Way(self._via.host, port, preface(summons.ticket)))
            finally:
                self.carried.discard(guest.place)
                guest.close()
        except TetherError as error:
            _log.warning("a relayed connection failed", extra={"relay": self._via.node, "reason": error.message})


class Forwarder:
    """Gives nodes that only relays can reach an address on this host."""

    def __init__(self, *, tunnels: Tunnels, clock: Clock) -> None:
        self._tunnels = tunnels
        self._clock = clock
        self._routes: dict[tuple[str, Service], _Route] = {}

    def reach(self, target: str, vias: Sequence[Via], service: Service = "rpc") -> str:
        """Return ``127.0.0.1:port``, behind which a node's service answers by way of relays, the first one first.

        The address is the same each time for one node and service, for the life of this process; asking again replaces
        the relays. It speaks TLS as that node: whoever dials it names the node, not the address, as its peer.
        Raises Unavailable while this host has no room for a listener.
        """
        route = self._routes.get((target, service))
        if route is None:
            route = self._routes[target, service] = _Route(target, service, self._tunnels, self._clock)
        route.vias = list(vias)
        return route.door.address

    def used(self, target: str, service: Service = "rpc") -> str:
        """Return the node id of the relay that the latest connection took; empty where there was none."""
        route = self._routes.get((target, service))
        return route.used if route else ""

    def keep(self, targets: Collection[str]) -> None:
        """Give up the addresses of all but these nodes, and end the connections that came by them."""
        for key in [key for key in self._routes if key[0] not in targets]:
            self._routes.pop(key).door.close()

    def close(self) -> None:
        """Give every address up."""
        self.keep(())


class _Route:
    """One address of the forwarder. A relay that brought nothing is asked last the next time."""

    def __init__(self, target: str, service: Service, tunnels: Tunnels, clock: Clock) -> None:
        self._target = target
        self._service = service
        self._clock = clock
        self.vias: list[Via] = []
        self.used = ""
        self.door = tunnels.listen(self.receive)

    async def receive(self, guest: Guest) -> None:
        for via in tuple(self.vias):
            try:
                request = OpenRelay(self._target, self._service)
                admission = await via.caller.call(request, deadline=self._clock.monotonic() + OPENING)
                way = Way(via.host, admission.port, preface(admission.ticket))
                self.used = via.node
                if not await guest.carry(way):
                    self._demote(via)
            except TetherError as error:
                facts = {"relay": via.node, "target": self._target, "reason": error.message}
                _log.warning("a relay does not lead to a node", extra=facts)
                self._demote(via)
            else:
                return

    def _demote(self, via: Via) -> None:
        if via in self.vias:
            self.vias.remove(via)
            self.vias.append(via)
