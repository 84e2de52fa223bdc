"""Where the tensors of an ONNX model say that their bytes lie: only in plain files beside the model.

Runtimes differ in what they follow (a hard link passes ONNX Runtime), so it is decided here, for all of them.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import onnx

from tetherd.errors import ModelInvalid

MAX_LOCATION: Final = 4_096
_IN_MEMORY: Final = "_ORT_MEM_ADDR_"  # ONNX Runtime takes the offset of such a tensor for an address


def check_external_data(model: onnx.ModelProto, directory: Path) -> None:
    """Raise ModelInvalid unless all external data lies inside regular files of ``directory``."""
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            problem = _problem(tensor, directory)
            if problem:
                raise ModelInvalid(
                    f"the external data of tensor {tensor.name[:80]!r} {problem}",
                    fix="save the model with its weights in files beside it, and push the whole directory",
                )


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor, also those in nested graphs, functions and training information."""
    graphs = [model.graph]
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    for function in model.functions:
        yield from _of_nodes(function.node, graphs)
        yield from _of_attributes(function.attribute_proto, graphs)
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _of_nodes(graph.node, graphs)


def _of_nodes(nodes: Iterable[onnx.NodeProto], graphs: list[onnx.GraphProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        yield from _of_attributes(node.attribute, graphs)


def _of_attributes(
    attributes: Iterable[onnx.AttributeProto], graphs: list[onnx.GraphProto]
) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of attributes, and add the graphs found in them to ``graphs``."""
    for attribute in attributes:
        yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            graphs.append(attribute.g)
        graphs.extend(attribute.graphs)


def _problem(tensor: onnx.TensorProto, directory: Path) -> str:
    entries = [(entry.key, entry.value) for entry in tensor.external_data]
    named = dict(entries)
    if len(named) != len(entries):
        return "is described twice"
    location = named.get("location", "")
    problem = _location_problem(location)
    if problem:
        return problem
    path = directory / location
    try:
        found = path.lstat()
    except OSError:
        return f"is in {location[:80]!r}, which is not one of the model's files"
    linked = path.resolve() != directory.resolve() / location
    if linked or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        return f"is in {location[:80]!r}, which is not a regular file of its own"
    return _range_problem(named, found)


def _location_problem(location: str) -> str:
    if not location:
        return "has no location"
    if _IN_MEMORY in location:
        return "points into memory"
    parts = PurePosixPath(location).parts
    if location.startswith("/") or ".." in parts or "\\" in location or "\0" in location:
        return f"is outside the model's directory ({location[:80]!r})"
    return "has a location that is too long" if len(location) > MAX_LOCATION else ""


def _range_problem(named: dict[str, str], found: os.stat_result) -> str:
    numbers = [named.get("offset", "0"), named.get("length", "0")]
    if not all(text.isascii() and text.isdigit() and len(text) <= 19 for text in numbers):
        return "has an offset or length that is not a count of bytes"
    offset, length = map(int, numbers)
    if offset + length > found.st_size:
        return f"ends beyond the end of its file ({offset + length:,} of {found.st_size:,} bytes)"
    return ""
