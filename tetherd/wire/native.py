"""Tether's own inference form: nested lists by name, typed by the model's signature, shaped by their nesting."""

from itertools import chain
from math import prod
from typing import Any

import numpy as np
import orjson
import simdjson

from tetherd.errors import InvalidInput
from tetherd.types import Signature, Tensor, TensorSpec
from tetherd.wire import jsondata
from tetherd.wire.inference import InferenceRequest


def is_open_inference(document: Any) -> bool:
    """Return whether a parsed body is an Open Inference request: ``inputs`` is a list of objects."""
    if not isinstance(document, simdjson.Object) or "inputs" not in list(document):
        return False
    inputs: Any = document["inputs"]
    return isinstance(inputs, simdjson.Array) and (len(inputs) == 0 or isinstance(inputs[0], simdjson.Object))


def decode(document: Any, signature: Signature) -> InferenceRequest:
    """Decode a parsed native request for a model. Raises InvalidInput, with the shape that was expected.

    ``{"inputs": {name: data}}``; for a model with one input also ``{"inputs": data}``, ``{"data": data}`` or the data
    itself.
    """
    values = document
    request = InferenceRequest([])
    if type(document) is simdjson.Object:
        keys = jsondata.fields(document, "the request")
        key = next((key for key in ("inputs", "data") if key in keys), None)
        if key is None:
            raise InvalidInput("the request has neither inputs nor data", fix=_example(signature))
        values = document[key]
        if "id" in keys and isinstance(document["id"], str):
            request.id = document["id"][:1024]
    if type(values) is simdjson.Object:
        request.inputs = [_tensor(_spec(name, signature), values[name]) for name in jsondata.fields(values, "inputs")]
    elif len(signature.inputs) == 1:
        request.inputs = [_tensor(signature.inputs[0], values)]
    else:
        raise InvalidInput(f"this model has {len(signature.inputs)} inputs: name them", fix=_example(signature))
    return request


def _example(signature: Signature) -> str:
    inputs = ", ".join(f'"{spec.name}": <{spec.datatype} {list(spec.shape)}>' for spec in signature.inputs)
    return f'send {{"inputs": {{{inputs}}}}}'


def _spec(name: str, signature: Signature) -> TensorSpec:
    for spec in signature.inputs:
        if spec.name == name:
            return spec
    raise InvalidInput(f"unexpected input '{name[:80]}'", fix=_example(signature))


def _tensor(spec: TensorSpec, value: Any) -> Tensor:
    if type(value) is simdjson.Object:
        raise InvalidInput(f"input '{spec.name}' must be nested lists, got an object")
    scalar = type(value) is not simdjson.Array
    array: Any = simdjson.Parser().parse(b"[" + orjson.dumps(value) + b"]") if scalar else value
    shape = () if scalar else _shape(spec, array.as_list())
    return Tensor(spec.name, spec.datatype, shape, jsondata.read(spec.name, spec.datatype, array)[1])


def _shape(spec: TensorSpec, items: list[Any]) -> tuple[int, ...]:
    """Read the shape off the nesting, level by level; raise InvalidInput if it is uneven."""
    shape = [len(items)]
    while items and isinstance(items[0], list):
        width = len(items[0])
        if not all(isinstance(item, list) and len(item) == width for item in items):
            raise _uneven(spec)
        shape.append(width)
        items = list(chain.from_iterable(items))
    if list in set(map(type, items)):
        raise _uneven(spec)
    return tuple(shape)


def _uneven(spec: TensorSpec) -> InvalidInput:
    return InvalidInput(f"input '{spec.name}': the lists nest unevenly, expected shape {list(spec.shape)}")


def encode(outputs: list[Tensor], document: dict[str, Any]) -> bytes:
    """Return a native answer: ``document`` with the outputs as nested lists under ``outputs``.

    Raises InvalidInput where JSON cannot carry a value (NaN, infinities, BYTES that are not UTF-8).
    """
    values = {tensor.name: jsondata.write(tensor) for tensor in outputs}
    document["outputs"] = {
        tensor.name: values[tensor.name].reshape(tensor.shape)
        if isinstance(values[tensor.name], np.ndarray) and tensor.shape
        else _nest(values[tensor.name], tensor.shape)
        for tensor in outputs
    }
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in text:
        for tensor in outputs:
            jsondata.check_finite(tensor, values[tensor.name])
    return text


def _nest(items: list[Any], shape: tuple[int, ...]) -> Any:
    """Fold a flat list into nested ones; a scalar's shape gives the element itself."""
    for axis in reversed(range(1, len(shape))):
        width = shape[axis]
        items = [items[index * width : (index + 1) * width] for index in range(prod(shape[:axis]))]
    return items if shape else items[0]
