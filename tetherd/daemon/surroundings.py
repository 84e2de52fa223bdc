"""Where a host knows others to be at the moment: what its worker and its runners call, and where models come from."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from tetherd.daemon.network import Network
from tetherd.discovery.addresses import parse
from tetherd.discovery.racing import is_relayed, order
from tetherd.errors import InvalidInput
from tetherd.ports import Caller
from tetherd.types import RoleName, Seconds
from tetherd.wire.assignments import Site
from tetherd.wire.chunks import BlobSource, Ways

_PATIENCE: Final[Seconds] = 5.0


class Surroundings:
    """Implements ports.Surroundings: ``sites`` tells where a role is now, ``caller`` gives the caller of a site."""

    def __init__(
        self,
        sites: Callable[[RoleName], Sequence[Site]],
        caller: Callable[[Site], Caller],
        ways: Callable[[BlobSource], Ways],
    ) -> None:
        self._sites = sites
        self._caller = caller
        self._ways = ways

    def orchestrators(self) -> Sequence[Site]:
        """See ports.Surroundings."""
        return self._sites("orchestrator")

    def manager(self) -> Site:
        """See ports.Surroundings."""
        return next(iter(self._sites("manager")), Site(""))

    def caller(self, site: Site) -> Caller:
        """See ports.Surroundings."""
        return self._caller(site)

    def ways(self, source: BlobSource) -> Ways:
        """See ports.Surroundings."""
        return self._ways(source)


class Sources:
    """Where the managers of a network serve blobs, as discovery and the relays know it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._loop = asyncio.get_running_loop()

    def ways(self, source: BlobSource) -> Ways:
        """Return every address of a source: that which it named, and its port wherever else its node was heard of."""
        table, relays = self._network.finding.peering.table, self._network.relays.ways(source.node, "bulk")
        peer = table.peer(source.node)
        ports = {peer.ports["bulk"]} if peer and "bulk" in peer.ports else set[int]()
        with contextlib.suppress(InvalidInput):  # what it named is no address
            ports.add(parse(source.address).port)
        attempts = order(table.candidates(source.node), relays=relays)
        direct = [parse(one.address) for one in attempts if not is_relayed(one.path)]
        heard = [str(place.at(port)) for place in direct for port in ports]
        relayed = [one.address for one in attempts if is_relayed(one.path)]
        return Ways(tuple(dict.fromkeys([*heard, source.address])), tuple(relayed))

    def find(self, source: BlobSource) -> Ways:
        """Do the same for another thread, while the event loop runs. Raises TimeoutError."""

        async def ways() -> Ways:
            return self.ways(source)

        return asyncio.run_coroutine_threadsafe(ways(), self._loop).result(_PATIENCE)
