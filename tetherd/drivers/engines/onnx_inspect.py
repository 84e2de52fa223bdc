"""The child that looks into an ONNX model before it is accepted: ``python -m tetherd.drivers.engines.onnx_inspect``.

Runs in the directory that holds the model's files, under limits it gives itself before it reads any of them. Writes
one JSON document to standard output: the version's config (exit code 0) or why the model is refused (1).
"""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import onnx
import onnx.checker
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tetherd.drivers.engines.onnx_external import check_external_data
from tetherd.drivers.engines.onnx_rows import rows_mix
from tetherd.drivers.engines.onnx_words import plain
from tetherd.errors import ModelInvalid, TetherError
from tetherd.types import Seconds, Signature, TensorSpec
from tetherd.wire.manifest import Config, encode_config

LABELS: Final = "labels.txt"
MAX_TENSORS: Final = 1_000
MAX_NAME: Final = 1_024
MAX_LABELS: Final = 100_000
MAX_LABELS_SIZE: Final = 1 << 20
ROWS_BUDGET: Final[Seconds] = 3.0

_Kind = onnx.TensorProto
_DATATYPES: Final[dict[int, str]] = {
    _Kind.BOOL: "BOOL",
    _Kind.UINT8: "UINT8",
    _Kind.UINT16: "UINT16",
    _Kind.UINT32: "UINT32",
    _Kind.UINT64: "UINT64",
    _Kind.INT8: "INT8",
    _Kind.INT16: "INT16",
    _Kind.INT32: "INT32",
    _Kind.INT64: "INT64",
    _Kind.FLOAT16: "FP16",
    _Kind.BFLOAT16: "BF16",
    _Kind.FLOAT: "FP32",
    _Kind.DOUBLE: "FP64",
    _Kind.STRING: "BYTES",
}


def main(arguments: Sequence[str]) -> int:
    """Inspect the model file named first, within the bytes of memory and seconds that follow it."""
    name, memory, seconds = arguments[0], int(arguments[1]), int(arguments[2])
    _confine(memory, seconds)
    try:
        answer, code = encode_config(Config("onnx", inspect(Path(name)))), 0
    except TetherError as error:
        answer, code = msgspec.json.encode(error.failure()), 1
    sys.stdout.buffer.write(answer)
    sys.stdout.flush()
    return code


def inspect(path: Path) -> Signature:
    """Return what the model takes and gives, once it has passed every check. Raises ModelInvalid."""
    labels = _labels(path.with_name(LABELS))
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
        check_external_data(model, path.parent)
        inputs, outputs, batchable = _interface(model.graph)
        _check_together(inputs, outputs)
        del model  # the engine reads the file itself: two copies of a large model would not fit
        onnx.checker.check_model(os.fspath(path))  # shapes are left to the engine: the full check refuses good models
        session = _load(path)
        batchable = batchable and not rows_mix(session, ROWS_BUDGET)
    except TetherError:
        raise
    except MemoryError as error:
        raise ModelInvalid("the model needs more memory to load than it may have", fix="push a smaller one") from error
    except DecodeError as error:
        raise ModelInvalid("the file is not an ONNX model, or only part of one", fix="export it again") from error
    except Exception as error:
        raise ModelInvalid(f"the model does not load: {plain(error)}", fix="export it again, or report this") from error
    return Signature(inputs, outputs, batchable, labels)


def _check_together(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Refuse what ONNX Runtime cannot be handed: it takes bfloat16 by one way of calling and strings by another."""
    if {"BF16", "BYTES"} <= {spec.datatype for spec in (*inputs, *outputs)}:
        raise ModelInvalid(
            "the model has both bfloat16 and string tensors, which cannot be executed together",
            fix="convert the bfloat16 inputs and outputs to float32",
        )


def _confine(memory: int, seconds: int) -> None:
    """Take away from this process what a hostile model could use against the host."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lower, lower))
    signal.alarm(seconds)  # ends this process even when the daemon that would kill it was killed itself


def _load(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


def _interface(graph: onnx.GraphProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], bool]:
    """Return inputs, outputs, and whether the graph says that the first dimension of each of them means rows."""
    for kind, values in (("inputs", graph.input), ("outputs", graph.output)):
        if len(values) > MAX_TENSORS:
            raise ModelInvalid(f"the model has {len(values):,} {kind}, {MAX_TENSORS:,} is the limit", fix="merge some")
    if not graph.output:
        raise ModelInvalid("the model has no outputs", fix="export it with the outputs that callers need")
    given = {tensor.name for tensor in graph.initializer} | {item.values.name for item in graph.sparse_initializer}
    inputs = tuple(_spec("input", value, value.name in given) for value in graph.input)
    outputs = tuple(_spec("output", value, False) for value in graph.output)
    return inputs, outputs, bool(inputs) and _free_rows([*graph.input, *graph.output])


def _free_rows(values: Sequence[onnx.ValueInfoProto]) -> bool:
    names = set()
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if not dims or (dims[0].HasField("dim_value") and dims[0].dim_value >= 0):
            return False
        names.add(dims[0].dim_param)
    return len(names - {""}) <= 1


def _spec(role: str, value: onnx.ValueInfoProto, optional: bool) -> TensorSpec:
    what = f"{role} {value.name[:80]!r}"
    if not value.name or len(value.name.encode()) > MAX_NAME:
        raise ModelInvalid(f"the name of {what} is empty or longer than {MAX_NAME:,} bytes", fix="name it shortly")
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        shown = (kind or "nothing").removesuffix("_type").replace("_", " ")
        raise ModelInvalid(
            f"{what} is of type {shown}, not a tensor", fix="export a model that takes and gives tensors"
        )
    tensor = value.type.tensor_type
    datatype = _DATATYPES.get(tensor.elem_type)
    if datatype is None:
        known = tensor.elem_type in _Kind.DataType.values()
        shown = _Kind.DataType.Name(tensor.elem_type) if known else str(tensor.elem_type)
        raise ModelInvalid(
            f"{what} has elements of type {shown}, which no client can send",
            fix=f"use {', '.join(_DATATYPES.values())}",
        )
    if not tensor.HasField("shape"):
        raise ModelInvalid(f"{what} has no shape", fix="export it with a shape; dimensions may be free")
    return TensorSpec(value.name, datatype, tuple(_dim(dim) for dim in tensor.shape.dim), optional)


def _dim(dim: Any) -> int:
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else -1


def _labels(path: Path) -> tuple[str, ...]:
    """Return the lines of the labels file, none if there is no such file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    if len(data) > MAX_LABELS_SIZE:
        raise ModelInvalid(f"{LABELS} has {len(data):,} bytes, {MAX_LABELS_SIZE:,} is the limit", fix="shorten it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelInvalid(f"{LABELS} is not UTF-8 text", fix="save it as UTF-8, one label per line") from error
    lines = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    if len(lines) > MAX_LABELS:
        raise ModelInvalid(f"{LABELS} has {len(lines):,} lines, {MAX_LABELS:,} is the limit", fix="shorten it")
    return tuple(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
