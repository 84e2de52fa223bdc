"""The manager role as this host has it: alone, the primary of its network, or a follower of the primary."""

import asyncio
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
from tetherd.drivers.models.spared import LEDGER, Followed, Spared, followed
from tetherd.drivers.tcp.mutual import Renewing, dialling, listening
from tetherd.errors import PermissionDenied
from tetherd.ports import Clock, Handler, Role
from tetherd.roles.copying import Copying
from tetherd.roles.holdings import Here, Holders
from tetherd.roles.manager import Limits, Manager
from tetherd.roles.repair import Repair
from tetherd.roles.replica import Primary, Replica, Store
from tetherd.roles.succession import Succession
from tetherd.types import RoleName
from tetherd.wire.messages import Request

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
        self._routes: dict[type[Request[Any]], Handler] = {}
        self._duties: list[Duty] = []  # of the role, beside what it is itself
        self._role = self._follower() or self._writer()

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what is answered here."""
        return self._routes

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._role.run(ready))
            for run in self._duties:
                group.create_task(run(lambda: None))

    def close(self) -> None:
        """Give up what another composition will need."""
        if self._ledger:
            self._ledger.close()

    def _writer(self) -> Role:
        """Return the manager of a host that is the primary or alone; it comes to the models of those before it."""
        node, settings, network = self._config.node, self._config.manager, self._network
        path = node.state_dir / LEDGER
        self._ledger = SqliteLedger(path)
        term = network.term if network else 0
        succession = Succession(self._ledger, self._blobs, self._clock, term=term)
        succession.begin(Followed(node.state_dir, path))
        manager = Manager(
            blobs=self._blobs,
            ledger=self._ledger,
            inspector=ChildInspector(node.state_dir / "inspect", timeout=settings.inspect_timeout),
            clock=self._clock,
            limits=Limits(settings.max_model, settings.upload_ttl),
            spared=Spared(node.state_dir, path),
        )
        copying = Copying(self._blobs, self._fetcher(network), manager.versions) if network else None
        holders = Holders(
            self._here, clock=self._clock, versions=manager.versions, followers=self._followers, copying=copying
        )
        self._routes = {**manager.routes(), **holders.routes()}
        if copying is not None:
            self._routes |= succession.routes(manager.record, copying.news.set)
            self._duties.append(Repair(holders, copying, self._clock).run)
        return manager

    def _followers(self) -> list[str]:
        return [site.node for site in self._network.sites("manager")] if self._network else []

    def _follower(self) -> Role | None:
        """Return the manager of a host that follows another, None where there is none to follow."""
        network = self._network
        primary = network.primary() if network else None
        if network is None or primary is None or primary.node == self._here.node:
            return None
        folder = self._config.node.state_dir
        path = followed(folder, primary.node)
        store = Store(
            self._blobs,
            self._fetcher(network),
            FileCatalog(path),
            Followed(folder, path),
            Spared(folder, path),
        )
        caller = network.caller(network.sites("manager")[0])
        replica = Replica(
            self._here,
            store=store,
            primary=Primary(caller, primary.name),
            clock=self._clock,
            keep=self._config.manager.upload_ttl,
        )
        self._routes = {**replica.routes()}
        return replica

    def _fetcher(self, network: Network) -> StoreFetcher:
        client = BulkClient(Renewing(dialling, network.credentials), ways=Sources(network).find)
        return StoreFetcher(self._blobs, self._drafts, client, network.node)

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
