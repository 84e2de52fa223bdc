"""Who gets through a handshake on a plain listener, and what those who never finish one achieve."""

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from certificates import home

from tetherd.drivers.host import memory
from tetherd.drivers.tcp import lobby, reception
from tetherd.drivers.tcp.mutual import dialling, listening, peer
from tetherd.drivers.tcp.reception import Reception, until


async def name_who_came(connection: ssl.SSLSocket) -> None:
    await until(connection, lambda: connection.send(peer(connection).encode()))


@contextlib.asynccontextmanager
async def receiving(
    meet: Callable[[ssl.SSLSocket], Awaitable[None]] = name_who_came, patience: float = 30.0
) -> AsyncIterator[Reception]:
    context = listening(home().node())
    found = Reception("127.0.0.1:0", "cluster.bulk", lambda: context, meet, patience)
    ready = asyncio.Event()
    task = asyncio.create_task(found.run(ready.set))
    await ready.wait()
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])


def place(found: Reception) -> tuple[str, int]:
    host, _, port = found.address.rpartition(":")
    return host, int(port)


async def visit(found: Reception, node: object = None) -> str:
    """Shake hands and return what was said."""
    visitor = home().node() if node is None else node
    reader, writer = await asyncio.open_connection(*place(found), ssl=dialling(visitor))  # type: ignore[arg-type]
    said = (await reader.read()).decode()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return said


def hello() -> bytes:
    """Return the first message of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        dialling(home().node()).wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def crowd(found: Reception, number: int, words: bytes) -> list[socket.socket]:
    visitors = [socket.create_connection(place(found)) for _ in range(number)]
    for visitor in visitors:
        visitor.sendall(words)
    return visitors


async def answered(visitor: socket.socket) -> None:
    """Wait until a visitor who said hello is answered: its handshake is under way then."""
    visitor.setblocking(False)
    await asyncio.get_running_loop().sock_recv(visitor, 1)


async def is_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return await asyncio.get_running_loop().sock_recv(connection, 1) == b""
    except ConnectionError:
        return True


async def test_a_member_is_met() -> None:
    node = home().node()
    async with receiving() as found:
        assert await visit(found, node) == node.node


async def test_a_hello_in_two_pieces_delays_no_short_message_after_it() -> None:
    async def answer(connection: ssl.SSLSocket) -> None:
        await until(connection, lambda: connection.recv(1))
        await name_who_came(connection)

    async with receiving(answer) as found:
        node, incoming, outgoing = home().node(), ssl.MemoryBIO(), ssl.MemoryBIO()
        visitor = dialling(node).wrap_bio(incoming, outgoing)
        reader, writer = await asyncio.open_connection(*place(found))
        said, cuts = b"", (100,)
        async with asyncio.timeout(10):
            while not said:
                with contextlib.suppress(ssl.SSLWantReadError):
                    visitor.do_handshake()
                    visitor.write(b"?")
                    said = visitor.read(100)
                words = outgoing.read()
                for start, end in itertools.pairwise((0, *cuts, len(words))):
                    writer.write(words[start:end])
                    await asyncio.sleep(0.01)  # so that it is a segment of its own
                cuts = ()
                if not said:
                    incoming.write(await reader.read(65536))
        assert said.decode() == node.node
        writer.close()


@pytest.mark.parametrize("is_begun", [False, True])
async def test_a_handshake_has_its_time(is_begun: bool) -> None:
    async with receiving(patience=0.2) as found:
        (visitor,) = crowd(found, 1, hello() if is_begun else b"")
        with visitor:
            if is_begun:
                await answered(visitor)
            async with asyncio.timeout(20):
                while not await is_ended(visitor):
                    pass  # what it is answered


async def test_of_too_many_handshakes_the_oldest_is_ended_and_nobody_else_waits() -> None:
    async with receiving() as found:
        visitors = []
        for _ in range(lobby.MOST):
            visitors += crowd(found, 1, hello())
            await answered(visitors[-1])
        assert await visit(found)
        assert next(iter(found._greeting)).getpeername() == visitors[1].getsockname()
        for one in visitors:
            one.close()


async def test_of_many_that_come_at_once_no_more_shake_hands_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "MOST", 4)
    async with receiving() as found:
        visitors = crowd(found, 60, hello())
        seen = 0
        async with asyncio.timeout(20):
            while not await is_ended(visitors[0]):
                seen = max(seen, len(found._greeting))
        for _ in range(100):  # passes of the loop in which others come
            await asyncio.sleep(0)
            seen = max(seen, len(found._greeting))
        assert 0 < seen <= 4
        for one in visitors:
            one.close()


async def test_the_memory_of_many_is_given_back_once_the_last_has_gone() -> None:
    async with receiving() as found:
        visitors = crowd(found, memory.MANY, b"\x16\x03\x03\x00\x05hello")
        async with asyncio.timeout(20):
            for one in visitors:
                while not await is_ended(one):
                    pass  # it is told what is wrong
        assert found._debt._owed == 0
        for one in visitors:
            one.close()


async def test_a_bug_ends_one_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: ssl.SSLSocket) -> None:
        raise ValueError("a bug")

    async with receiving(fail) as found:
        for _ in range(2):
            with contextlib.suppress(OSError):
                assert await visit(found) == ""
    assert [record.getMessage() for record in caplog.records] == ["a connection met a bug"] * 2


async def test_whoever_says_hello_and_is_gone_takes_nobody_along() -> None:
    async with receiving() as found:
        for _ in range(20):
            (visitor,) = crowd(found, 1, hello())
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            visitor.close()
        assert await visit(found)


@pytest.mark.parametrize(
    "words",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x02\x00\x00\x05hello", b"\x17\x03\x03\x00\x05hello", b"\x16\x03\x03\xff\xff"],
)
async def test_whoever_begins_with_something_else_than_tls_is_sent_away_at_once(words: bytes) -> None:
    async with receiving() as found:
        (visitor,) = crowd(found, 1, words)
        with visitor:
            assert await is_ended(visitor)
