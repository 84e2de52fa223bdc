"""Where a host knows others to be at the moment: what its roles and its runners call, and where models come from."""

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from typing import Final

from tetherd.config.schema import Config
from tetherd.daemon.network import Network
from tetherd.discovery.addresses import MIN_PORT, Address, parse
from tetherd.discovery.racing import is_relayed, order
from tetherd.drivers.rpc.local import NobodyCaller
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.errors import InvalidInput
from tetherd.ports import Caller, Clock
from tetherd.types import RoleName, Seconds
from tetherd.wire.assignments import Site
from tetherd.wire.chunks import BlobSource, Ways, said

_PATIENCE: Final[Seconds] = 5.0


class Surroundings:
    """Implements ports.Surroundings: a role is on this host, where the configuration says, or on nodes of the network.

    ``local`` calls the roles of this host, which are ``roles``.
    """

    def __init__(
        self, config: Config, clock: Clock, network: Network | None, roles: Collection[RoleName], local: Caller
    ) -> None:
        self._config = config
        self._clock = clock
        self._network = network
        self._roles = roles
        self._local = local
        self._dialled: dict[str, RemoteCaller] = {}
        self.ways = Sources(network).ways if network else said

    def orchestrators(self) -> Sequence[Site]:
        """See ports.Surroundings."""
        return self._sites("orchestrator")

    def manager(self) -> Site:
        """See ports.Surroundings."""
        return next(iter(self._sites("manager")), Site(""))

    def caller(self, site: Site) -> Caller:
        """See ports.Surroundings."""
        if site.node:
            assert self._network is not None
            return self._network.caller(site)
        return self._local if "orchestrator" in self._roles else self._dial(site.address)

    def anyone(self, role: RoleName) -> Caller:
        """Return the caller of a role, wherever it is; of nobody where it is nowhere."""
        if role in self._roles:
            return self._local
        sites = self._sites(role)
        if not sites:
            return NobodyCaller(role, *self._absence(role))
        return self._network.several(role) if self._network and sites[0].node else self._dial(sites[0].address)

    def close(self) -> None:
        """Close the connections to where the configuration says."""
        for caller in self._dialled.values():
            caller.close()

    def _sites(self, role: RoleName) -> list[Site]:
        """Return where other processes, runners among them, reach a role, this host first."""
        configured = self._config.peers.orchestrator if role == "orchestrator" else self._config.peers.manager
        if configured:  # which it never is for a role of this host
            return [Site(configured)]
        here = [Site(self._config.rpc.listen)] if role in self._roles else []
        return here + (self._network.sites(role) if self._network else [])

    def _absence(self, role: RoleName) -> tuple[str, str]:
        if self._network is None:
            return "this host does not have it, and is in no network", "tetherctl cluster join < token.txt"
        return "no node of the network is known to have it", f"tetherctl cluster token --role {role}"

    def _dial(self, address: str) -> RemoteCaller:
        if address not in self._dialled:
            self._dialled[address] = RemoteCaller(address, clock=self._clock, max_message=self._config.rpc.max_message)
        return self._dialled[address]


class Sources:
    """Where the managers of a network serve blobs, as discovery and the relays know it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._loop = asyncio.get_running_loop()

    def ways(self, source: BlobSource) -> Ways:
        """Return every address of a source: that which it named, and its port wherever else its node was heard of.

        A manager that was stolen names what it likes, in the name of others too: this host connects to no service of
        its own for it, nor to one that is no peer's.
        """
        table, relays = self._network.finding.peering.table, self._network.relays.ways(source.node, "bulk")
        peer = table.peer(source.node)
        ports = {peer.ports["bulk"]} if peer and "bulk" in peer.ports else set[int]()
        named: list[Address] = []
        with contextlib.suppress(InvalidInput):  # what it named is no address
            place = parse(source.address)
            if place.port >= MIN_PORT:
                ports.add(place.port)
            if not table.refusal(source.node, place):
                named.append(place)
        attempts = order(table.candidates(source.node), relays=relays)
        direct = [parse(one.address) for one in attempts if not is_relayed(one.path)]
        heard = [place.at(port) for place in direct for port in ports]
        relayed = [one.address for one in attempts if is_relayed(one.path)]
        return Ways(tuple(dict.fromkeys(map(str, [*heard, *named]))), tuple(relayed))

    def find(self, source: BlobSource) -> Ways:
        """Do the same for another thread, while the event loop runs. Raises TimeoutError."""

        async def ways() -> Ways:
            return self.ways(source)

        return asyncio.run_coroutine_threadsafe(ways(), self._loop).result(_PATIENCE)
