"""The relay's port: two tickets of one session meet, and everything else gets nothing and costs little."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from plain import Dial, Peer, peers

from tetherd.drivers.relay import junction as module
from tetherd.drivers.relay.junction import SocketJunction
from tetherd.drivers.tcp import lobby
from tetherd.errors import BadConfig, Forbidden, InUse
from tetherd.wire.relay import preface

LEFT, RIGHT, OTHER = b"l" * 32, b"r" * 32, b"o" * 32


class Desk:
    """Hands each ticket to its session once."""

    def __init__(self) -> None:
        self.tickets = {LEFT: 1, RIGHT: 1, OTHER: 2}
        self.over: list[tuple[int, int]] = []
        self.claimed = asyncio.Event()
        self.told = asyncio.Event()

    def claim(self, ticket: bytes) -> int:
        if ticket not in self.tickets:
            raise Forbidden("no such ticket")
        self.claimed.set()
        return self.tickets.pop(ticket)

    def ended(self, session: int, moved: int) -> None:
        self.over.append((session, moved))
        self.told.set()


class World:
    """A junction, the desk it asks, and peers that dial it."""

    def __init__(self, junction: SocketJunction, desk: Desk, dial: Dial) -> None:
        self.junction = junction
        self.desk = desk
        self._dial = dial

    async def dial(self, data: bytes = b"") -> Peer:
        peer = await self._dial(self.junction.port)
        await peer.send(data)
        return peer


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    junction, desk, ready = SocketJunction("127.0.0.1:0"), Desk(), asyncio.Event()
    async with peers() as dial:
        task = asyncio.create_task(junction.run(desk.claim, desk.ended, ready.set))
        await asyncio.wait_for(ready.wait(), 5.0)
        try:
            yield World(junction, desk, dial)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_two_tickets_of_a_session_meet() -> None:
    async with world() as here:
        left = await here.dial(preface(LEFT) + b"early words, ")
        right = await here.dial(preface(RIGHT))
        assert await right.read(13) == b"early words, "
        await right.send(b"answered")
        assert await left.read(8) == b"answered"
        assert here.junction.moved() == {1: 21}
        left.close()
        right.close()
        await asyncio.wait_for(here.desk.told.wait(), 5.0)
        assert here.desk.over == [(1, 21)]
        assert here.junction.moved() == {}


async def test_a_preface_may_come_in_pieces() -> None:
    async with world() as here:
        left, right = await here.dial(preface(LEFT)), await here.dial()
        for byte in preface(RIGHT):
            await right.send(bytes([byte]))
            await asyncio.sleep(0)
        await right.send(b"x")
        assert await left.read(1) == b"x"


@pytest.mark.parametrize("first", [LEFT, RIGHT])
async def test_a_ticket_brought_twice_is_refused_and_disturbs_nobody(first: bytes) -> None:
    async with world() as here:
        left = await here.dial(preface(first))
        await asyncio.wait_for(here.desk.claimed.wait(), 5.0)  # of two that come at once, either may be the one
        thief = await here.dial(preface(first))
        assert await thief.closed()
        right = await here.dial(preface(LEFT if first == RIGHT else RIGHT))
        await right.send(b"still here")
        assert await left.read(10) == b"still here"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a.very.long.name.example\r\n\r\n",
        b"CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: 10.0.0.1:22\r\n\r\n",
        b"\x05\x01\x00" + b"\x00" * 40,
        b"\x04\x01\x00\x16\x0a\x00\x00\x01" + b"a" * 40,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40,
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 22\r\n" + b"\r\n" * 10,
        preface(b"?" * 32),
        b"\xff" * 4096,
    ],
)
async def test_strangers_are_closed_without_a_word(data: bytes) -> None:
    async with world() as here:
        stranger = await here.dial(data)
        assert await stranger.closed()


async def test_silence_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GREETING", 0.1)
    async with world() as here:
        for data in (b"", preface(LEFT)[:39]):
            silent = await here.dial(data)
            assert await silent.closed()


async def test_a_crowd_of_silent_strangers_does_not_keep_a_ticket_out() -> None:
    async with world() as here:
        crowd = [await here.dial() for _ in range(lobby.MOST + 50)]
        assert await crowd[0].closed(), "the oldest made room"
        left, right = await here.dial(preface(LEFT)), await here.dial(preface(RIGHT))
        await left.send(b"x")
        assert await right.read(1) == b"x"


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_it_survives_garbage_and_gives_everything_back() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    noise = random.Random(seed)
    async with world() as here:
        left = await here.dial(preface(LEFT))
        right = await here.dial(preface(RIGHT) + b"x")
        assert await left.read(1) == b"x"
        before = open_files()
        for _ in range(1500):
            (await here.dial(noise.randbytes(noise.choice([0, 1, 39, 40, 41, 200])))).close()
        await left.send(b"still here")
        assert await right.read(10) == b"still here"
        async with asyncio.timeout(5.0):
            while open_files() > before:  # noqa: ASYNC110 - the kernel sets no event
                await asyncio.sleep(0.01)


async def test_ending_a_session_cuts_it_wherever_it_stands() -> None:
    async with world() as here:
        early = await here.dial(preface(OTHER))
        left, right = await here.dial(preface(LEFT) + b"12345"), await here.dial(preface(RIGHT))
        assert await right.read(5) == b"12345"
        assert here.junction.end(2) == 0
        assert await early.closed()
        assert here.junction.end(1) == 5
        assert await left.closed()
        assert await right.closed()
        assert here.junction.end(3) == 0
        assert here.desk.over == [], "whoever ends a session knows it already"


async def test_stopping_cuts_everything() -> None:
    async with peers() as keep:
        async with world() as here:
            mine = [await keep(here.junction.port) for _ in range(4)]
            for peer, data in zip(mine, [OTHER, LEFT, RIGHT], strict=False):
                await peer.send(preface(data))
            await mine[1].send(b"1")
            await mine[2].read(1)
        for peer in mine:
            assert await peer.closed()


async def test_an_address_that_is_taken_is_said_to_be() -> None:
    def nothing(*_: object) -> int:
        return 0

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InUse, match="in use") as refused:
            await SocketJunction(f"127.0.0.1:{port}").run(nothing, lambda *_: None, lambda: None)
        assert "relay.listen" in refused.value.fix
    with pytest.raises(BadConfig, match="cannot listen"):
        await SocketJunction("192.0.2.1:0").run(nothing, lambda *_: None, lambda: None)
