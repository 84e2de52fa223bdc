"""One composition of a daemon: its roles, each given what it needs of the others and of the outside."""

import os
import secrets
from collections.abc import Callable
from typing import Any, Final

from tetherd import __version__
from tetherd.config.schema import Config
from tetherd.daemon.duties import Duty
from tetherd.daemon.finding import diagnosis
from tetherd.daemon.models import Models
from tetherd.daemon.network import Network
from tetherd.daemon.relays import relay
from tetherd.daemon.surroundings import Surroundings
from tetherd.drivers.host.processes import ProcessLauncher
from tetherd.drivers.http.server import HttpServer
from tetherd.drivers.identity.papers import DiskPapers
from tetherd.drivers.rpc.explain import explain
from tetherd.drivers.rpc.local import LocalCaller
from tetherd.drivers.rpc.reaching import TLS
from tetherd.drivers.rpc.server import Server
from tetherd.errors import NotInNetwork
from tetherd.policy.balance import STRATEGIES
from tetherd.ports import Caller, Clock, Engine, Handler, Role
from tetherd.roles.gateway.app import Gateway
from tetherd.roles.gateway.cluster import Cluster
from tetherd.roles.gateway.examination import Examination
from tetherd.roles.gateway.routing import Table
from tetherd.roles.gateway.status import Facts, Status
from tetherd.roles.gateway.surface import Surface
from tetherd.roles.membership import Membership
from tetherd.roles.orchestrator import Limits, Orchestrator
from tetherd.roles.relay import Relay
from tetherd.roles.worker import Place as WorkerPlace
from tetherd.roles.worker import Worker
from tetherd.roles.worker.inline import InlineLauncher
from tetherd.types import Finding, RoleName, Seconds
from tetherd.wire.assignments import Assignment
from tetherd.wire.chunks import BlobSource, Ways
from tetherd.wire.messages import Request

_SENT_AWAY: Final = "this node was sent away from its network; to go on alone: tetherctl cluster leave"


