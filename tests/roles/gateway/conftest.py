"""A gateway in front of an orchestrator and a manager that live in the test, served by the real HTTP server."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest

from tetherd.config.schema import Gateway as Settings
from tetherd.drivers.http.server import HttpServer
from tetherd.errors import BlobNotFound, DigestMismatch, OffsetConflict, TetherError, Unreachable
from tetherd.roles.gateway.app import Gateway
from tetherd.roles.gateway.status import Facts
from tetherd.types import Digest, Signature, Tensor, TensorSpec
from tetherd.wire import messages as m
from tetherd.wire import tensors
from tetherd.wire.catalog import (
    Alias,
    BlobState,
    Catalog,
    Chunk,
    Commit,
    FileEntry,
    GetBlob,
    GetManifest,
    MoveAlias,
    PutBlob,
    Remove,
    Rollback,
    SetServing,
    StatBlob,
    Version,
    WatchCatalog,
)
from tetherd.wire.replication import GetHoldings, HolderState, Holdings


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


def version(model: str, number: int, signature: Signature) -> Version:
    digest = Digest(f"sha256:{hashlib.sha256(f'{model}{number}'.encode()).hexdigest()}")
    files = [FileEntry("model.onnx", digest, 10)]
    return Version(model, number, digest, digest, "onnx", signature, 10, 1.0, files)


def specs(*items: tuple[str, str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(*item) for item in items)


SIGNATURES = {
    # Answers y = a + b and the sum of each row.
    "add": Signature(
        specs(("a", "FP32", (-1, 4)), ("b", "FP32", (-1, 4))),
        specs(("y", "FP32", (-1, 4)), ("sum", "FP32", (-1, 1))),
        batchable=True,
        labels=("one", "two", "three", "four"),
    ),
    "double": Signature(specs(("x", "FP32", (-1, 2))), specs(("y", "FP32", (-1, 2))), batchable=True),
    # Answer what they are asked.
    **{
        f"echo-{kind.lower()}": Signature(specs(("x", kind, (-1,))), specs(("y", kind, (-1,))))
        for kind in ("BOOL", "INT8", "UINT64", "FP16", "BF16", "FP64", "BYTES")
    },
}


class Orchestrator:
    """Computes at once. ``fail`` is raised instead; ``gate`` holds requests back."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.fail: TetherError | None = None
        self.gate: asyncio.Event | None = None
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.runners: list[m.Loaded] = []
        self.workers = True
        self.stats: list[m.VersionStats] = []

    async def call(self, request: Any, *, deadline: float, request_id: str = "") -> Any:
        self.asked.append((request, deadline, request_id))
        if isinstance(request, m.GetFleet):
            return self._fleet()
        if self.fail is not None:
            raise self.fail
        if isinstance(request, m.Infer):
            return await self._infer(request)
        return m.Done()

    async def _infer(self, request: m.Infer) -> m.Inferred:
        if self.gate is not None:
            self.waiting.set()
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return m.Inferred(outputs(request), "r1", 3, 1, 1_000_000, 2_000_000)

    def _fleet(self) -> m.FleetState:
        worker = m.WorkerState("w1", "n1", 100, 50, 4, 1, 7, False, self.runners)
        queue = m.QueueState("add", 1, Digest("sha256:" + "0" * 64), 1, 2, 3, 4)
        return m.FleetState([worker] if self.workers else [], [queue], self.stats)


def outputs(request: m.Infer) -> list[Tensor]:
    given = {tensor.name: tensor for tensor in request.inputs}
    if request.model == "add":
        total = tensors.to_numpy(given["a"]) + tensors.to_numpy(given["b"])
        return [tensors.from_numpy("y", total), tensors.from_numpy("sum", total.sum(axis=1, keepdims=True))]
    x = given["x"]
    if request.model == "double":
        return [tensors.from_numpy("y", tensors.to_numpy(x) * np.float32(request.number * 2))]
    return [Tensor("y", x.datatype, x.shape, x.data)]


