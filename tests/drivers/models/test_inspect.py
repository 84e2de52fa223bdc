"""Inspection by a real child process."""

import asyncio
import contextlib
import os
import random
import threading
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tetherd.drivers.models.inspect import ChildInspector
from tetherd.errors import BlobNotFound, ModelInvalid, UnsupportedMedia
from tetherd.types import TensorSpec
from tetherd.wire.catalog import FileEntry
from tetherd.wire.manifest import digest_of

FLOAT = TensorProto.FLOAT


def model(nodes=None, tensors=(), **more):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes or [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", FLOAT, ["N", 4])],
        [value("y", FLOAT, ["N", 4])],
        tensors,
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, **more)
    return built.SerializeToString()


class Pushed:
    """Files as a manager hands them to an inspector."""

    def __init__(self, **files: bytes) -> None:
        self.files = files

    def entries(self) -> list[FileEntry]:
        return [FileEntry(path, digest_of(data), len(data)) for path, data in self.files.items()]

    def copy(self, digest: str, target: Path) -> None:
        target.write_bytes(next(data for data in self.files.values() if digest_of(data) == digest))


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


async def look(inspector: ChildInspector, files: dict[str, bytes]):
    pushed = Pushed(**files)
    return await inspector.inspect(pushed.entries(), pushed.copy)


@pytest.fixture
def scratch(tmp_path):
    return tmp_path / "scratch"


@pytest.fixture
def inspector(scratch):
    return ChildInspector(scratch, timeout=20)


async def test_a_good_model_gives_its_signature_and_leaves_nothing(inspector, scratch):
    files = {"digits.onnx": model(), "labels.txt": b"zero\none\n", "notes/README.md": b"hello"}
    config = await look(inspector, files)
    assert config.format == "onnx"
    assert config.signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert config.signature.labels == ("zero", "one")
    assert config.signature.batchable
    assert list(scratch.iterdir()) == []


async def test_a_name_like_an_option_is_only_a_name(inspector):
    assert (await look(inspector, {"--help.onnx": model()})).format == "onnx"


async def test_modules_pushed_beside_a_model_are_not_imported(inspector, tmp_path):
    evil = f"open({str(tmp_path / 'canary')!r}, 'w')".encode()
    await look(inspector, {"m.onnx": model(), "onnx.py": evil, "numpy/__init__.py": evil, "sitecustomize.py": evil})
    assert not (tmp_path / "canary").exists()


async def test_a_refusal_names_no_path_of_the_host(inspector, scratch, tmp_path):
    bad = model([helper.make_node("NoSuchThing", ["x"], ["y"])])
    with pytest.raises(ModelInvalid, match="NoSuchThing") as caught:
        await look(inspector, {"model.onnx": bad})
    assert str(tmp_path) not in caught.value.message + caught.value.fix
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "*/_ORT_MEM_ADDR_/*"])
async def test_a_model_that_reads_elsewhere_is_refused(inspector, scratch, location):
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(ModelInvalid, match="external data"):
        await look(inspector, {"model.onnx": model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])})


async def test_external_data_is_loaded_from_beside_the_model(inspector):
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="parts/w.bin")
    files = {"model.onnx": model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor]), "parts/w.bin": bytes(16)}
    assert (await look(inspector, files)).signature.batchable


@pytest.mark.parametrize(
    "files",
    [{"model.pt": b"PK"}, {"model.zip": b"PK"}, {"model.safetensors": b"\xff" * 8}, {"m.onnx": b"", "extra.pkl": b""}],
)
async def test_other_formats_are_refused_without_a_look(scratch, files):
    with pytest.raises(UnsupportedMedia, match="ONNX"):
        await look(ChildInspector(scratch, timeout=0.001), files)


async def test_a_file_larger_than_the_encoding_allows_is_refused_without_a_look(inspector):
    entry = FileEntry("model.onnx", digest_of(b""), 1 << 31)
    with pytest.raises(ModelInvalid, match="more than an ONNX file can hold"):
        await inspector.inspect([entry], Pushed().copy)


