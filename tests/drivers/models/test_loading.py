"""From an assignment to an engine, over a real connection; the whole of it in a process is in test_runner."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from certificates import home
from onnx import TensorProto, helper
from sources import Hosts, shelf

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.identity import keys
from tetherd.drivers.models.loading import load
from tetherd.drivers.rpc.server import Server
from tetherd.errors import ModelLoadFailed, Unavailable, VersionNotFound
from tetherd.ports import Context
from tetherd.types import Digest, Signature, Tensor, TensorSpec
from tetherd.wire.assignments import Assignment
from tetherd.wire.catalog import Chunk, FileEntry, GetBlob, GetManifest
from tetherd.wire.chunks import BlobSource, Ways, said
from tetherd.wire.manifest import Config, build, digest_of, encode_config

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),), batchable=True)
CONFIG = encode_config(Config("onnx", SIGNATURE))


def identity() -> bytes:
    value = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["x"], ["y"])
    info = [value(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="td") as name:
        yield Path(name)


def routes(models: list[bytes]) -> tuple[dict[Any, Any], list[Digest]]:
    blobs = {digest_of(data): data for data in (CONFIG, *models)}
    listings = [build("digits", [FileEntry("model.onnx", digest_of(data), len(data))], CONFIG) for data in models]
    known = {digest_of(listing): listing for listing in listings}

    def chunk(data: bytes) -> Chunk:
        return Chunk(len(data), Tensor("data", "UINT8", (len(data),), data))

    async def manifest(request: GetManifest, _: Context) -> Chunk:
        if request.version not in known:
            raise VersionNotFound("no such version")
        return chunk(known[request.version])

    async def blob(request: GetBlob, _: Context) -> Chunk:
        return chunk(blobs[request.digest][request.offset : request.offset + request.length])

    return {GetManifest: manifest, GetBlob: blob}, list(known)


async def test_it_fetches_verifies_loads_and_prunes(directory: Path) -> None:
    answers, versions = routes([identity(), b"not a model"])
    address, ready = f"ipc://{directory}/s", asyncio.Event()
    ended = asyncio.Semaphore(0)
    server = Server(address, answers, clock=SystemClock(), max_message=4 << 20, lost=lambda _: ended.release())
    serving = asyncio.create_task(server.run(ready.set))
    await ready.wait()

    def assignment(version: str) -> Assignment:
        cache = str(directory / "cache")
        return Assignment("r", "w", "m", 1, Digest(version), (), address, cache, 1, 1 << 30, 4 << 20, keep=1)

    async with asyncio.timeout(20):
        engine = await asyncio.to_thread(load, assignment(versions[0]))
        x = Tensor("x", "FP32", (1,), bytes(4))
        assert engine.execute([x], 5.0)[0] == [Tensor("y", "FP32", (1,), bytes(4))]
        with pytest.raises(ModelLoadFailed):
            await asyncio.to_thread(load, assignment(versions[1]))
        with pytest.raises(VersionNotFound):
            await asyncio.to_thread(load, assignment("sha256:" + "0" * 64))
        for _ in range(3):
            await ended.acquire()  # no connection stays behind
    kept = [path.name for path in (directory / "cache" / "versions").iterdir() if path.is_dir()]
    assert kept == [versions[1].removeprefix("sha256:")]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def settle(directory: Path) -> str:
    """Make this host a member of the test network; return its identity directory."""
    member = home().node()
    directory.mkdir(mode=0o700)
    (directory / keys.KEY).write_text(member.key_pem)
    (directory / keys.CERTIFICATE).write_text(member.chain_pem)
    (directory / keys.ROOTS).write_text(member.roots_pem)
    (directory / keys.NETWORK).write_bytes(msgspec.json.encode(keys.Home(node=member.node, network="n", name="w")))
    for path in directory.iterdir():
        path.chmod(0o600)
    return str(directory)


def test_from_other_hosts_it_needs_no_manager_of_its_own(hosts: Hosts, directory: Path) -> None:
    model = identity()
    listing = build("digits", [FileEntry("model.onnx", digest_of(model), len(model))], CONFIG)
    sources = (hosts.fair(shelf()), hosts.fair(shelf(model, CONFIG, listing)))
    assignment = Assignment(
        *("r", "w", "m", 1, digest_of(listing), (), "", str(directory / "cache"), 1, 1 << 30, 4 << 20),
        sources=sources,
        identity=settle(directory / "identity"),
    )
    engine = load(assignment)
    x = Tensor("x", "FP32", (1,), bytes(4))
    assert engine.execute([x], 5.0)[0] == [Tensor("y", "FP32", (1,), bytes(4))]
    hosts.kill(sources[1])
    with pytest.raises(Unavailable, match="could not be fetched"):
        load(assignment, patience=0.5)


def test_sources_that_are_away_for_a_moment_are_waited_for(hosts: Hosts, directory: Path) -> None:
    """As when the only manager moves: it is asked where it was until somebody says where it is."""
    model = identity()
    listing = build("digits", [FileEntry("model.onnx", digest_of(model), len(model))], CONFIG)
    source, asked = hosts.fair(shelf(model, CONFIG, listing)), []

    def ways(found: BlobSource) -> Ways:
        asked.append(found)
        return said(found) if len(asked) > 2 else Ways(("127.0.0.1:1",))

    assignment = Assignment(
        *("r", "w", "m", 1, digest_of(listing), (), "", str(directory / "cache"), 1, 1 << 30, 4 << 20),
        sources=(source,),
        identity=settle(directory / "identity"),
    )
    assert load(assignment, ways).execute([Tensor("x", "FP32", (1,), bytes(4))], 5.0)[0]
    assert len(asked) > 2
