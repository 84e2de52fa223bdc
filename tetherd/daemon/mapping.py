"""What the router in front of this host does for it: leads others to its listeners, if the configuration wants that."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from tetherd.config import addresses
from tetherd.config.schema import Config
from tetherd.daemon.duties import Duty
from tetherd.discovery.addresses import Address
from tetherd.discovery.mapping import Report, Want
from tetherd.drivers.discovery.mapping import PortMapping, installed
from tetherd.errors import TetherError
from tetherd.ports import Clock
from tetherd.roles.membership import Membership
from tetherd.types import RoleName
from tetherd.wire.endpoint import Endpoint

_DATAGRAMS: Final = frozenset({"dht"})
_log = logging.getLogger("tetherd.mapping")


def wants(config: Config, ports: Mapping[str, int], roles: Collection[RoleName], *, founder: bool) -> tuple[Want, ...]:
    """Return what is to be mapped: ``ports``, the listeners by service, and those that only some hosts have."""
    if not ports or not config.cluster.port_mapping:
        return ()
    wanted = dict(ports)
    if "relay" in roles:
        wanted["relay"] = addresses.split(config.relay.listen)[1]
    if founder:
        wanted["enrol"] = addresses.split(config.cluster.enrol)[1]
    return tuple(Want(name, "udp" if name in _DATAGRAMS else "tcp", port) for name, port in wanted.items())


def endpoint(here: Iterable[str], ports: Mapping[str, int], outside: Mapping[str, Address]) -> Endpoint:
    """Return what a node's record says: where its router leads to it from, first, and its own addresses."""
    others = {service: port for service, port in ports.items() if service != "rpc"}
    if "bulk" in outside:
        others["bulk"] = outside["bulk"].port  # its own port is told with every address of its files
    led = (str(outside["rpc"]),) if "rpc" in outside else ()
    return Endpoint(tuple(dict.fromkeys((*led, *here))), others)


class Outside:
    """This host as others reach it through its router. ``duties`` are to be run; ``moved`` is told of every change.

    ``ports``: this host's listeners for others, by service; none where it only dials.
    """

    def __init__(self, config: Config, clock: Clock, membership: Membership, ports: Mapping[str, int]) -> None:
        self.moved: Callable[[], None] = lambda: None
        self._membership = membership
        self._changed = asyncio.Event()
        self._off = "this host only dials" if config.cluster.port_mapping else "switched off by cluster.port_mapping"
        standing = membership.standing
        wanted = wants(config, ports, membership.roles, founder=standing is not None and standing.founder)
        self._mapping = PortMapping(wanted, clock, changed=self._tell, methods=installed()) if wanted else None
        # Who tells the members is ended first: that a mapping ends as the daemon does is no news for them.
        self.duties: list[Duty] = [self._mapping.run, self._enlist] if self._mapping else []

    def places(self) -> dict[str, Address]:
        """Return by service where others reach a listener through the router."""
        return self._mapping.places() if self._mapping else {}

    def report(self) -> Report:
        """Return what was asked of the router, and what came of it."""
        return self._mapping.report() if self._mapping else Report(off=self._off)

    def _tell(self) -> None:
        self._changed.set()
        self.moved()

    async def _enlist(self, ready: Callable[[], None]) -> None:
        """Have the members know where this host is reached: by the roster, and by the join tokens made from now on."""
        ready()
        while True:
            await self._changed.wait()
            self._changed.clear()
            places = {service: str(place) for service, place in self.places().items()}
            try:
                await self._membership.reach(places.get("rpc", ""), places.get("enrol", ""))
            except TetherError as error:
                _log.warning("the members do not know where the router leads here from: %s", error.message)