class Manager:
    """A catalog and blobs in memory."""

    def __init__(self) -> None:
        self.versions = [version(name, 1, signature) for name, signature in SIGNATURES.items()]
        self.versions.append(version("double", 2, SIGNATURES["double"]))
        self.aliases = {(name, "latest"): Alias(name, "latest", 1, 1) for name in SIGNATURES}
        self.aliases["double", "next"] = Alias("double", "next", 2, 1)
        self.epoch = 1
        self.changed = asyncio.Event()
        self.away = False
        self.unloaded: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.partial: dict[str, bytes] = {}
        self.chunks: list[int] = []
        self.copies: dict[str, bool] | None = {"a": True, "b": True, "c": False}

    def change(self) -> None:
        self.epoch += 1
        self.changed.set()
        self.changed = asyncio.Event()

    async def call(self, request: Any, *, deadline: float, request_id: str = "") -> Any:
        if self.away:
            raise Unreachable("the manager does not answer")
        answer = getattr(self, "on_" + type(request).__name__.lower())
        result = answer(request)
        return await result if isinstance(result, Awaitable) else result

    async def on_watchcatalog(self, request: WatchCatalog) -> Catalog:
        while request.epoch == self.epoch:
            await self.changed.wait()
        return Catalog(self.epoch, list(self.versions), list(self.aliases.values()), list(self.unloaded))

    def on_statblob(self, request: StatBlob) -> BlobState:
        whole = self.blobs.get(request.digest)
        if whole is not None:
            return BlobState(request.digest, True, len(whole))
        return BlobState(request.digest, False, len(self.partial.get(request.digest, b"")))

    def on_putblob(self, request: PutBlob) -> BlobState:
        have = self.partial.get(request.digest, b"")
        if request.offset != len(have):
            raise OffsetConflict("the upload goes on elsewhere", details={"offset": len(have)})
        self.chunks.append(len(request.data.data))
        self.partial[request.digest] = have = have + bytes(request.data.data)
        if len(have) == request.size:
            del self.partial[request.digest]
            if f"sha256:{hashlib.sha256(have).hexdigest()}" != request.digest:
                raise DigestMismatch("these bytes are not what the digest says")
            self.blobs[request.digest] = have
        return BlobState(request.digest, len(have) == request.size, len(have))

    def on_getblob(self, request: GetBlob) -> Chunk:
        whole = self.blobs[request.digest]
        data = whole[request.offset : request.offset + request.length]
        return Chunk(len(whole), Tensor("data", "UINT8", (len(data),), data))

    def on_commit(self, request: Commit) -> Version:
        for file in request.files:
            if file.digest not in self.blobs:
                raise BlobNotFound(f"no blob {file.digest}")
        mine = [known for known in self.versions if known.model == request.model]
        same = [known for known in mine if known.files == request.files]
        if same:
            return same[0]
        made = version(request.model, len(mine) + 1, SIGNATURES["double"])
        made.files = request.files
        self.versions.append(made)
        self.on_movealias(MoveAlias(request.model, request.alias, made.number))
        return made

    def on_getmanifest(self, request: GetManifest) -> Chunk:
        return Chunk(2, Tensor("data", "UINT8", (2,), b"{}"))

    def on_getholdings(self, request: GetHoldings) -> Holdings:
        if self.copies is None:
            raise Unreachable("the primary does not answer")
        states = [
            HolderState(name * 64, name, f"{name}:1", True, name == "a", sorted(request.versions) if held else [])
            for name, held in self.copies.items()
        ]
        return Holdings(3, states)

    def on_movealias(self, request: MoveAlias) -> Alias:
        old = self.aliases.get((request.model, request.alias))
        moved = Alias(
            request.model, request.alias, request.number, old.epoch + 1 if old else 1, old.number if old else None
        )
        self.aliases[request.model, request.alias] = moved
        self.change()
        return moved

    def on_setserving(self, request: SetServing) -> m.Done:
        self.unloaded = [name for name in self.unloaded if name != request.model]
        if not request.serving:
            self.unloaded.append(request.model)
        self.change()
        return m.Done()

    def on_rollback(self, request: Rollback) -> Alias:
        previous = self.aliases[request.model, request.alias].previous
        assert previous is not None
        return self.on_movealias(MoveAlias(request.model, request.alias, previous))

    def on_remove(self, request: Remove) -> m.Done:
        self.versions = [
            known for known in self.versions if known.model != request.model or request.number not in (0, known.number)
        ]
        self.change()
        return m.Done()


class World:
    """A gateway that is served, and what stands behind it."""

    def __init__(self, settings: Settings) -> None:
        self.orchestrator = Orchestrator()
        self.manager = Manager()
        self.gateway = Gateway(
            orchestrator=self.orchestrator,
            manager=self.manager,
            clock=SystemClock(),
            settings=settings,
            facts=Facts(version="9.9", node="n1", roles=("gateway",), pid=1),
            max_batch=64,
        )
        self.server = HttpServer(app=self.gateway.app, settings=settings, listen="127.0.0.1:0")
        self.http = httpx.AsyncClient()

    @property
    def address(self) -> str:
        return self.server.addresses[0].removeprefix("http://")

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.http.request(method, f"http://{self.address}{path}", **options)

    async def infer(self, model: str, body: Any, **options: Any) -> httpx.Response:
        return await self.ask("POST", f"/v2/models/{model}/infer", json=body, **options)


MakeWorld = Callable[..., contextlib.AbstractAsyncContextManager[World]]


@contextlib.asynccontextmanager
async def make_world(**settings: Any) -> AsyncIterator[World]:
    world = World(Settings(**settings))
    followed, served = asyncio.Event(), asyncio.Event()
    tasks = [
        asyncio.create_task(world.gateway.run(followed.set)),
        asyncio.create_task(world.server.run(served.set)),
    ]
    await followed.wait()
    await served.wait()
    try:
        yield world
    finally:
        await world.http.aclose()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def worlds() -> MakeWorld:
    return make_world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world() as made:
        yield made
        assert (await made.ask("GET", "/health/live")).status_code == 200
