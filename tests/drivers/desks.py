"""A server whose answers tests decide, and callers of it."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

from duties import running

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.drivers.rpc.server import Server
from tetherd.errors import OffsetConflict, QueueFull
from tetherd.ports import Context
from tetherd.types import Tensor
from tetherd.wire.catalog import Chunk, GetBlob, GetManifest
from tetherd.wire.messages import Done, Release

MAX = 4 << 20


def tensor(size: int) -> Tensor:
    return Tensor("data", "UINT8", (size,), bytes(size))


class Desk:
    """A server whose handlers do as the request's digest says."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.began = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.lost: list[int] = []
        self.told = asyncio.Event()
        self.go = asyncio.Event()

    def routes(self) -> dict[Any, Any]:
        return {GetBlob: self.answer, GetManifest: self.park, Release: self.crash}

    def forget(self, peer: int) -> None:
        self.lost.append(peer)
        self.told.set()

    async def answer(self, request: GetBlob, context: Context) -> Chunk:
        self.contexts.append(context)
        if request.digest == "full":
            raise QueueFull("too much", fix="send less", retry_after=1.5, details={"limit": 3})
        if request.digest == "offset":
            raise OffsetConflict("not there", details={"offset": 7})
        return Chunk(request.offset, tensor(request.length))

    async def park(self, request: GetManifest, context: Context) -> Chunk:
        self.contexts.append(context)
        self.began.release()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return Chunk(0, tensor(1))

    async def crash(self, request: Release, context: Context) -> Done:
        raise KeyError("the secret of the handler")


@contextlib.asynccontextmanager
async def serving(address: str, desk: Desk, max_message: int = MAX) -> AsyncIterator[asyncio.Task[None]]:
    server = Server(address, desk.routes(), clock=SystemClock(), max_message=max_message, lost=desk.forget)
    async with running(server.run) as task:
        yield task


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def calling(address: str, max_message: int = MAX) -> Iterator[RemoteCaller]:
    caller = RemoteCaller(address, clock=SystemClock(), max_message=max_message)
    try:
        yield caller
    finally:
        caller.close()


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def blob(length: int = 3, offset: int = 0, digest: str = "plain") -> GetBlob:
    return GetBlob(digest, offset, length)  # type: ignore[arg-type]


def manifest() -> GetManifest:
    return GetManifest("any")  # type: ignore[arg-type]


async def within(awaitable: Awaitable[Any], seconds: float = 5.0) -> Any:
    async with asyncio.timeout(seconds):
        return await awaitable


@contextlib.asynccontextmanager
async def silence(port: int) -> AsyncIterator[asyncio.AbstractServer]:
    """Accept connections on a port and say nothing; they stay open when the server is closed."""
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", port)
    try:
        yield server
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()
