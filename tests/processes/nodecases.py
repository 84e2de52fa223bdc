"""The ONNX project's own test cases of single operators, and which of them ONNX Runtime by itself gets right here."""

import collections
import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import graphs
import ml_dtypes
import numpy as np
import onnxruntime

NUMPY: Final = {
    "BOOL": "|b1", "UINT8": "|u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "|i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "BF16": ml_dtypes.bfloat16, "FP32": "<f4", "FP64": "<f8",
    "BYTES": "|O",
}  # fmt: skip
KINDS: Final = {number: kind for kind, number in graphs.TYPES.items()}


@dataclass
class Case:
    """One operator, what goes in and what must come out: tensors by name, and the datatypes of both."""

    name: str
    operator: str
    model: bytes
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    kinds: dict[str, str]
    rtol: float
    atol: float

    def differs(self, got: dict[str, Any]) -> str:
        """Return in what outputs differ from those that must come; empty if they do not."""
        for name, wanted in self.outputs.items():
            have = got.get(name)
            if have is None or have.shape != wanted.shape:
                return f"{name}: shape {None if have is None else have.shape} instead of {wanted.shape}"
            if not _close(have, wanted, self.rtol, self.atol):
                return f"{name}: {have.ravel()[:8]} instead of {wanted.ravel()[:8]}"
        return ""


def _close(have: Any, wanted: Any, rtol: float, atol: float) -> bool:
    if wanted.dtype.kind in "OUS":
        return [_text(one) for one in have.ravel()] == [_text(one) for one in wanted.ravel()]
    if wanted.dtype.kind in "biu":
        return bool(np.array_equal(have, wanted))
    wide = np.promote_types(wanted.dtype, np.float32) if wanted.dtype.kind == "f" else np.float32
    return bool(np.allclose(have.astype(wide), wanted.astype(wide), rtol, atol, equal_nan=True))


def _text(one: Any) -> str:
    return one.decode() if isinstance(one, bytes) else str(one)


def collect() -> tuple[list[Case], collections.Counter[str]]:
    """Return all cases of plain tensors of datatypes that travel, spread over operators, and why others are left out.

    The order is the same on every machine: one case of each operator, then a second of each, and so on.
    """
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they divide by zero on purpose
        found = collect_testcases(None)
    left_out: collections.Counter[str] = collections.Counter()
    cases = [case for one in found if (case := _read(one, left_out))]
    ranks: collections.Counter[str] = collections.Counter()
    order = {}
    for case in sorted(cases, key=lambda case: case.name):
        order[case.name] = (ranks[case.operator], hashlib.sha256(case.operator.encode()).digest())
        ranks[case.operator] += 1
    return sorted(cases, key=lambda case: order[case.name]), left_out


def _read(found: Any, left_out: collections.Counter[str]) -> Case | None:
    graph = found.model.graph
    values = [*graph.input, *graph.output]
    if not graph.input or not all(value.type.HasField("tensor_type") for value in values):
        left_out["has no inputs, or ones that are no plain tensors"] += 1
        return None
    kinds = {value.name: KINDS.get(value.type.tensor_type.elem_type, "") for value in values}
    if not all(kinds.values()):
        left_out["has a datatype that the protocol does not know"] += 1
        return None
    inputs, outputs = found.data_sets[0]
    try:
        taken = {value.name: _array(data, kinds[value.name]) for value, data in zip(graph.input, inputs, strict=True)}
        given = {value.name: _array(data, kinds[value.name]) for value, data in zip(graph.output, outputs, strict=True)}
    except (TypeError, ValueError):
        left_out["carries data that is no plain tensor"] += 1
        return None
    name = re.sub(r"[^a-z0-9._-]", "-", found.name.lower())[:64]
    model = found.model.SerializeToString()
    return Case(name, graph.node[0].op_type, model, taken, given, kinds, found.rtol, found.atol)


def _array(data: Any, kind: str) -> Any:
    if not isinstance(data, np.ndarray | np.generic | float | int | str | bytes):
        raise TypeError(type(data))
    return np.asarray(data).astype(NUMPY[kind])


def bare(case: Case) -> str:
    """Return why ONNX Runtime by itself does not give what must come; empty if it does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if "BF16" in case.kinds.values():
        return "onnxruntime has no NumPy form of bfloat16"
    try:
        session = onnxruntime.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
        feeds = {name: _plain(array) for name, array in case.inputs.items()}
        results = session.run(list(case.outputs), feeds)
    except Exception as error:
        return f"onnxruntime: {type(error).__name__}"
    if any(not isinstance(result, np.ndarray | np.generic) for result in results):
        return "onnxruntime gives no plain tensor"
    return case.differs(dict(zip(case.outputs, map(np.asarray, results), strict=True))) and "onnxruntime differs too"


def _plain(array: Any) -> Any:
    return np.array([_text(one) for one in array.ravel()], object).reshape(array.shape) if array.dtype == "O" else array


def encode(case: Case) -> tuple[bytes, dict[str, str]]:
    """Return a binary request of the Open Inference Protocol, and its headers."""
    blobs = [_packed(array) for array in case.inputs.values()]
    tensors = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": case.kinds[name],
            "parameters": {"binary_data_size": len(blob)},
        }
        for (name, array), blob in zip(case.inputs.items(), blobs, strict=True)
    ]
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(blobs), {"Inference-Header-Content-Length": str(len(head))}


def _packed(array: Any) -> bytes:
    if array.dtype != "O":
        return bytes(np.ascontiguousarray(array).tobytes())
    items = [_text(one).encode() for one in array.ravel()]
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


def decode(body: bytes, head_length: int) -> dict[str, Any]:
    """Return the outputs of an answer by name."""
    at = head_length or len(body)
    outputs = {}
    for tensor in json.loads(body[:at])["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size", 0)
        blob, at = body[at : at + size], at + size
        kind = NUMPY[tensor["datatype"]]
        flat = np.array(list(_items(blob)), object) if tensor["datatype"] == "BYTES" else np.frombuffer(blob, kind)
        outputs[tensor["name"]] = flat.reshape(tensor["shape"])
    return outputs


def _items(blob: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(blob):
        size = int.from_bytes(blob[at : at + 4], "little")
        yield blob[at + 4 : at + 4 + size]
        at += 4 + size
