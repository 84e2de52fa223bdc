"""A relay, a node that waits at it and one that dials, each a process on a host of a test network.

Run as ``python threesome.py relay|node|door FILE PLACE``, where FILE holds the ``Setting`` and PLACE is a directory.
"""

import asyncio
import contextlib
import itertools
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.relay.junction import SocketJunction
from tetherd.drivers.relay.tunnels import SocketTunnels
from tetherd.drivers.rpc.door import Door
from tetherd.drivers.rpc.reaching import Secret
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.drivers.rpc.server import Server
from tetherd.policy.admission import Admission
from tetherd.policy.relaying import Limits
from tetherd.roles.relay import Relay
from tetherd.roles.relayed import Forwarder, RelayedNode, Via
from tetherd.types import Credentials, RoleName

RPC: Final = 7443
DOOR: Final = 7000
"""The port on the dialer's host that leads to the door, so that a test knows it beforehand."""

CLOCK: Final = SystemClock()
MAX: Final = 1 << 20


class Setting(msgspec.Struct):
    """Who is who: credentials of the three, and where the relay is."""

    host: str
    relay: Credentials
    node: Credentials
    door: Credentials

    @property
    def roster(self) -> dict[str, tuple[RoleName, ...]]:
        return {self.relay.node: ("relay",), self.node.node: ("orchestrator",), self.door.node: ("worker",)}

    def via(self, mine: Credentials) -> Via:
        """Return the relay as a node calls it."""
        secret = Secret(mine, self.relay.node)
        caller = RemoteCaller(f"tls+tcp://{self.host}:{RPC}", clock=CLOCK, max_message=MAX, secret=secret)
        return Via(self.relay.node, self.host, caller)


def ready() -> None:
    print("ready", flush=True)


async def relay(setting: Setting, place: Path) -> None:
    role = Relay(
        node=setting.relay.node,
        member=setting.roster.__contains__,
        junction=SocketJunction("0.0.0.0:7446"),
        limits=Limits(),
        clock=CLOCK,
    )
    door = Door(f"tls+tcp://0.0.0.0:{RPC}", setting.relay, Admission(setting.roster.get), CLOCK)
    server = Server(
        f"ipc://{place}/rpc.sock", role.routes(), clock=CLOCK, max_message=MAX, lost=lambda _: None, door=door
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(role.run(lambda: None))
        group.create_task(server.run(ready))


async def node(setting: Setting, _: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", DOOR):
        services: Any = {"rpc": ("127.0.0.1", DOOR)}
        await RelayedNode(setting.via(setting.node), services, tunnels=SocketTunnels(), clock=CLOCK).run(ready)


async def door(setting: Setting, _: Path) -> None:
    forwarder = Forwarder(tunnels=SocketTunnels(), clock=CLOCK)
    print(forwarder.reach(setting.node.node, [setting.via(setting.door)]), flush=True)
    await asyncio.get_running_loop().create_future()


PARTS: Final[dict[str, Callable[[Setting, Path], Coroutine[Any, Any, None]]]] = {
    "relay": relay,
    "node": node,
    "door": door,
}


def talk(link: socket.socket, words: bytes, patience: float) -> bytes:
    """Say ``words`` and return what comes back; empty when the connection ended or broke."""
    link.settimeout(patience)
    with contextlib.suppress(ConnectionError):
        link.sendall(words)
        got = b""
        while len(got) < len(words) and (more := link.recv(len(words) - len(got))):
            got += more
        return got
    return b""


def attempts(make: Callable[[], socket.socket], words: bytes) -> int:
    """Dial anew until ``words`` come back; return how many dials it took."""
    for count in itertools.count(1):
        with contextlib.suppress(OSError), make() as link:  # it may be broken before it is even made
            if talk(link, words, 1.0) == words:
                return count
    raise AssertionError


if __name__ == "__main__":
    import uvloop

    uvloop.run(PARTS[sys.argv[1]](msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=Setting), Path(sys.argv[3])))
