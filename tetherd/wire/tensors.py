"""Tensors as bytes: sizes, NumPy views, joining and splitting along rows.

Sizes are computed with Python's unbounded integers and checked before anything is allocated.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tetherd.errors import InvalidInput
from tetherd.types import DATATYPES, Buffer, Tensor

_LENGTH: Final = struct.Struct("<I")
_DTYPES: Final = {kind.name: np.dtype(kind.numpy) for kind in DATATYPES.values()}
_NAMES: Final = {np.dtype(kind.numpy): kind.name for kind in DATATYPES.values() if kind.name not in ("BF16", "BYTES")}


def dtype(datatype: str) -> np.dtype[Any]:
    """Return the little-endian NumPy type of a datatype (16-bit words for BF16, objects for BYTES)."""
    return _DTYPES[datatype]


def size(datatype: str, shape: Sequence[int]) -> int | None:
    """Return the bytes that a tensor of this type and shape takes; None for BYTES, whose elements vary."""
    width = DATATYPES[datatype].size
    return width * prod(shape) if width else None


def check(tensor: Tensor) -> None:
    """Raise InvalidInput unless the tensor's datatype exists and its data fits its shape exactly."""
    if tensor.datatype not in DATATYPES:
        raise unknown_datatype(tensor.name, tensor.datatype)
    if any(dim < 0 for dim in tensor.shape):
        raise InvalidInput(f"tensor '{tensor.name}': shape {list(tensor.shape)} has a negative dimension")
    expected, got = size(tensor.datatype, tensor.shape), len(tensor.data)
    if expected is None:
        _offsets(tensor)
    elif expected != got:
        raise InvalidInput(
            f"tensor '{tensor.name}': {tensor.datatype} of shape {list(tensor.shape)} takes {expected} bytes, got {got}"
        )


def unknown_datatype(name: str, datatype: str) -> InvalidInput:
    """Return the error for a tensor whose datatype does not exist."""
    return InvalidInput(f"tensor '{name}': unknown datatype {datatype[:20]!r}", fix=f"use one of {' '.join(DATATYPES)}")


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """Return the tensor as an array: a view of its data, except for BYTES (an array of bytes objects)."""
    if tensor.datatype == "BYTES":
        array = np.empty(prod(tensor.shape), dtype=object)
        array[:] = unpack(tensor)
        return array.reshape(tensor.shape)
    return np.frombuffer(tensor.data, _DTYPES[tensor.datatype]).reshape(tensor.shape)


def from_numpy(name: str, array: NDArray[Any], datatype: str = "") -> Tensor:
    """Return an array as a tensor, without copying where its layout allows.

    Object and string arrays become BYTES (strings as UTF-8). ``datatype`` is needed only for BF16 words.
    """
    if array.dtype.kind in "OUS":
        return Tensor(name, "BYTES", array.shape, pack([_as_bytes(item) for item in array.ravel().tolist()]))
    datatype = datatype or _NAMES[array.dtype.newbyteorder("<")]
    flat = np.ascontiguousarray(array, _DTYPES[datatype]).reshape(-1)
    return Tensor(name, datatype, array.shape, flat.view(np.uint8).data)


def _as_bytes(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def pack(items: Sequence[bytes]) -> bytes:
    """Return BYTES elements as tensor data: each a 32-bit length and its bytes."""
    lengths = _LENGTH.pack
    return b"".join([part for item in items for part in (lengths(len(item)), item)])


def unpack(tensor: Tensor) -> list[bytes]:
    """Return the elements of a BYTES tensor. Raises InvalidInput unless they fill the data exactly."""
    view = memoryview(tensor.data)
    offsets = _offsets(tensor)
    return [bytes(view[start + 4 : end]) for start, end in pairwise(offsets)]


def _offsets(tensor: Tensor) -> list[int]:
    """Return where each BYTES element starts, and the end of the last."""
    data, end, count = tensor.data, len(tensor.data), prod(tensor.shape)
    if count * 4 > end:
        raise InvalidInput(
            f"tensor '{tensor.name}': shape {list(tensor.shape)} holds {count} BYTES elements, {end} bytes cannot"
        )
    offsets = [at := 0]
    for index in range(count):
        if at + 4 > end:
            raise InvalidInput(f"tensor '{tensor.name}': the data ends inside the length of BYTES element {index}")
        at += 4 + _LENGTH.unpack_from(data, at)[0]
        if at > end:
            raise InvalidInput(f"tensor '{tensor.name}': the data ends inside BYTES element {index}")
        offsets.append(at)
    if at != end:
        raise InvalidInput(f"tensor '{tensor.name}': {end - at} bytes follow the last of {count} BYTES elements")
    return offsets


def rows(tensor: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Split a tensor along its first dimension into tensors of ``counts`` rows each, sharing its memory.

    Raises InvalidInput unless the counts add up to the tensor's rows and its data fits its shape.
    """
    if not tensor.shape or sum(counts) != tensor.shape[0]:
        raise InvalidInput(
            f"tensor '{tensor.name}' of shape {list(tensor.shape)} cannot be split into {sum(counts)} rows"
        )
    if len(counts) == 1:
        return [tensor]
    name, datatype, tail = tensor.name, tensor.datatype, tensor.shape[1:]
    width = size(datatype, tail)
    ends = list(accumulate(counts))
    if width is None:
        offsets, step = _offsets(tensor), prod(tail)
        cuts = [offsets[end * step] for end in ends]
    else:
        check(tensor)
        cuts = [end * width for end in ends]
    view = memoryview(tensor.data)
    return [
        Tensor(name, datatype, (count, *tail), view[start:end])
        for count, start, end in zip(counts, [0, *cuts], cuts, strict=False)
    ]


def concat(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors of one name, datatype and row shape along their first dimension; a single one passes unchanged."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    tail = first.shape[1:]
    for other in tensors:
        if other.datatype != first.datatype or other.shape[1:] != tail or not other.shape:
            raise InvalidInput(
                f"tensor '{first.name}': {other.datatype} {list(other.shape)} cannot join "
                f"{first.datatype} {list(first.shape)} in one batch"
            )
    data: list[Buffer] = [other.data for other in tensors]
    return Tensor(first.name, first.datatype, (sum(other.shape[0] for other in tensors), *tail), b"".join(data))
