"""The composition root: from settings to running roles. The only module that names concrete classes of every layer."""

import asyncio
import gc
import os
import secrets
from collections.abc import Callable
from typing import Any

from tetherd import __version__
from tetherd.config.schema import Config
from tetherd.drivers.blobs import DiskBlobs
from tetherd.drivers.clock import SystemClock
from tetherd.drivers.http import HttpServer
from tetherd.drivers.inspect import ChildInspector
from tetherd.drivers.ledger import SqliteLedger
from tetherd.drivers.local import LocalCaller
from tetherd.drivers.processes import ProcessLauncher
from tetherd.drivers.rpc import RemoteCaller, Server
from tetherd.errors import BadConfig
from tetherd.policy.balance import STRATEGIES
from tetherd.ports import Caller, Clock, Engine, Handler, Role
from tetherd.roles.gateway.app import Gateway
from tetherd.roles.gateway.routing import Table
from tetherd.roles.gateway.status import Facts, Status
from tetherd.roles.gateway.surface import Surface
from tetherd.roles.manager import Manager
from tetherd.roles.orchestrator import Limits, Orchestrator
from tetherd.roles.worker import Place, Worker
from tetherd.roles.worker.inline import InlineLauncher
from tetherd.types import RoleName, Seconds
from tetherd.wire.assignments import Assignment
from tetherd.wire.messages import Request


async def serve(config: Config, *, ready: Callable[[], None]) -> None:
    """Run the configured roles until cancelled; then finish what is in flight, and end.

    ``ready`` is called once every socket listens. Raises InUse and BadConfig for what only shows when it is tried: an
    address that another process has, a file where a socket should be.
    """
    daemon = Daemon(config, SystemClock())
    # What is alive now stays alive: the collector need not walk it again and again, 30 ms each time, under load.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)  # a request makes some 40 objects and no cycle
    async with asyncio.TaskGroup() as group:
        duties = [group.create_task(run(lambda: None)) for run in daemon.duties]
        front = group.create_task(daemon.front.run(ready))
        try:
            await asyncio.shield(front)
        except asyncio.CancelledError:
            await daemon.drain(config.drain.deadline)
            raise
        finally:
            front.cancel()
            # The callers first, those they call last: a worker still says goodbye to its orchestrator.
            for duty in reversed(duties):
                duty.cancel()
                await asyncio.wait([duty])


class Daemon:
    """One host's roles, each given what it needs of the others and of the outside."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._routes: dict[type[Request[Any]], Handler] = {}
        self._local = LocalCaller(self._routes)
        self._callers: dict[str, Caller] = {}
        self._orchestrator: Orchestrator | None = None
        self._roles: list[Role] = []
        facts = Facts(
            version=__version__,
            node=config.node.name,
            roles=config.node.roles,
            pid=os.getpid(),
            address=f"http://{config.gateway.listen}" if self._hosts("gateway") else "",
            started=clock.monotonic(),
        )
        makers: dict[RoleName, Callable[[], Role]] = {
            "manager": self._manager,
            "orchestrator": self._orchestrate,
            "worker": self._worker,
            "relay": self._relay,
        }
        for name, make in makers.items():
            if self._hosts(name):
                self._add(make())
        self.front = HttpServer(
            app=self._surface(facts),
            settings=config.gateway,
            listen=config.gateway.listen if self._hosts("gateway") else None,
            control=config.control if config.control.enabled else None,
        )
        rpc = Server(config.rpc.listen, self._routes, clock=clock, max_message=config.rpc.max_message, lost=self._lost)
        self.duties = [rpc.run, *(role.run for role in self._roles)]

    async def drain(self, grace: Seconds) -> None:
        """Take no new requests; return when those that are here are answered, or after ``grace`` seconds."""
        until = self._clock.monotonic() + grace
        await self.front.stop(grace)
        if self._orchestrator:
            await self._orchestrator.drain(until)

    def _hosts(self, role: RoleName) -> bool:
        return role in self._config.node.roles

    def _add(self, role: Role) -> None:
        self._roles.append(role)
        self._routes.update(role.routes())

    def _lost(self, peer: int) -> None:
        if self._orchestrator:
            self._orchestrator.lost(peer)

    def _address(self, role: RoleName) -> str:
        """Return where other processes, runners among them, reach a role."""
        if self._hosts(role):
            return self._config.rpc.listen
        return self._config.peers.orchestrator if role == "orchestrator" else self._config.peers.manager

    def _caller(self, role: RoleName) -> Caller:
        if self._hosts(role):
            return self._local
        address = self._address(role)
        if address not in self._callers:
            self._callers[address] = RemoteCaller(address, clock=self._clock, max_message=self._config.rpc.max_message)
        return self._callers[address]

    def _surface(self, facts: Facts) -> Surface:
        """Return what is served over HTTP: the gateway, or where there is none the state of this daemon."""
        config = self._config
        if not self._hosts("gateway"):
            knows = self._hosts("orchestrator") or self._hosts("worker")
            orchestrator = self._caller("orchestrator") if knows else None
            table = Table(
                Status(facts=facts, clock=self._clock, orchestrator=orchestrator).routes(),
                absent=f"the daemon '{facts.node}' has no gateway role: it answers about its health and status only",
                fix="name one that has it with --endpoint http://host:port, or start one: tetherd run --role gateway",
            )
            return Surface(table=table, settings=config.gateway, clock=self._clock, shortcuts={})
        gateway = Gateway(
            orchestrator=self._caller("orchestrator"),
            manager=self._caller("manager"),
            clock=self._clock,
            settings=config.gateway,
            facts=facts,
            max_batch=config.orchestrator.max_batch,
        )
        self._add(gateway)
        return gateway.app

    def _manager(self) -> Manager:
        node, settings = self._config.node, self._config.manager
        return Manager(
            blobs=DiskBlobs(node.state_dir / "blobs", max_size=settings.max_model),
            ledger=SqliteLedger(node.state_dir / "ledger.db"),
            inspector=ChildInspector(node.state_dir / "inspect", timeout=settings.inspect_timeout),
            clock=self._clock,
            max_model=settings.max_model,
            upload_ttl=settings.upload_ttl,
        )

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

    def _relay(self) -> Role:
        raise BadConfig(
            "the role relay carries connections between the hosts of a network, and this host is in none",
            fix="join one first (tetherctl cluster join), or take relay out of node.roles",
        )

    def _worker(self) -> Worker:
        config = self._config
        orchestrator = self._caller("orchestrator")
        place = Place(
            # Two workers may share a host and its name; an id is one worker's, for its life.
            worker=f"{config.node.name}-{secrets.token_hex(2)}",
            node=config.node.name,
            orchestrator=self._address("orchestrator"),
            manager=self._address("manager"),
            cache_dir=str(config.node.cache_dir),
            max_message=config.rpc.max_message,
            log_level=config.log.level,
            log_format=config.log.format,
        )
        return Worker(
            place=place,
            settings=config.worker,
            orchestrator=orchestrator,
            manager=self._caller("manager"),
            launchers={
                "process": ProcessLauncher(),
                "thread": InlineLauncher(_load_here, orchestrator, self._clock),
            },
            clock=self._clock,
        )


def _load_here(assignment: Assignment) -> Engine:
    # ONNX Runtime costs 100 ms and 30 MB: a daemon whose models run in processes of their own never imports it.
    from tetherd.drivers.loading import load

    return load(assignment)
