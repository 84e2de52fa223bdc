"""Plain TCP peers for tests: no transports, so that what they hold is closed when the test says so, and only then."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

PATIENCE = 5.0


class Peer:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read(self, size: int) -> bytes:
        """Return ``size`` bytes, or fewer where the stream ends."""
        data = b""
        async with asyncio.timeout(PATIENCE):
            while len(data) < size:
                more = await asyncio.get_running_loop().sock_recv(self.socket, size - len(data))
                if not more:
                    break
                data += more
        return data

    async def closed(self) -> bool:
        """Wait for the end of the stream, proper or not."""
        try:
            return not await self.read(1)
        except ConnectionError:
            return True

    def close(self) -> None:
        self.socket.close()


Dial = Callable[[int], Coroutine[Any, Any, Peer]]


@contextlib.asynccontextmanager
async def peers() -> AsyncIterator[Dial]:
    """Yield what dials a port on loopback; closes every peer at the end."""
    dialled: list[Peer] = []

    async def dial(port: int) -> Peer:
        peer = Peer(socket.socket())
        dialled.append(peer)
        peer.socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(peer.socket, ("127.0.0.1", port))
        return peer

    try:
        yield dial
    finally:
        for peer in dialled:
            peer.close()


@contextlib.asynccontextmanager
async def serving(serve: Callable[[Peer], Coroutine[Any, Any, None]]) -> AsyncIterator[int]:
    """Run ``serve`` for every connection to the port that is yielded; each is closed when it returns."""
    loop, tasks = asyncio.get_running_loop(), set()

    async def answer(peer: Peer) -> None:
        with contextlib.closing(peer):
            await serve(peer)

    async def accept() -> None:
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            tasks.add(loop.create_task(answer(Peer(connection))))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        tasks.add(loop.create_task(accept()))
        try:
            yield listener.getsockname()[1]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
