"""The local ends of relayed connections: doors on loopback that lead to a relay, and ways back to a listener."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest
from plain import Peer, free_port, peers, serving

from tetherd.drivers.relay import tunnels as module
from tetherd.drivers.relay.tunnels import SocketTunnels
from tetherd.errors import Unavailable, Unreachable
from tetherd.ports import Door, Guest
from tetherd.wire.relay import PREFACE_SIZE, Way, preface

PREFACE = preface(b"t" * 32)


async def relay(peer: Peer) -> None:
    """Play a relay: take the preface, say hello, then answer in capitals."""
    assert await peer.read(PREFACE_SIZE) == PREFACE
    await peer.send(b"hello")
    while data := await peer.read(5):
        await peer.send(data.upper())


def port_of(door: Door) -> int:
    host, _, port = door.address.partition(":")
    assert host == "127.0.0.1"
    return int(port)


async def test_a_door_leads_where_its_receiver_says() -> None:
    came: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with serving(relay) as port, peers() as dial:

        async def receive(guest: Guest) -> None:
            came.set_result(await guest.carry(Way("127.0.0.1", port, PREFACE)))

        door = SocketTunnels().listen(receive)
        peer = await dial(port_of(door))
        await peer.send(b"words")
        assert await peer.read(10) == b"helloWORDS"
        peer.close()
        assert await asyncio.wait_for(came, 5.0) == 10
        door.close()


async def test_a_guest_can_be_carried_another_way_when_the_first_is_shut() -> None:
    async with serving(relay) as port, peers() as dial:

        async def receive(guest: Guest) -> None:
            with pytest.raises(Unreachable, match="cannot reach"):
                await guest.carry(Way("127.0.0.1", free_port(), PREFACE))
            await guest.carry(Way("127.0.0.1", port, PREFACE))

        door = SocketTunnels().listen(receive)
        peer = await dial(port_of(door))
        await peer.send(b"words")
        assert await peer.read(10) == b"helloWORDS"
        door.close()


@pytest.mark.parametrize("fail", [False, True])
async def test_a_guest_that_nobody_carries_is_closed(fail: bool) -> None:
    async def receive(_: Guest) -> None:
        if fail:
            raise RuntimeError("a bug")

    async with peers() as dial:
        door = SocketTunnels().listen(receive)
        peer = await dial(port_of(door))
        assert await peer.closed()
        door.close()


async def test_a_closed_door_is_closed_and_so_is_what_went_through() -> None:
    async with serving(relay) as port, peers() as dial:

        async def receive(guest: Guest) -> None:
            await guest.carry(Way("127.0.0.1", port, PREFACE))

        door = SocketTunnels().listen(receive)
        peer = await dial(port_of(door))
        assert await peer.read(5) == b"hello"
        door.close()
        assert await peer.closed()
        with pytest.raises(ConnectionRefusedError):
            await dial(port_of(door))


@pytest.mark.usefixtures("deaf_names")
async def test_a_name_that_nobody_answers_for_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT", 0.05)
    with pytest.raises(Unreachable, match=r"host\.deaf:7446: no answer"):
        await SocketTunnels().connect("host.deaf", 7446)


async def test_without_files_no_door_opens() -> None:
    async def receive(_: Guest) -> None:
        pytest.fail("nobody can have come")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(Unavailable, match="open files") as caught:
            SocketTunnels().listen(receive)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ulimit" in caught.value.fix


async def test_doors_are_not_for_crowds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GUESTS", 3)
    release = asyncio.Event()

    async def receive(_: Guest) -> None:
        await release.wait()

    async with peers() as dial:
        door = SocketTunnels().listen(receive)
        crowd = [await dial(port_of(door)) for _ in range(4)]
        assert await crowd[3].closed()
        release.set()
        assert await crowd[0].closed()
        door.close()


async def test_a_way_back_joins_a_listener_here_with_the_relay() -> None:
    async def parrot(peer: Peer) -> None:
        await peer.send(await peer.read(5))

    async with serving(relay) as port, serving(parrot) as here:
        guest = await SocketTunnels().connect("localhost", here)
        # The relay said hello, our listener said it back and ended; the relay made capitals of it and ended too.
        assert await asyncio.wait_for(guest.carry(Way("127.0.0.1", port, PREFACE)), 5.0) == 10
        guest.close()


async def test_a_listener_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable, match="refused"):
        await SocketTunnels().connect("127.0.0.1", free_port())
    with pytest.raises(Unreachable, match="cannot reach"):
        await SocketTunnels().connect("no.such.host.invalid", 7446)
    monkeypatch.setattr(module, "CONNECT", 0.1)
    with full() as port, pytest.raises(Unreachable, match="no answer"):
        await SocketTunnels().connect("127.0.0.1", port)


@contextlib.contextmanager
def full() -> Iterator[int]:
    """Yield a port whose queue of connections is full: a further one waits for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        port = listener.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port
