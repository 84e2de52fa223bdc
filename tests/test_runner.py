"""Real runner processes against a server of the test's own: they load, serve, deliver when they leave, and die."""

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.host.processes import ProcessLauncher, RunnerProcess
from tetherd.drivers.rpc.server import Server
from tetherd.ports import Context
from tetherd.types import Digest, Signature, Tensor, TensorSpec
from tetherd.wire.assignments import Assignment, Bearings, Event, Site
from tetherd.wire.catalog import Chunk, FileEntry, GetBlob, GetManifest
from tetherd.wire.manifest import Config, build, digest_of, encode_config
from tetherd.wire.messages import Batch, Finished, Take

MAX = 4 << 20


def model(*, endless: bool = False) -> bytes:
    """Build ``y = x + x``, or a loop that never ends."""
    value, node = helper.make_tensor_value_info, helper.make_node
    inputs, outputs = [value("x", TensorProto.FLOAT, ["n"])], [value("y", TensorProto.FLOAT, ["n"])]
    nodes, constants = [node("Add", ["x", "x"], ["y"])], []
    if endless:
        scalar = [value("step", TensorProto.INT64, []), value("go", TensorProto.BOOL, [])]
        state = value("state", TensorProto.FLOAT, ["n"])
        results = [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, ["n"])]
        steps = [node("Identity", ["go"], ["on"]), node("Add", ["state", "state"], ["next"])]
        body = helper.make_graph(steps, "body", [*scalar, state], results)
        nodes = [node("Loop", ["", "true", "x"], ["y"], body=body)]
        constants = [helper.make_tensor("true", TensorProto.BOOL, [], [True])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=constants)
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert isinstance(built, onnx.ModelProto)
    return bytes(built.SerializeToString())


class World:
    """The manager and the orchestrator of one runner."""

    def __init__(self, directory: Path, data: bytes) -> None:
        signature = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),), batchable=True)
        config = encode_config(Config("onnx", signature))
        self.listing = build("digits", [FileEntry("model.onnx", digest_of(data), len(data))], config)
        self.blobs: dict[str, bytes] = {digest_of(data): data, digest_of(config): config}
        self.work: asyncio.Queue[Batch] = asyncio.Queue()
        self.finished: asyncio.Queue[Finished] = asyncio.Queue()
        self.takes = 0
        self.parked = asyncio.Semaphore(0)
        self.lost = asyncio.Event()
        self.asked, self.gate = asyncio.Event(), asyncio.Event()  # for a blob; while it may be given
        self.gate.set()
        self.directory = directory
        self.address = f"ipc://{directory}/s"

    def routes(self) -> dict[Any, Any]:
        return {GetManifest: self.manifest, GetBlob: self.blob, Take: self.take}

    async def manifest(self, _: GetManifest, __: Context) -> Chunk:
        return Chunk(len(self.listing), Tensor("data", "UINT8", (len(self.listing),), self.listing))

    async def blob(self, request: GetBlob, _: Context) -> Chunk:
        self.asked.set()
        await self.gate.wait()
        data = self.blobs[request.digest]
        part = data[request.offset : request.offset + request.length]
        return Chunk(len(data), Tensor("data", "UINT8", (len(part),), part))

    async def take(self, request: Take, _: Context) -> Batch:
        if request.finished:
            self.finished.put_nowait(request.finished)
        if request.last:
            return Batch(0)
        self.parked.release()
        return await self.work.get()

    def assignment(self, version: Digest | None = None) -> Assignment:
        return Assignment(
            "w.1",
            "w",
            "double",
            1,
            version or digest_of(self.listing),
            (Site(self.address),),
            self.address,
            str(self.directory / "cache"),
            1,
            1 << 30,
            MAX,
        )

    def batch(self, identity: int, *numbers: float, budget: int = 20_000) -> Batch:
        data = np.array(numbers, "<f4").tobytes()
        return Batch(identity, [Tensor("x", "FP32", (len(numbers),), data)], ["r"], budget)


@contextlib.asynccontextmanager
async def world(data: bytes) -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="tp") as name:
        made = World(Path(name), data)
        ready = asyncio.Event()
        server = Server(
            made.address, made.routes(), clock=SystemClock(), max_message=MAX, lost=lambda _: made.lost.set()
        )
        task = asyncio.create_task(server.run(ready.set))
        await ready.wait()
        yield made
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def runner() -> AsyncIterator[RunnerProcess]:
    process = await ProcessLauncher().launch()
    try:
        yield process
    finally:
        await process.stop(0)


async def code(process: RunnerProcess) -> int | None:
    async with asyncio.timeout(10):
        return await process._process.wait()


async def test_it_loads_serves_delivers_and_leaves() -> None:
    async with world(model()) as made, runner() as process, asyncio.timeout(40):
        await process.assign(made.assignment())
        loaded = await process.event()
        assert loaded is not None
        assert (loaded.kind, loaded.bytes > 1 << 20) == ("loaded", True)
        for _ in range(2):
            await made.parked.acquire()
        made.work.put_nowait(made.batch(7, 1.5, 2))
        answer = await made.finished.get()
        assert (answer.batch, answer.failure, answer.infer_ns > 0) == (7, None, True)
        assert np.frombuffer(answer.outputs[0].data, "<f4").tolist() == [3.0, 4.0]
        made.work.put_nowait(Batch(8, [Tensor("x", "FP32", (1, 1), bytes(4))], ["r"], 20_000))
        refused = (await made.finished.get()).failure
        assert refused is not None
        assert refused.code == "INVALID_INPUT"
        alive = await process.event()
        assert alive is not None
        assert (alive.kind, alive.executed > 0) == ("alive", True)
        began = time.monotonic()
        await process.stop(10)
        assert time.monotonic() - began < 1.5  # idle, it has nothing to wait for
        assert await code(process) == 0
        await made.lost.wait()
        assert await process.event() is None


