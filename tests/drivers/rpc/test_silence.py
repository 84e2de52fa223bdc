"""Which connections are not allowed to be silent for long."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import home
from doorway import MAX, Doorway, soon

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.host.descriptors import borrowed, sockets
from tetherd.drivers.rpc import silence
from tetherd.drivers.rpc.reaching import Secret
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.wire.messages import GetFleet


def bounds(connection: socket.socket) -> tuple[int, ...]:
    options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
    return tuple(connection.getsockopt(socket.IPPROTO_TCP, option) for option in options)


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with (
        socket.create_server((request.param, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as near,
        listener.accept()[0] as far,
    ):
        yield near, far


def test_the_connection_from_there_is_bounded_and_no_other(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    before = bounds(far)
    silence.bound_from(*near.getsockname()[:2])
    assert bounds(near) == (4000, 2, 1)
    assert bounds(far) == before
    silence.bound_from("127.0.0.1", 1)  # nobody's


async def test_whoever_calls_another_host_bounds_its_silence(tmp_path: Path) -> None:
    async with Doorway(tmp_path).open() as door:
        me = home().node()
        door.roster[me.node] = ("gateway",)
        caller = RemoteCaller(
            door.address, clock=SystemClock(), max_message=MAX, secret=Secret(me, door.credentials.node)
        )
        await caller.call(GetFleet(), deadline=soon())
        found = [bounds_of(inode, number, door.port) for inode, number in sockets().items()]
        assert (4000, 2, 1) in found
        caller.close()


def bounds_of(inode: int, number: int, port: int) -> Any:
    """Return the bounds of a socket that is connected to a port, None for any other."""
    with borrowed(inode, number) as found:
        try:
            return bounds(found) if found.getpeername()[1] == port else None
        except (OSError, IndexError):
            return None
