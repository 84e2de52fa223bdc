"""The life of a daemon: it serves what it is composed of, and is composed anew as its place in the network changes."""

import asyncio
import gc
import random
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from tetherd.config import addresses
from tetherd.config.schema import Cluster, Config
from tetherd.daemon.composition import Daemon
from tetherd.drivers.discovery.interfaces import has_ipv6, own_addresses
from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.host.descriptors import Guard
from tetherd.drivers.host.occupied import Listener, check
from tetherd.drivers.http.server import Application, HttpServer
from tetherd.drivers.identity.papers import DiskPapers
from tetherd.policy.membership import DIALABLE
from tetherd.roles.membership import Membership
from tetherd.types import RoleName, Seconds

CHANGE: Final[Seconds] = 10.0
"""How long requests in flight may take when the daemon is composed anew."""


class Switch:
    """The application of the control socket, which outlives compositions: requests in between wait for the next."""

    def __init__(self) -> None:
        self._app: Application | None = None
        self._there = asyncio.Event()

    def open(self, app: Application) -> None:
        """Lead to ``app`` from now on."""
        self._app = app
        self._there.set()

    def close(self) -> None:
        """Let requests wait from now on."""
        self._there.clear()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        await self._there.wait()
        assert self._app is not None
        await self._app(scope, receive, send)


async def serve(config: Config, *, ready: Callable[[], None]) -> None:
    """Run the configured roles until cancelled; then finish what is in flight, and end.

    ``ready`` is called once every socket listens. Raises InUse and BadConfig for what only shows when it is tried: an
    address that another process has, a file where a socket should be.
    """
    clock, again, switch = SystemClock(), asyncio.Event(), Switch()
    config = config if has_ipv6() else without_ipv6(config)
    papers = _papers(config, clock)

    def recompose() -> None:
        # Whoever has founded or joined a network asks next for what only the next composition can do.
        switch.close()
        again.set()

    membership = Membership(
        papers,
        configured=config.node.roles,
        clock=clock,
        chance=random.random,
        recompose=recompose,
        preflight=partial(_check_ports, config),
    )
    control = HttpServer(
        app=switch, settings=config.gateway, control=config.control if config.control.enabled else None
    )
    daemon = Daemon(config, clock, membership, papers)
    try:
        async with asyncio.TaskGroup() as group:
            listening = asyncio.Event()
            served = group.create_task(control.run(listening.set))
            guard = group.create_task(Guard().run())
            await listening.wait()
            try:
                while True:
                    await _live(daemon, switch, again, ready, config.drain.deadline)
                    again.clear()
                    daemon = Daemon(config, clock, membership, papers)
                    ready = _nothing
            finally:
                served.cancel()
                guard.cancel()
    finally:
        papers.close()


async def _live(
    daemon: Daemon, switch: Switch, again: asyncio.Event, ready: Callable[[], None], deadline: Seconds
) -> None:
    """Run one composition until it is cancelled, or another is asked for; drain it, and end it."""
    # What is alive now stays alive: the collector need not walk it again and again, 30 ms each time, under load.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)  # a request makes some 40 objects and no cycle

    def opened() -> None:
        if not again.is_set():
            switch.open(daemon.app)
        ready()

    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[Any]] = []
        try:
            for run in daemon.listeners:
                listening = asyncio.Event()
                tasks.append(group.create_task(run(listening.set)))
                await listening.wait()
            tasks += [group.create_task(run(_nothing)) for run in daemon.duties]
            ends = [group.create_task(again.wait()), group.create_task(daemon.front.run(opened))]
            tasks += ends
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await daemon.drain(min(CHANGE, deadline))
        except asyncio.CancelledError:
            await daemon.drain(deadline)
            raise
        finally:
            # The callers first, those they call last: a worker still says goodbye to its orchestrator.
            for task in reversed(tasks):
                task.cancel()
                await asyncio.wait([task])
            daemon.close()


def _nothing() -> None:
    """Be ready: there is nobody to tell."""


def _papers(config: Config, clock: SystemClock) -> DiskPapers:
    cluster = config.cluster
    return DiskPapers(
        config.node.state_dir,
        config.node.name,
        addresses=_reachable(cluster, cluster.listen),
        enrol=_reachable(cluster, cluster.enrol),
        clock=clock,
    )


def _check_ports(config: Config, roles: Collection[RoleName], founder: bool) -> None:
    """Raise InUse or BadConfig where a host with these roles could not listen, before a network counts on it."""
    cluster = config.cluster
    wanted = [
        (bool(DIALABLE.intersection(roles)), Listener("cluster.listen", cluster.listen)),
        (founder, Listener("cluster.enrol", cluster.enrol)),
        ("manager" in roles, Listener("cluster.bulk", cluster.bulk)),
        ("relay" in roles, Listener("relay.listen", config.relay.listen)),
        (cluster.dht and bool(DIALABLE.intersection(roles)), Listener("cluster.udp", cluster.udp, datagrams=True)),
    ]
    check(listener for needed, listener in wanted if needed)


def without_ipv6(config: Config) -> Config:
    """Return a configuration that listens on every address of IPv4 where it would on all of both families."""
    cluster, relay, only4 = config.cluster, config.relay, addresses.only4
    cluster = replace(
        cluster,
        listen=only4(cluster.listen),
        enrol=only4(cluster.enrol),
        bulk=only4(cluster.bulk),
        udp=only4(cluster.udp),
    )
    return replace(config, cluster=cluster, relay=replace(relay, listen=only4(relay.listen)))


def _reachable(cluster: Cluster, listen: str) -> tuple[str, ...]:
    """Return HOST:PORT of a listener, under each name or address that others may use."""
    host, port = addresses.split(listen)
    own = [name for name in own_addresses() if ":" in host or ":" not in name]
    names = cluster.advertise or (tuple(own) if addresses.wildcard(host) else (host,))
    return tuple(f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in names)
