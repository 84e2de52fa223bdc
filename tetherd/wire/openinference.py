"""The Open Inference Protocol v2 over HTTP: request bytes to tensors, tensors to answer bytes.

Whether a body carries binary tensors is told by Inference-Header-Content-Length alone, never by Content-Type, which
the protocol's own client does not send.
"""

from math import prod
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import orjson
import simdjson

from tetherd.errors import InvalidInput
from tetherd.types import DATATYPES, Buffer, Signature, Tensor
from tetherd.wire import jsondata, tensors
from tetherd.wire.inference import InferenceRequest, Wanted

HEADER_LENGTH: Final = b"inference-header-content-length"
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)

_Dim = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Parameters = dict[str, str | int | float | bool]


class _Input(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(max_length=1024)]
    shape: Annotated[tuple[_Dim, ...], msgspec.Meta(max_length=32)]
    datatype: str
    parameters: _Parameters = {}


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters = {}


class _Head(msgspec.Struct):
    inputs: list[_Input]
    outputs: list[_Output] | None = None
    id: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    parameters: _Parameters = {}


def decode(body: bytes, header_length: int | None) -> InferenceRequest:
    """Decode a request whose JSON part is ``header_length`` bytes long (None: all of it). Raises InvalidInput."""
    if header_length is None:
        return from_document(jsondata.parse(body))
    if not 0 <= header_length <= len(body):
        raise InvalidInput(f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes")
    view = memoryview(body)
    return from_document(jsondata.parse(view[:header_length]), view[header_length:])


def decode_raw(body: bytes, signature: Signature) -> InferenceRequest:
    """Decode a raw binary request: the body is the model's only input, one row of it. Raises InvalidInput."""
    if len(signature.inputs) != 1:
        raise InvalidInput(
            f"a raw binary request needs a model with one input, this one has {len(signature.inputs)}",
            fix="send a JSON header and its length in Inference-Header-Content-Length",
        )
    spec = signature.inputs[0]
    shape = [1, *spec.shape[1:]] if signature.batchable else list(spec.shape)
    data: Buffer = body
    if spec.datatype == "BYTES":
        shape = [1 if dim == -1 else dim for dim in shape]
        if prod(shape) != 1:
            raise InvalidInput(f"a raw binary request for BYTES input '{spec.name}' of shape {shape}: expected [1]")
        data = tensors.pack([body])
    elif shape.count(-1) > 1:
        raise InvalidInput(f"a raw binary request cannot tell the dimensions of '{spec.name}' {list(spec.shape)}")
    elif -1 in shape:
        row = tensors.size(spec.datatype, [dim for dim in shape if dim != -1]) or 1
        shape[shape.index(-1)] = len(body) // row
    tensor = Tensor(spec.name, spec.datatype, tuple(shape), data)
    tensors.check(tensor)
    return InferenceRequest([tensor], binary=True)


def from_document(document: Any, blobs: Buffer = b"") -> InferenceRequest:
    """Decode a request whose JSON is parsed already; ``blobs`` is what follows it. Raises InvalidInput."""
    head, data = _head(document)
    at = 0
    inputs = []
    for entry, values in zip(head.inputs, data, strict=True):
        if entry.datatype not in DATATYPES:
            raise tensors.unknown_datatype(entry.name, entry.datatype)
        length = _binary_size(entry, values) if entry.parameters else None
        if length is None:
            inputs.append(_from_json(entry, values))
            continue
        if length > len(blobs) - at:
            raise InvalidInput(
                f"input '{entry.name}': binary_data_size is {length}, the body has {len(blobs) - at} bytes left"
            )
        tensor = Tensor(entry.name, entry.datatype, entry.shape, blobs[at : at + length])
        tensors.check(tensor)
        inputs.append(tensor)
        at += length
    if at != len(blobs):
        raise InvalidInput(f"unexpected additional input data: {len(blobs) - at} bytes follow the last input")
    request = InferenceRequest(inputs, head.id, _wanted(head.outputs) if head.outputs else None)
    if head.parameters:
        _apply(request, head.parameters)
    return request


def _head(document: Any) -> tuple[_Head, list[Any]]:
    """Return the request without its inputs' data, typed, and the data of each input (lazy; absent ones None)."""
    top: dict[str, Any] = {}
    data = []
    for key in jsondata.fields(document, "the request"):
        if key == "inputs":
            if jsondata.kind(document[key]) != "an array":
                raise InvalidInput(f"inputs must be an array of objects, got {jsondata.kind(document[key])}")
            top[key] = entries = []
            for item in document[key]:
                keys = jsondata.fields(item, "an input")
                entries.append({name: jsondata.plain(item[name], name) for name in keys if name in _INPUT})
                data.append(item["data"] if "data" in keys else None)
        elif key in _TOP:
            top[key] = jsondata.plain(document[key], key)
    try:
        return msgspec.convert(top, _Head), data
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the request does not follow the protocol: {error}") from None


def has_empty_data(text: bytes) -> bool:
    """Return whether ``text`` is a request with one input, whose data is an empty array."""
    try:
        _, data = _head(jsondata.parse(text))
    except InvalidInput:
        return False
    return len(data) == 1 and isinstance(data[0], simdjson.Array) and len(data[0]) == 0


_INPUT: Final = {"name", "shape", "datatype", "parameters"}
_TOP: Final = {"id", "outputs", "parameters"}


def _binary_size(entry: _Input, values: Any) -> int | None:
    """Return the size of an input's binary data; None if its data is in the JSON."""
    if any(key.startswith("shared_memory") for key in entry.parameters):
        raise InvalidInput(f"input '{entry.name}': shared memory is not supported", fix="send the data in the request")
    length = entry.parameters.get("binary_data_size")
    if length is None:
        return None
    if type(length) is not int or length < 0:
        raise InvalidInput(f"input '{entry.name}': binary_data_size must be a size in bytes, got {length!r}")
    if values is not None:
        raise InvalidInput(f"input '{entry.name}' has both data and binary_data_size: exactly one is allowed")
    return length


def _from_json(entry: _Input, values: Any) -> Tensor:
    if values is None:
        raise InvalidInput(f"input '{entry.name}' has no data: exactly one of data and binary_data_size is needed")
    if entry.datatype in ("FP16", "BF16"):
        raise InvalidInput(
            f"input '{entry.name}': {entry.datatype} cannot be sent as JSON", fix="send it in binary form"
        )
    if jsondata.kind(values) != "an array":
        raise InvalidInput(f"input '{entry.name}': data must be an array, got {jsondata.kind(values)}")
    count, data = jsondata.read(entry.name, entry.datatype, values)
    expected = prod(entry.shape)
    if count != expected:
        raise InvalidInput(
            f"input '{entry.name}': shape {list(entry.shape)} holds {expected} elements, the data has {count}"
        )
    return Tensor(entry.name, entry.datatype, entry.shape, data)


def _wanted(outputs: list[_Output]) -> list[Wanted]:
    return [_wish(output) if output.parameters else Wanted(output.name) for output in outputs]


def _wish(output: _Output) -> Wanted:
    parameters = output.parameters
    if any(key.startswith("shared_memory") for key in parameters):
        raise InvalidInput(f"output '{output.name[:80]}': shared memory is not supported")
    binary, classes = parameters.get("binary_data", False), parameters.get("classification", 0)
    if type(binary) is not bool:
        raise InvalidInput(f"output '{output.name[:80]}': binary_data must be true or false, got {binary!r}")
    if type(classes) is not int or classes < 0:
        raise InvalidInput(f"output '{output.name[:80]}': classification must be a count, got {classes!r}")
    return Wanted(output.name, binary, classes)


def _apply(request: InferenceRequest, parameters: _Parameters) -> None:
    for key, value in parameters.items():
        if key.startswith("triton_") or key == "headers":
            raise InvalidInput(f"request parameter {key[:80]!r} is reserved")
        if key.startswith("sequence_") and value not in (0, ""):
            raise InvalidInput(f"request parameter {key[:80]!r}: sequences are not supported")
        if key in ("timeout", "priority") and (type(value) is not int or not 0 <= value < 2**63):
            raise InvalidInput(f"request parameter {key!r} must be a non-negative integer, got {value!r}")
    request.binary = parameters.get("binary_data_output", False) is True
    request.timeout_us = int(parameters.get("timeout", 0))
    request.priority = int(parameters.get("priority", 0))


def encode(
    request: InferenceRequest, wanted: list[Wanted], outputs: list[Tensor], served: "Served"
) -> tuple[bytes, int | None]:
    """Return the answer's body and the length of its JSON part (None: all of it).

    Raises InvalidInput where JSON cannot carry a value (NaN, infinities, BYTES that are not UTF-8).
    """
    entries: list[dict[str, Any]] = []
    blobs: list[Buffer] = []
    checks: list[tuple[Tensor, Any]] = []
    given = {tensor.name: tensor for tensor in outputs}
    for want in wanted:
        tensor = given[want.name]
        if want.classes:
            tensor = classify(tensor, want.classes, served.signature)
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if want.binary:
            entry["parameters"] = {"binary_data_size": len(tensor.data)}
            blobs.append(tensor.data)
        else:
            entry["data"] = values = jsondata.write(tensor)
            checks.append((tensor, values))
        entries.append(entry)
    answer: dict[str, Any] = {"model_name": served.model, "model_version": served.version, "outputs": entries}
    if request.id:
        answer["id"] = request.id
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in head:
        for tensor, values in checks:
            jsondata.check_finite(tensor, values)
    if not any(len(blob) for blob in blobs):
        return head, None
    return b"".join([head, *blobs]), len(head)


class Served(msgspec.Struct, frozen=True):
    """What an answer says of the model that gave it. ``version`` is the number, as text."""

    model: str
    version: str
    signature: Signature


def classify(tensor: Tensor, count: int, signature: Signature) -> Tensor:
    """Return the ``count`` largest elements of each row as BYTES ``value:index[:label]``, largest first.

    A row is everything after the first dimension if the model batches, else the whole tensor. Labels belong to the
    model's first output.
    """
    array = tensors.to_numpy(tensor)
    if tensor.datatype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    lines = array.reshape(array.shape[0] if signature.batchable else 1, -1 if array.size else prod(array.shape[1:]))
    count = min(count, lines.shape[1])
    labels = signature.labels if tensor.name == signature.outputs[0].name else ()
    best = np.argsort(-lines.astype(np.float64), axis=1, kind="stable")[:, :count]
    items = [
        f"{line[index]}:{index}" + (f":{labels[index]}" if index < len(labels) else "")
        for line, row in zip(lines, best.tolist(), strict=True)
        for index in row
    ]
    shape = (lines.shape[0], count) if signature.batchable else (count,)
    return Tensor(tensor.name, "BYTES", shape, tensors.pack([item.encode() for item in items]))
