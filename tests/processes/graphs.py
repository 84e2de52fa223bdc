"""ONNX graphs with known behaviour: some echo, some take as long as they are told, some misbehave."""

from collections.abc import Sequence
from typing import Final

import onnx
from onnx import TensorProto, helper

TYPES: Final = {
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

Shape = Sequence[int | str]


def value(name: str, kind: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[kind], shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> bytes:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(initializers))
    # Versions that any ONNX Runtime of the last years reads.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def identity(kind: str, shape: Shape = ("n", "m")) -> bytes:
    """``x`` as ``y``."""
    return model([helper.make_node("Identity", ["x"], ["y"])], [value("x", kind, shape)], [value("y", kind, shape)])


def identities(kinds: dict[str, tuple[str, Shape]]) -> bytes:
    """Each input ``name`` as output ``name_out``."""
    return model(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds],
        [value(name, kind, shape) for name, (kind, shape) in kinds.items()],
        [value(f"{name}_out", kind, shape) for name, (kind, shape) in kinds.items()],
    )


def sum_and_difference() -> bytes:
    """The example of the protocol's own clients: two INT32 inputs of [n, 16], their sum and their difference."""
    pair = [value(name, "INT32", ("n", 16)) for name in ("INPUT0", "INPUT1")]
    return model(
        [helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
         helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])],
        pair,
        [value(name, "INT32", ("n", 16)) for name in ("OUTPUT0", "OUTPUT1")],
    )  # fmt: skip


def spin() -> bytes:
    """Count to ``turns``, one by one: takes as long as it is told to. ``turned`` is what it reached."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["count", "one"], ["counted"])],
        "body",
        [value("turn", "INT64", ()), value("go", "BOOL", ()), value("count", "INT64", ())],
        [value("go_on", "BOOL", ()), value("counted", "INT64", ())],
        [helper.make_tensor("one", TensorProto.INT64, (), [1])],
    )
    return model(
        [helper.make_node("Loop", ["turns", "", "zero"], ["turned"], body=body)],
        [value("turns", "INT64", ())],
        [value("turned", "INT64", ())],
        [helper.make_tensor("zero", TensorProto.INT64, (), [0])],
    )


def bomb() -> bytes:
    """Allocate as many floats as ``shape`` says, and give their sum."""
    return model(
        [helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
         helper.make_node("ReduceSum", ["huge"], ["y"], keepdims=0)],
        [value("shape", "INT64", (1,))],
        [value("y", "FP32", ())],
    )  # fmt: skip


def unloadable() -> bytes:
    """A valid graph that the engine cannot load: of an operator nobody implements."""
    node = helper.make_node("Unheard", ["x"], ["y"], domain="example.nowhere")
    graph = helper.make_graph([node], "graph", [value("x", "FP32", (1,))], [value("y", "FP32", (1,))])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("example.nowhere", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def weights(megabytes: int, seed: int = 0) -> bytes:
    """``x`` plus the first of many weights: a model as large as it is told to be."""
    import numpy as np

    table = np.random.default_rng(seed).standard_normal(megabytes * 2**18, dtype=np.float32)
    return model(
        [helper.make_node("Gather", ["table", "at"], ["y"])],
        [value("at", "INT64", ("n",))],
        [value("y", "FP32", ("n",))],
        [onnx.numpy_helper.from_array(table, "table")],
    )
