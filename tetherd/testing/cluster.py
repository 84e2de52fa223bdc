"""A cluster in one event loop: a real orchestrator and real workers, connected as processes are, with fake runners."""

import asyncio
import itertools
import struct
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from tetherd.config.schema import Worker as Settings
from tetherd.drivers.rpc.local import LocalCaller
from tetherd.errors import Cancelled, DeadlineExceeded, Unimplemented, Unreachable
from tetherd.policy.balance import RoundRobin, Strategy
from tetherd.ports import Caller, Clock, Context, Handler
from tetherd.roles.orchestrator import Limits, Orchestrator
from tetherd.roles.worker import Worker
from tetherd.roles.worker.role import Place
from tetherd.testing.runners import FakeEngine, FakeLauncher, FakeRunner
from tetherd.testing.time import LoopClock
from tetherd.types import Digest, Seconds, Tensor
from tetherd.wire.assignments import Site
from tetherd.wire.catalog import Catalog, WatchCatalog
from tetherd.wire.chunks import BlobSource, Ways, said
from tetherd.wire.messages import FleetState, GetFleet, Infer, Inferred, Request

R = TypeVar("R")

_GRACE: Seconds = 1.0
_PATIENCE: Seconds = 3.0


class Connection:
    """Implements ports.Caller as another process would see it.

    ``cut`` ends it as a lost connection ends: its handlers are cancelled, then ``lost`` is told, all in one step of the
    event loop, and whoever waits gets Unreachable. ``node``: the host at its other end, empty for this one.
    """

    def __init__(
        self,
        routes: Mapping[type[Request[Any]], Handler],
        peer: int,
        clock: Clock,
        lost: Callable[[int], None],
        node: str = "",
    ) -> None:
        self.peer = peer
        self._node = node
        self._routes = routes
        self._clock = clock
        self._lost = lost
        self._is_cut = False
        self._calls: set[asyncio.Task[Any]] = set()

    async def call(self, request: Request[R], *, deadline: Seconds, request_id: str = "") -> R:
        """See ports.Caller."""
        if self._is_cut:
            raise Unreachable("cannot reach the test's role: no connection")
        handler = self._routes.get(type(request))
        if handler is None:
            raise Unimplemented(f"method {request.METHOD!r} is not answered here")
        task = asyncio.ensure_future(handler(request, Context(deadline, self.peer, request_id, self._node)))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            patience = max(0.0, deadline - self._clock.monotonic()) + _GRACE
            await asyncio.wait({task}, timeout=patience)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()
            raise DeadlineExceeded("the test's role did not answer in time")
        if task.cancelled():
            if self._is_cut:
                raise Unreachable("cannot reach the test's role: the connection was lost")
            raise Cancelled("the handler was cancelled")
        reply: R = task.result()
        return reply

    def cut(self) -> None:
        """Lose the connection, for good."""
        if not self._is_cut:
            self._is_cut = True
            for task in list(self._calls):
                task.cancel()
            self._lost(self.peer)


