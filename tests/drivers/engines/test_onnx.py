import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tetherd.drivers.engines.onnx import OnnxEngine
from tetherd.errors import DeadlineExceeded, ExecutionFailed, InvalidInput, ModelLoadFailed
from tetherd.types import DATATYPES, Signature, Tensor, TensorSpec
from tetherd.wire import tensors

ONNX = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **rest: Any) -> Path:
    graph = helper.make_graph(nodes, "test", inputs, outputs, **rest)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path / "model.onnx")
    return path / "model.onnx"


def identity(path: Path, datatype: str, shape: list[str | int]) -> OnnxEngine:
    value = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["x"], ["y"])
    model = save(path, [node], [value("x", ONNX[datatype], shape)], [value("y", ONNX[datatype], shape)])
    dims = tuple(-1 if isinstance(dim, str) else dim for dim in shape)
    return OnnxEngine(model, Signature((TensorSpec("x", datatype, dims),), (TensorSpec("y", datatype, dims),)), 1)


def endless(path: Path) -> OnnxEngine:
    """Build a loop whose condition stays true: it ends only when it is made to."""
    value, node = helper.make_tensor_value_info, helper.make_node
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["state", "state"], ["next"])],
        "body",
        [
            value("step", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT, [1]),
        ],
        [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [1])],
    )
    constants = [helper.make_tensor("true", TensorProto.BOOL, [], [True])]
    loop = node("Loop", ["", "true", "x"], ["y"], body=body)
    inputs = [value("x", TensorProto.FLOAT, [1])]
    model = save(path, [loop], inputs, [value("y", TensorProto.FLOAT, [1])], initializer=constants)
    return OnnxEngine(model, Signature((TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),)), 1)


def sample(datatype: str, shape: tuple[int, ...]) -> bytes:
    count = int(np.prod(shape))
    if datatype == "BYTES":
        return tensors.pack([f"text {number}\0ä".encode() for number in range(count)])
    if datatype == "BOOL":
        return bytes(number % 2 for number in range(count))
    kind = tensors.dtype(datatype)
    return np.arange(count).astype(kind).tobytes()


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (1, 3)])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_passes_as_it_is(tmp_path: Path, datatype: str, shape: tuple[int, ...]) -> None:
    engine = identity(tmp_path, datatype, ["n", 3])
    data = sample(datatype, shape)
    outputs, nanoseconds = engine.execute([Tensor("x", datatype, shape, data)], 5.0)
    assert outputs == [Tensor("y", datatype, shape, data)]
    assert all(spent >= 0 for spent in nanoseconds)


@pytest.mark.parametrize("datatype", ["FP32", "BF16", "BYTES", "BOOL"])
def test_scalars(tmp_path: Path, datatype: str) -> None:
    data = sample(datatype, ())
    outputs, _ = identity(tmp_path, datatype, []).execute([Tensor("x", datatype, (), data)], 5.0)
    assert outputs == [Tensor("y", datatype, (), data)]


def test_data_may_be_of_any_buffer(tmp_path: Path) -> None:
    engine = identity(tmp_path, "FP32", ["n"])
    data = np.array([1, 2], "<f4").tobytes()
    for buffer in (data, bytearray(data), memoryview(b"x" + data)[1:]):
        outputs, _ = engine.execute([Tensor("x", "FP32", (2,), buffer)], 5.0)
        assert bytes(outputs[0].data) == data


def test_strings_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    engine = identity(tmp_path, "BYTES", ["n"])
    with pytest.raises(InvalidInput, match="UTF-8"):
        engine.execute([Tensor("x", "BYTES", (1,), tensors.pack([b"\xff\xfe"]))], 5.0)


@pytest.mark.parametrize("shape", [(2, 4), (6,), (1, 2, 3)])
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    engine = identity(tmp_path, "FP32", ["n", 3])
    with pytest.raises(InvalidInput, match="refuses this input") as refused:
        engine.execute([Tensor("x", "FP32", shape, bytes(4 * int(np.prod(shape))))], 5.0)
    assert str(tmp_path) not in str(refused.value)


def test_a_failure_while_it_runs_names_no_path_of_the_host(tmp_path: Path) -> None:
    value, node = helper.make_tensor_value_info, helper.make_node
    model = save(
        tmp_path,
        [node("Reshape", ["x", "shape"], ["y"])],
        [value("x", TensorProto.FLOAT, ["n"]), value("shape", TensorProto.INT64, [1])],
        [value("y", TensorProto.FLOAT, ["m"])],
    )
    specs = (TensorSpec("x", "FP32", (-1,)), TensorSpec("shape", "INT64", (1,)))
    engine = OnnxEngine(model, Signature(specs, (TensorSpec("y", "FP32", (-1,)),)), 1)
    shape = Tensor("shape", "INT64", (1,), np.array([7], "<i8").tobytes())
    with pytest.raises((ExecutionFailed, InvalidInput)) as failed:
        engine.execute([Tensor("x", "FP32", (4,), bytes(16)), shape], 5.0)
    assert str(tmp_path) not in str(failed.value)
    assert "Reshape" in str(failed.value)
    assert len(str(failed.value)) < 400


def test_an_execution_over_its_budget_is_ended(tmp_path: Path) -> None:
    engine = endless(tmp_path)
    over: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            over.append(engine.watch(time.monotonic()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.2 s"):
        engine.execute([Tensor("x", "FP32", (1,), bytes(4))], 0.2)
    assert 0.15 < time.monotonic() - began < 5
    done.set()
    watcher.join()
    assert over[0] == 0.0
    assert max(over) > 0
    assert engine.watch(time.monotonic() + 99) == 0.0  # nothing executes now


def test_a_watcher_never_ends_an_execution_within_its_budget(tmp_path: Path) -> None:
    engine = identity(tmp_path, "FP32", ["n"])
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            engine.watch(time.monotonic())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(300):
            engine.execute([Tensor("x", "FP32", (1,), bytes(4))], 5.0)
    finally:
        done.set()
        watcher.join()


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x07"])
def test_what_is_no_model_does_not_load(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelLoadFailed) as failed:
        OnnxEngine(path, Signature((), ()), 1)
    assert str(tmp_path) not in str(failed.value)


def test_outputs_come_in_the_order_of_the_signature(tmp_path: Path) -> None:
    value, node = helper.make_tensor_value_info, helper.make_node
    info = [value(name, TensorProto.FLOAT, ["n"]) for name in ("x", "a", "b")]
    model = save(tmp_path, [node("Neg", ["x"], ["a"]), node("Abs", ["x"], ["b"])], info[:1], info[1:])
    specs = tuple(TensorSpec(name, "FP32", (-1,)) for name in ("x", "a", "b"))
    engine = OnnxEngine(model, Signature(specs[:1], (specs[2], specs[1])), 1)
    outputs, _ = engine.execute([Tensor("x", "FP32", (1,), np.array([-2], "<f4").tobytes())], 5.0)
    assert [(one.name, np.frombuffer(one.data, "<f4").tolist()) for one in outputs] == [("b", [2.0]), ("a", [2.0])]
