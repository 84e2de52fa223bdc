"""The contract of ports.Caller, kept by the caller within a process and by the one between processes."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.rpc.local import LocalCaller
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.drivers.rpc.server import Server
from tetherd.errors import ModelNotFound, Unimplemented
from tetherd.ports import Caller, Context
from tetherd.testing import Connection
from tetherd.types import Digest, Tensor
from tetherd.wire.catalog import Alias, Chunk, GetBlob, MoveAlias
from tetherd.wire.messages import GetFleet


class Desk:
    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()

    def routes(self) -> dict[Any, Any]:
        return {MoveAlias: self.move, GetBlob: self.get}

    async def move(self, request: MoveAlias, context: Context) -> Alias:
        self.contexts.append(context)
        if request.number == 404:
            raise ModelNotFound("no such model", fix="push it", retry_after=2.0, details={"model": request.model})
        return Alias(request.model, request.alias, request.number, 1)

    async def get(self, request: GetBlob, context: Context) -> Chunk:
        if request.length:
            return Chunk(5, Tensor("data", "UINT8", (2,), b"hi"))
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError


@contextlib.asynccontextmanager
async def local(desk: Desk) -> AsyncIterator[Caller]:
    yield LocalCaller(desk.routes())


@contextlib.asynccontextmanager
async def remote(desk: Desk) -> AsyncIterator[Caller]:
    with tempfile.TemporaryDirectory(prefix="tl") as directory:
        address = f"ipc://{directory}/s"
        server = Server(address, desk.routes(), clock=SystemClock(), max_message=1 << 20, lost=lambda _: None)
        ready = asyncio.Event()
        task = asyncio.create_task(server.run(ready.set))
        await ready.wait()
        caller = RemoteCaller(address, clock=SystemClock(), max_message=1 << 20)
        yield caller
        caller.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def simulated(desk: Desk) -> AsyncIterator[Caller]:
    connection = Connection(desk.routes(), 1, SystemClock(), lambda _: None)
    yield connection
    connection.cut()


@pytest.fixture(params=[local, remote, simulated], ids=["LocalCaller", "RemoteCaller", "testing.Connection"])
def connected(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_it_returns_the_reply_and_carries_the_context(connected: Any) -> None:
    desk = Desk()
    async with connected(desk) as caller:
        reply = await caller.call(MoveAlias("m", "stable", 3), deadline=time.monotonic() + 5, request_id="id")
        assert reply == Alias("m", "stable", 3, 1)
        assert desk.contexts[0].request_id == "id"
        assert desk.contexts[0].deadline == pytest.approx(time.monotonic() + 5, abs=0.5)
        assert (desk.contexts[0].peer is None) == isinstance(caller, LocalCaller)


async def test_it_carries_tensors(connected: Any) -> None:
    async with connected(Desk()) as caller:
        chunk = await caller.call(GetBlob(Digest("d"), 0, 2), deadline=time.monotonic() + 5)
        assert chunk == Chunk(5, Tensor("data", "UINT8", (2,), b"hi"))


async def test_it_raises_what_was_raised(connected: Any) -> None:
    async with connected(Desk()) as caller:
        with pytest.raises(ModelNotFound, match="no such model") as error:
            await caller.call(MoveAlias("m", "a", 404), deadline=time.monotonic() + 5)
        assert (error.value.fix, error.value.retry_after) == ("push it", 2.0)
        assert error.value.details == {"model": "m"}


async def test_it_knows_what_is_not_answered(connected: Any) -> None:
    async with connected(Desk()) as caller:
        with pytest.raises(Unimplemented, match="fleet"):
            await caller.call(GetFleet(), deadline=time.monotonic() + 5)


async def test_who_stops_waiting_stops_the_work(connected: Any) -> None:
    desk = Desk()
    async with connected(desk) as caller:
        call = asyncio.create_task(caller.call(GetBlob(Digest("d"), 0, 0), deadline=time.monotonic() + 30))
        async with asyncio.timeout(5):
            await desk.began.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await desk.cancelled.wait()
