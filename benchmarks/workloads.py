"""The three models, the numbers sent to them, and what bare ONNX Runtime answers. Everything from fixed seeds."""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

DISTINCT = 24
"""Different requests per model, so that no server can answer from memory."""


@dataclass(frozen=True, eq=False)
class Workload:
    """One model on disk. ``rows`` is [DISTINCT, *shape], ``answers`` what bare ONNX Runtime gives for each row."""

    name: str
    path: Path
    shape: tuple[int, ...]
    threads: int
    rows: np.ndarray
    answers: np.ndarray


def build(name: str, folder: Path) -> Workload:
    """Write the model called ``name`` (tiny, mid, large or image) under ``folder`` and return it with its requests."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    shape, model = _image(rng) if name == "image" else _mlp(rng, LAYERS[name])
    onnx.save(model, path)
    # Four decimals: what an application would send, and the same in every encoding.
    rows = np.round(rng.random((DISTINCT, *shape)), 4).astype(np.float32)
    threads = 2 if name == "image" else 1
    session = _session(path, threads)
    answers = np.concatenate([session.run(None, {"input": row[None]})[0] for row in rows])
    return Workload(name, path, shape, threads, rows, answers)


def bare(work: Workload, batch: int, seconds: float) -> float:
    """Return the rows per second of a plain ONNX Runtime loop in this process: the limit of any server."""
    session = _session(work.path, work.threads)
    rows = np.ascontiguousarray(np.resize(work.rows, (batch, *work.shape)))
    for _ in range(3):
        session.run(None, {"input": rows})
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        session.run(None, {"input": rows})
        done += batch
    return done / spent


LAYERS = {"tiny": (64, 128, 10), "mid": (784, 2048, 2048, 10), "large": (784, 3000, 3000, 10)}
NAMES = ("tiny", "mid", "image")


def _session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _mlp(rng: np.random.Generator, layers: tuple[int, ...]) -> tuple[tuple[int, ...], onnx.ModelProto]:
    nodes, weights, last = [], [], "input"
    for i, (wide, out) in enumerate(itertools.pairwise(layers)):
        weights += [_weight(rng, f"w{i}", (wide, out), wide), _weight(rng, f"b{i}", (out,), wide)]
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"sum{i}"]))
        last = f"sum{i}"
        if i < len(layers) - 2:
            nodes.append(helper.make_node("Relu", [last], [f"hidden{i}"]))
            last = f"hidden{i}"
    nodes.append(helper.make_node("Softmax", [last], ["scores"], axis=-1))
    return (layers[0],), _model(nodes, weights, (layers[0],))


def _image(rng: np.random.Generator) -> tuple[tuple[int, ...], onnx.ModelProto]:
    # Strides shrink the picture at once: little compute behind a large request, so the request is what is measured.
    nodes, weights, last, channels = [], [], "input", 3
    for i, (out, side, stride) in enumerate(((8, 8, 4), (16, 3, 2), (32, 3, 2), (32, 3, 2))):
        weights.append(_weight(rng, f"w{i}", (out, channels, side, side), channels * side * side))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"conv{i}"], strides=[stride, stride]))
        nodes.append(helper.make_node("Relu", [f"conv{i}"], [f"hidden{i}"]))
        last, channels = f"hidden{i}", out
    weights += [_weight(rng, "w", (channels, 10), channels), _weight(rng, "b", (10,), channels)]
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    return (3, 224, 224), _model(nodes, weights, (3, 224, 224))


def _weight(rng: np.random.Generator, name: str, shape: tuple[int, ...], inputs: int) -> onnx.TensorProto:
    values = rng.standard_normal(shape) * (2 / inputs) ** 0.5
    return numpy_helper.from_array(values.astype(np.float32), name)


def _model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], shape: tuple[int, ...]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
