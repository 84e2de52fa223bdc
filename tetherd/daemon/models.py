"""The manager role as this host has it: alone, the primary of its network, or a follower of the primary."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from tetherd.config import addresses
from tetherd.config.schema import Config
from tetherd.daemon.duties import Duty
from tetherd.daemon.network import Network
from tetherd.daemon.surroundings import Sources
from tetherd.drivers.models.blobs import DiskBlobs
from tetherd.drivers.models.bulk import BulkServer
from tetherd.drivers.models.drafts import Drafts
from tetherd.drivers.models.fetch import BulkClient
from tetherd.drivers.models.inspect import ChildInspector
from tetherd.drivers.models.ledger import SqliteLedger
from tetherd.drivers.models.replicas import FileCatalog, StoreFetcher
from tetherd.drivers.models.spared import LEDGER, Spared, followed
from tetherd.drivers.tcp.mutual import Renewing, dialling, listening
from tetherd.errors import PermissionDenied
from tetherd.ports import Clock, Handler, Role
from tetherd.roles.holdings import Here, Holders
from tetherd.roles.manager import Limits, Manager
from tetherd.roles.replica import Primary, Replica, Store
from tetherd.types import RoleName
from tetherd.wire.messages import Request
from tetherd.wire.roster import Member

READERS: Final[frozenset[RoleName]] = frozenset({"worker", "manager"})
"""Roles that need the files of models."""


class Models:
    """Implements ports.Role with whichever manager belongs here; ``listeners`` run beside it."""

    def __init__(self, config: Config, clock: Clock, network: Network | None) -> None:
        self._config = config
        self._clock = clock
        self._network = network
        self._ledger: SqliteLedger | None = None
        self._blobs = DiskBlobs(config.node.state_dir / "blobs", max_size=config.manager.max_model)
        self._drafts = Drafts()
        self._here = Here("", "", config.node.name)
        self.listeners: list[Duty] = []
        if network is not None:
            port = addresses.split(config.cluster.bulk)[1]
            self._here = Here(network.node, network.reachable(port), config.node.name)
            self.listeners.append(self._server(network).run)
        self._routes: Mapping[type[Request[Any]], Handler] = {}
        self._role = self._manager()

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what is answered here."""
        return self._routes

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        await self._role.run(ready)

    def close(self) -> None:
        """Give up what another composition will need."""
        if self._ledger:
            self._ledger.close()

    def _manager(self) -> Role:
        primary = self._network.primary() if self._network else None
        if self._network is not None and primary is not None and primary.node != self._here.node:
            replica = self._replica(self._network, primary)
            self._routes = replica.routes()
            return replica
        node, settings = self._config.node, self._config.manager
        path = node.state_dir / LEDGER
        self._ledger = SqliteLedger(path)
        manager = Manager(
            blobs=self._blobs,
            ledger=self._ledger,
            inspector=ChildInspector(node.state_dir / "inspect", timeout=settings.inspect_timeout),
            clock=self._clock,
            limits=Limits(settings.max_model, settings.upload_ttl),
            spared=Spared(node.state_dir, self._blobs, path),
        )
        holders = Holders(self._here, clock=self._clock, versions=manager.versions)
        self._routes = {**manager.routes(), **holders.routes()}
        return manager

    def _replica(self, network: Network, primary: Member) -> Replica:
        client = BulkClient(Renewing(dialling, network.credentials), ways=Sources(network).find)
        folder = self._config.node.state_dir
        path = followed(folder, primary.node)
        store = Store(
            self._blobs,
            StoreFetcher(self._blobs, self._drafts, client, network.node),
            FileCatalog(path),
            Spared(folder, self._blobs, path),
        )
        caller = network.caller(network.sites("manager")[0])
        return Replica(
            self._here,
            store=store,
            primary=Primary(caller, primary.name),
            clock=self._clock,
            keep=self._config.manager.upload_ttl,
        )

    def _server(self, network: Network) -> BulkServer:
        return BulkServer(
            self._config.cluster.bulk,
            shelf=self._blobs,
            drafts=self._drafts,
            context=Renewing(listening, network.credentials),
            admit=partial(admit, network=network),
        )


def admit(node: str, network: Network) -> None:
    """Raise PermissionDenied for a node that has no business with the files of models."""
    roles = network.roles_of(node)
    if roles is None:
        raise PermissionDenied("the node is no member of this network", fix="join it again with a new token")
    if not READERS.intersection(roles):
        raise PermissionDenied(
            "the node neither runs nor keeps models, so it reads none", fix="give it the role worker or manager"
        )