class Line:
    """Implements ports.Caller as a process of another host has it: connections that end, and come again."""

    def __init__(self, connect: Callable[[], Connection], clock: Clock) -> None:
        self._connect = connect
        self._clock = clock
        self._connection = connect()
        self._up = asyncio.Event()
        self._up.set()

    async def call(self, request: Request[R], *, deadline: Seconds, request_id: str = "") -> R:
        """See ports.Caller."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._up.wait()
        except TimeoutError:
            raise Unreachable("cannot reach the test's role: no connection") from None
        return await self._connection.call(request, deadline=deadline, request_id=request_id)

    def drop(self, pause: Seconds) -> None:
        """Lose the connection; there is another one ``pause`` seconds later."""
        self.cut()
        asyncio.get_running_loop().call_later(pause, self._dial)

    def cut(self) -> None:
        """Lose the connection, for good."""
        self._up.clear()
        self._connection.cut()

    def _dial(self) -> None:
        self._connection = self._connect()
        self._up.set()


class FakeManager:
    """Answers WatchCatalog with what the test published last."""

    def __init__(self) -> None:
        self._catalog = Catalog(0, [], [])
        self._changed = asyncio.Event()

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """See ports.Role."""
        return {WatchCatalog: self._watch}

    def publish(self, catalog: Catalog) -> None:
        """Replace the catalog; those who watch are told."""
        self._catalog = catalog
        self._changed.set()
        self._changed = asyncio.Event()

    async def _watch(self, request: WatchCatalog, _: Context) -> Catalog:
        while request.epoch == self._catalog.epoch:
            await self._changed.wait()
        return self._catalog


class FakeSurroundings:
    """Implements ports.Surroundings with the orchestrators and ``moved`` sources that a test may change at any time."""

    def __init__(self, known: Mapping[Site, Caller]) -> None:
        self.known = dict(known)
        self.moved: dict[str, Ways] = {}

    def orchestrators(self) -> Sequence[Site]:
        """See ports.Surroundings."""
        return tuple(self.known)

    def manager(self) -> Site:
        """See ports.Surroundings."""
        return Site("local")

    def caller(self, site: Site) -> Caller:
        """See ports.Surroundings."""
        return self.known[site]

    def ways(self, source: BlobSource) -> Ways:
        """See ports.Surroundings."""
        return self.moved.get(source.node) or said(source)


class Cluster:
    """An orchestrator, a manager's catalog and some workers, used as an asynchronous context.

    Each worker is connected by a connection of its own, and so is each of its runners. ``launchers[n]`` starts the
    runners of ``workers[n]``, all on ``engine``. ``node``: the workers are on that other host, ``lines`` lead to them.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        settings: Settings | None = None,
        limits: Limits | None = None,
        strategy: Callable[[], Strategy] = RoundRobin,
        engine: FakeEngine | None = None,
        node: str = "",
    ) -> None:
        self.clock = LoopClock()
        self.engine = engine or FakeEngine()
        self.orchestrator = Orchestrator(clock=self.clock, limits=limits or Limits(), strategy=strategy)
        self.manager = FakeManager()
        self.workers: list[Worker] = []
        self.launchers: list[FakeLauncher] = []
        self.connections: list[Connection | Line] = []
        self.lines: list[Line] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._node = node
        self._settings = settings or Settings(memory_limit=1 << 30, max_concurrency=64, spare=False)
        self._peers = itertools.count(1)
        self._wanted = workers
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        self._sweeping = asyncio.create_task(self.orchestrator.run(lambda: None))
        for _ in range(self._wanted):
            self.add_worker()
        await asyncio.sleep(0.01)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (*self.tasks, self._sweeping):
            task.cancel()
        await asyncio.gather(*self.tasks, self._sweeping, return_exceptions=True)

    def connect(self) -> Connection:
        """Return a new connection to the orchestrator."""
        return Connection(self.orchestrator.routes(), next(self._peers), self.clock, self.orchestrator.lost, self._node)

    def _reach(self) -> Connection | Line:
        if not self._node:
            return self.connect()
        self.lines.append(Line(self.connect, self.clock))
        return self.lines[-1]

    def add_worker(self, settings: Settings | None = None) -> Worker:
        """Start one more worker; it serves once it has reported."""
        number = len(self.workers)
        connection, launcher = self._reach(), FakeLauncher(self._make_runner)
        manager: Caller = LocalCaller(self.manager.routes())
        worker = Worker(
            place=Place(
                worker=f"w{number}",
                node=f"node{number}",
                cache_dir="nowhere",
                max_message=1 << 24,
            ),
            settings=settings or self._settings,
            surroundings=FakeSurroundings({Site("local"): connection}),
            manager=manager,
            launchers={"process": launcher, "thread": launcher},
            clock=self.clock,
        )
        self.workers.append(worker)
        self.launchers.append(launcher)
        self.connections.append(connection)
        self.tasks.append(asyncio.create_task(worker.run(lambda: None)))
        return worker

    async def call(self, message: Request[R], *, patience: Seconds = 30.0) -> R:
        """Call the orchestrator as a gateway of this process does."""
        caller = LocalCaller(self.orchestrator.routes())
        return await caller.call(message, deadline=self.clock.monotonic() + patience)

    async def infer(self, *values: int, model: str = "m", priority: int = 0, patience: Seconds = 30.0) -> Inferred:
        """Send one request of as many rows as there are values; see ``request``."""
        message = request(*values, model=model, priority=priority, identity=f"r{next(self._ids)}")
        return await self.call(message, patience=patience)

    async def fleet(self) -> FleetState:
        """Return what the orchestrator sees."""
        return await self.call(GetFleet())

    def runners(self, model: str = "m") -> list[FakeRunner]:
        """Return every runner that was ever assigned a model."""
        return [runner for launcher in self.launchers for runner in launcher.serving(model)]

    def _make_runner(self, pid: int) -> FakeRunner:
        connection = self._reach()
        return FakeRunner(connection, connection.cut, self.engine, self.clock, pid)


def request(*values: int, model: str = "m", priority: int = 0, identity: str = "r0", number: int = 1) -> Infer:
    """Return a request for one INT64 input ``x`` of as many rows as there are values."""
    tensor = Tensor("x", "INT64", (len(values),), struct.pack(f"<{len(values)}q", *values))
    version = Digest(f"sha256:{model}-{number}")
    return Infer(identity, model, number, version, [tensor], len(values), priority)