async def test_a_model_that_takes_too_long_is_refused_and_its_child_is_gone(scratch):
    with pytest.raises(ModelInvalid, match=r"within 0\.05 s"):
        await look(ChildInspector(scratch, timeout=0.05), {"model.onnx": model()})
    assert list(scratch.iterdir()) == []
    assert children() == ""


async def test_a_child_that_crashes_is_a_refusal(scratch):
    """The limit is too small even for the interpreter: the child ends without an answer."""
    with pytest.raises(ModelInvalid, match=r"crashed|without an answer|memory"):
        await look(ChildInspector(scratch, timeout=20, memory=64 << 20), {"model.onnx": model()})


def bomb(*ops: onnx.NodeProto, elements: int):
    shape = helper.make_tensor("s", TensorProto.INT64, [1], [elements])
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["big"]), *ops]
    return model([*nodes, helper.make_node("Add", ["x", "z"], ["y"])], [shape])


async def test_a_memory_bomb_hurts_nobody(scratch):
    """Whether or not it is accepted, the child stays within its limit and this process lives."""
    content = bomb(helper.make_node("ReduceSum", ["big"], ["z"]), elements=1 << 37)
    with contextlib.suppress(ModelInvalid):
        await look(ChildInspector(scratch, timeout=20, memory=2 << 30), {"model.onnx": content})
    assert list(scratch.iterdir()) == []


async def test_a_missing_blob_is_reported_as_such(inspector, scratch):
    def missing(digest, target):
        raise BlobNotFound("gone")

    with pytest.raises(BlobNotFound):
        await inspector.inspect(Pushed(**{"m.onnx": b"x"}).entries(), missing)
    assert list(scratch.iterdir()) == []


async def test_a_cancelled_inspection_kills_its_child(inspector, scratch):
    pushed, copied, loop = Pushed(**{"model.onnx": model()}), asyncio.Event(), asyncio.get_running_loop()

    def copy(digest, target):
        pushed.copy(digest, target)
        loop.call_soon_threadsafe(copied.set)

    task = asyncio.create_task(inspector.inspect(pushed.entries(), copy))
    await copied.wait()
    await asyncio.sleep(0.05)  # now the child runs, most likely; the outcome is the same if it does not yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(scratch.iterdir()) == []
    assert children() == ""


async def test_cancelled_at_any_moment_and_again_it_leaves_nothing_behind(inspector, scratch):
    pushed, seed = Pushed(**{"model.onnx": model()}), random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(25):
        task = asyncio.create_task(inspector.inspect(pushed.entries(), pushed.copy))
        await asyncio.sleep(chance.choice([0, chance.uniform(0, 0.02)]))
        for _ in range(chance.randint(1, 3)):
            task.cancel()
            for _ in range(chance.randint(0, 3)):
                await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(scratch.iterdir()) == []
        assert children() == ""


async def test_an_inspection_that_is_cancelled_while_files_are_copied_leaves_none(inspector, scratch):
    pushed = Pushed(**{"a.txt": b"a", "b.txt": b"b", "model.onnx": model()})
    first, go, last, loop = asyncio.Event(), threading.Event(), threading.Event(), asyncio.get_running_loop()

    def copy(digest, target):
        pushed.copy(digest, target)
        if not go.is_set():
            loop.call_soon_threadsafe(first.set)
            go.wait(10)
        elif target.name == "model.onnx":
            last.set()

    task = asyncio.create_task(inspector.inspect(pushed.entries(), copy))
    await first.wait()
    task.cancel()
    await asyncio.wait([task], timeout=0.2)  # were it removed before all is copied, it would be now
    go.set()
    await asyncio.to_thread(last.wait, 10)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(scratch.iterdir()) == []


def test_what_a_killed_daemon_left_behind_is_removed(scratch):
    (scratch / "tmp123").mkdir(parents=True)
    (scratch / "tmp123" / "model.onnx").write_bytes(b"x")
    ChildInspector(scratch)
    assert list(scratch.iterdir()) == []
    assert scratch.stat().st_mode & 0o777 == 0o700
