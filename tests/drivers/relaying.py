"""A relay, a node that only it can reach and one that wants to reach it, in one process over real sockets.

RPC between them is played by ``Asking``; everything that carries bytes is real.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from certificates import Network, home

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.relay.junction import SocketJunction
from tetherd.drivers.relay.tunnels import SocketTunnels
from tetherd.policy.relaying import Limits
from tetherd.ports import Context
from tetherd.roles.relay import Relay
from tetherd.roles.relayed import Forwarder, RelayedNode, Via
from tetherd.types import Seconds

RELAY = "0" * 64


class Asking:
    """Implements ports.Caller: a node's requests as the relay's RPC server hands them on."""

    def __init__(self, relay: Relay, node: str) -> None:
        self._routes = relay.routes()
        self._node = node

    async def call(self, request: Any, *, deadline: Seconds, request_id: str = "") -> Any:
        return await self._routes[type(request)](request, Context(deadline, 1, request_id, self._node))


class Relayed:
    """The three of them. ``address`` is where the target is reached on the dialer's host."""

    def __init__(self, limits: Limits, port: int) -> None:
        network: Network = home()
        self.dialer, self.target = network.node(), network.node()
        self.members = {RELAY, self.dialer.node, self.target.node}
        self.clock = SystemClock()
        self.junction = SocketJunction(f"127.0.0.1:{port}")
        self.relay = Relay(
            node=RELAY, member=self.members.__contains__, junction=self.junction, limits=limits, clock=self.clock
        )
        self.forwarder = Forwarder(tunnels=SocketTunnels(), clock=self.clock)

    def via(self, node: str) -> Via:
        return Via(RELAY, "127.0.0.1", Asking(self.relay, node))

    def waiting(self, port: int) -> RelayedNode:
        services: Any = {"rpc": ("127.0.0.1", port)}
        return RelayedNode(self.via(self.target.node), services, tunnels=SocketTunnels(), clock=self.clock)

    @property
    def address(self) -> str:
        return self.forwarder.reach(self.target.node, [self.via(self.dialer.node)])

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@contextlib.asynccontextmanager
async def background(run: Callable[[Callable[[], None]], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run what calls its argument once it is ready, until the block ends."""
    ready = asyncio.Event()
    task = asyncio.create_task(run(ready.set))
    await asyncio.wait_for(ready.wait(), 5.0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def relayed(listener: int, limits: Limits | None = None) -> AsyncIterator[Relayed]:
    """Yield a world whose target has its TLS listener on the port ``listener``."""
    world = Relayed(limits or Limits(), 0)
    async with background(world.relay.run), background(world.waiting(listener).run):
        try:
            yield world
        finally:
            world.forwarder.close()