class Daemon:
    """One host's roles, each given what it needs of the others and of the outside."""

    def __init__(self, config: Config, clock: Clock, membership: Membership, papers: DiskPapers) -> None:
        self._config = config
        self._clock = clock
        self._membership = membership
        self._identity = str(papers.directory)
        self._network = Network(config, clock, membership, papers) if membership.standing else None
        self._cluster = Cluster(membership, clock=clock, authority=self._authority, path=self._path)
        self._examination = Examination(self._explain)
        finding = self._network.finding if self._network else None
        self._diagnosis = diagnosis(config, clock, membership, finding, relays=self._relays, examine=self._explain)
        self._routes: dict[type[Request[Any]], Handler] = {}
        self._around = Surroundings(config, clock, self._network, membership.roles, LocalCaller(self._routes))
        self._models: Models | None = None
        self._orchestrator: Orchestrator | None = None
        self._roles: list[Role] = []
        standing = membership.standing
        facts = Facts(
            version=__version__,
            node=config.node.name,
            roles=membership.roles,
            pid=os.getpid(),
            address=f"http://{config.gateway.listen}" if self._hosts("gateway") else "",
            started=clock.monotonic(),
            network=standing.roster.name if standing else "",
            barred=_SENT_AWAY if standing and standing.me is None else "",
        )
        makers: dict[RoleName, Callable[[], Role]] = {
            "manager": self._manager,
            "orchestrator": self._orchestrate,
            "worker": self._worker,
            "relay": self._relay,
        }
        for name, make in makers.items():
            if self._hosts(name) and (name != "relay" or self._network):
                self._add(make())
        self.app = self._surface(facts)
        self.front = HttpServer(
            app=self.app, settings=config.gateway, listen=config.gateway.listen if self._hosts("gateway") else None
        )
        self._routes.update(membership.routes())
        if self._network:
            self._routes.update(self._network.finding.peering.routes())
        rpc = Server(
            config.rpc.listen,
            self._routes,
            clock=clock,
            max_message=config.rpc.max_message,
            lost=self._lost,
            door=self._network.door if self._network else None,
        )
        enrolment, network = (self._network.listeners, self._network.duties) if self._network else ([], [])
        bulk: list[Duty] = self._models.listeners if self._models else []
        self.listeners: list[Duty] = [rpc.run, *enrolment, *bulk]
        self.duties: list[Duty] = [*network, *(role.run for role in self._roles)]

    async def drain(self, grace: Seconds) -> None:
        """Take no new requests; return when those that are here are answered, or after ``grace`` seconds."""
        until = self._clock.monotonic() + grace
        await self.front.stop(grace)
        if self._orchestrator:
            await self._orchestrator.drain(until)

    def close(self) -> None:
        """Give up what another composition will need."""
        self._around.close()
        if self._network:
            self._network.close()
        if self._models:
            self._models.close()

    def _hosts(self, role: RoleName) -> bool:
        return role in self._membership.roles

    def _explain(self, address: str) -> Finding:
        standing = self._membership.standing
        if standing is None:
            raise NotInNetwork.outside()
        members = standing.roster.members
        expected = next((member.node for member in members if address in member.addresses), "")
        return explain(f"{TLS}{address}", standing.credentials, expected, self._membership.roles_of)

    def _authority(self) -> Caller | None:
        return self._network.authority() if self._network else None

    def _path(self, node: str) -> str:
        peer = self._network.finding.peering.table.peer(node) if self._network else None
        return peer.path if peer else ""

    def _relays(self) -> list[str]:
        return self._network.relays.names if self._network else []

    def _add(self, role: Role) -> None:
        self._roles.append(role)
        self._routes.update(role.routes())

    def _lost(self, peer: int) -> None:
        if self._orchestrator:
            self._orchestrator.lost(peer)

    def _surface(self, facts: Facts) -> Surface:
        """Return what is served over HTTP: the gateway, or where there is none the state of this daemon."""
        config = self._config
        if not self._hosts("gateway"):
            knows = self._hosts("orchestrator") or self._hosts("worker")
            orchestrator = self._around.anyone("orchestrator") if knows else None
            table = Table(
                [
                    *Status(facts=facts, clock=self._clock, orchestrator=orchestrator).routes(),
                    *self._cluster.routes(),
                    *self._diagnosis.routes(),
                    *self._examination.routes(),
                ],
                absent=f"the daemon '{facts.node}' has no gateway role: it answers about its health and status only",
                fix="name one that has it with --endpoint http://host:port, or start one: tetherd run --role gateway",
            )
            return Surface(table=table, settings=config.gateway, clock=self._clock, shortcuts={})
        gateway = Gateway(
            orchestrator=self._around.anyone("orchestrator"),
            manager=self._around.anyone("manager"),
            clock=self._clock,
            settings=config.gateway,
            facts=facts,
            max_batch=config.orchestrator.max_batch,
        )
        gateway.table.add([*self._cluster.routes(), *self._diagnosis.routes(), *self._examination.routes()])
        self._add(gateway)
        return gateway.app

    def _manager(self) -> Models:
        self._models = Models(self._config, self._clock, self._network)
        return self._models

    def _orchestrate(self) -> Orchestrator:
        settings = self._config.orchestrator
        limits = Limits(
            queue_depth=settings.queue_depth,
            max_batch=settings.max_batch,
            max_bytes=self._config.rpc.max_message,
            batch_delay=settings.batch_delay,
            attempts=settings.attempts,
            execution=settings.execution_timeout,
        )
        self._orchestrator = Orchestrator(clock=self._clock, limits=limits, strategy=STRATEGIES[settings.balance])
        return self._orchestrator

    def _relay(self) -> Relay:
        return relay(self._config.relay, self._membership, self._clock)

    def _worker(self) -> Worker:
        config = self._config
        place = WorkerPlace(
            # Two workers may share a host and its name; an id is one worker's, for its life.
            worker=f"{config.node.name}-{secrets.token_hex(2)}",
            node=config.node.name,
            node_id=self._network.node if self._network else "",
            identity=self._identity,
            cache_dir=str(config.node.cache_dir),
            max_message=config.rpc.max_message,
            log_level=config.log.level,
            log_format=config.log.format,
        )
        return Worker(
            place=place,
            settings=config.worker,
            surroundings=self._around,
            manager=self._around.anyone("manager"),
            launchers={
                "process": ProcessLauncher(),
                "thread": InlineLauncher(_load_here, self._around.caller, self._clock),
            },
            clock=self._clock,
        )


def _load_here(assignment: Assignment, ways: Callable[[BlobSource], Ways]) -> Engine:
    # ONNX Runtime costs 100 ms and 30 MB: a daemon whose models run in processes of their own never imports it.
    from tetherd.drivers.models.loading import load

    return load(assignment, ways)