async def test_it_serves_every_orchestrator_that_it_is_assigned() -> None:
    async with world(model()) as made, world(model()) as other, runner() as process, asyncio.timeout(40):
        sites = (Site(f"ipc://{made.directory}/nobody"), Site(made.address), Site(other.address))
        await process.assign(msgspec.structs.replace(made.assignment(), orchestrators=sites))
        await process.event()
        for number, desk in enumerate((made, other, made), 1):
            desk.work.put_nowait(made.batch(number, 1.0))
            answer = await desk.finished.get()
            assert (answer.batch, answer.failure) == (number, None)


async def test_it_follows_its_orchestrators_and_loads_nothing_anew() -> None:
    async with world(model()) as made, world(model()) as other, runner() as process, asyncio.timeout(40):
        await process.assign(made.assignment())
        await process.event()
        await made.parked.acquire()
        await process.follow(Bearings((Site(made.address), Site(other.address))))
        for number, desk in enumerate((other, made), 1):
            desk.work.put_nowait(made.batch(number, 1.0))
            assert (await desk.finished.get()).batch == number
        await process.follow(Bearings((Site(other.address),)))
        await made.lost.wait()
        other.work.put_nowait(made.batch(3, 1.0))
        assert (await other.finished.get()).batch == 3
        assert await process.event() == Event("alive", bytes=ANY, executed=ANY)  # and no second "loaded"


async def test_it_ends_with_its_worker_also_while_it_loads() -> None:
    async with world(model()) as made, runner() as process, asyncio.timeout(40):
        made.gate.clear()
        await process.assign(made.assignment())
        await made.asked.wait()
        assert process._process.stdin is not None
        process._process.stdin.close()
        assert await code(process) == 0


async def test_what_it_executes_when_told_to_stop_is_delivered() -> None:
    async with world(model(endless=True)) as made, runner() as process, asyncio.timeout(40):
        await process.assign(made.assignment())
        await process.event()
        for _ in range(2):
            await made.parked.acquire()
        made.work.put_nowait(made.batch(1, 1.0, budget=1000))
        await asyncio.sleep(0.3)
        stopping = asyncio.create_task(process.stop(10))
        answer = await made.finished.get()
        assert answer.batch == 1
        assert answer.failure is not None
        await stopping
        assert await code(process) == 0


async def test_an_execution_over_its_budget_is_ended_and_the_runner_lives() -> None:
    async with world(model(endless=True)) as made, runner() as process, asyncio.timeout(40):
        await process.assign(made.assignment())
        await process.event()
        for number in (1, 2):
            made.work.put_nowait(made.batch(number, 1.0, budget=200))
            failure = (await made.finished.get()).failure
            assert failure is not None
            assert failure.code == "DEADLINE_EXCEEDED"


async def test_a_killed_runner_is_noticed_on_both_sides() -> None:
    async with world(model()) as made, runner() as process, asyncio.timeout(40):
        await process.assign(made.assignment())
        await process.event()
        await made.parked.acquire()
        began = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        await made.lost.wait()
        assert await process.event() is None
        assert time.monotonic() - began < 1


async def test_it_ends_with_its_worker() -> None:
    async with world(model()) as made, runner() as process, asyncio.timeout(40):
        assert process._process.stdin is not None
        await process.assign(made.assignment())
        await process.event()
        process._process.stdin.close()
        assert await code(process) == 0


async def test_a_spare_ends_with_its_worker() -> None:
    async with runner() as process:
        assert process._process.stdin is not None
        process._process.stdin.close()
        assert await code(process) == 0


BROKEN = {"text": b"not a model", "empty": b"", "cut": model()[:-1]}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_cannot_be_loaded_is_told_before_it_ends(name: str) -> None:
    async with world(BROKEN[name]) as made, runner() as process, asyncio.timeout(40):
        await process.assign(made.assignment())
        event = await process.event()
        assert event is not None
        assert event.kind == "failed"
        assert event.reason
        assert str(made.directory) not in event.reason
        assert await code(process) == 1


async def test_a_version_that_is_not_what_it_should_be_is_told() -> None:
    async with world(model()) as made, runner() as process, asyncio.timeout(40):
        await process.assign(made.assignment(Digest("sha256:" + "0" * 64)))
        event = await process.event()
        assert event == Event("failed", reason="the manager sent another manifest than the version's")


async def test_without_a_manager_loading_fails_in_time() -> None:
    async with world(model()) as made, runner() as process, asyncio.timeout(40):
        made.address = f"ipc://{made.directory}/nobody"
        await process.assign(made.assignment())
        event = await process.event()
        assert event is not None
        assert event.kind == "failed"
        assert "no connection" in event.reason
