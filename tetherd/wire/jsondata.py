"""Tensor data written as JSON arrays: reading it without building a Python object per number, and writing it.

JSON goes through simdjson, which refuses invalid UTF-8, lone surrogates, NaN literals, numbers out of range and
nesting deeper than 1024. A parser is made for each document: one that is reused refuses to parse while anything it
returned is alive.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

import numpy as np
import simdjson
from numpy.typing import NDArray

from tetherd.errors import InvalidInput
from tetherd.types import Tensor
from tetherd.wire import tensors

MAX_DEPTH: Final = 100
"""Of objects; arrays of numbers may nest as deep as simdjson takes them."""

_BOM: Final = b"\xef\xbb\xbf"
_WIDEST: Final = {"UINT64": "u", "FP16": "d", "BF16": "d", "FP32": "d", "FP64": "d"}
_KINDS: Final = {"BOOL": "booleans", "BYTES": "strings", "UINT64": "integers"} | dict.fromkeys(
    ("FP16", "BF16", "FP32", "FP64"), "numbers"
)


def parse(text: bytes | memoryview) -> Any:
    """Return a JSON document as simdjson's lazy value. Raises InvalidInput."""
    if text[:3] == _BOM:
        raise InvalidInput("the JSON begins with a byte order mark", fix="send plain UTF-8")
    try:
        return simdjson.Parser().parse(text)
    except (ValueError, RuntimeError) as error:  # UnicodeDecodeError is a ValueError
        raise InvalidInput(f"the request is not JSON: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not valid UTF-8"
    return str(error).split(": ", 1)[-1].split(".", 1)[0].lower() or "it cannot be parsed"


def fields(value: Any, where: str) -> list[str]:
    """Return the keys of a JSON object. Raises InvalidInput if it is none or says a key twice."""
    if type(value) is not simdjson.Object:
        raise InvalidInput(f"{where} must be a JSON object, got {kind(value)}")
    keys: list[str] = list(value)
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidInput(f"{where} has the key {twice[:40]!r} more than once")
    return keys


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """Return a lazy value as Python objects, with the duplicate keys of an object refused."""
    if depth > MAX_DEPTH:
        raise InvalidInput(f"{where} nests deeper than {MAX_DEPTH}")
    if type(value) is simdjson.Object:
        try:
            return {key: plain(value[key], where, depth + 1) for key in fields(value, where)}
        except KeyError:  # simdjson lists such keys and does not find them
            raise InvalidInput(f"{where} has a key with a NUL character") from None
    if type(value) is not simdjson.Array:
        return value
    items = value.as_list()
    return [plain(item, where, depth + 1) for item in value] if dict in map(type, items) else items


def kind(value: Any) -> str:
    """Name the JSON type of a value, for error messages."""
    if isinstance(value, simdjson.Array | list):
        return "an array"
    if isinstance(value, simdjson.Object | dict):
        return "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a string" if isinstance(value, str) else "a number"


def read(name: str, datatype: str, array: Any) -> tuple[int, bytes]:
    """Return how many elements a JSON array (flat or nested) holds, and them as tensor data.

    Raises InvalidInput, naming the tensor and the element, for an element that the datatype cannot hold.
    """
    if datatype == "BOOL":
        flags = _flat(name, array.as_list(), bool, datatype)
        return len(flags), bytes(flags)
    if datatype == "BYTES":
        texts = _flat(name, array.as_list(), str, datatype)
        return len(texts), tensors.pack([text.encode() for text in texts])
    wide = _WIDEST.get(datatype, "i")
    try:
        numbers = np.frombuffer(array.as_buffer(of_type=wide), _NUMPY[wide])
    except (TypeError, ValueError):
        raise _misfit(name, datatype, array) from None
    return len(numbers), _narrow(name, datatype, numbers)


_NUMPY: Final = {"d": np.dtype("<f8"), "i": np.dtype("<i8"), "u": np.dtype("<u8")}


def _narrow(name: str, datatype: str, numbers: NDArray[Any]) -> bytes:
    """Return 64-bit numbers as data of the datatype, refusing those it cannot hold."""
    if datatype in ("INT64", "UINT64", "FP64"):
        return numbers.tobytes()
    if datatype == "BF16":
        return _bfloat(numbers)
    target = tensors.dtype(datatype)
    if numbers.dtype.kind != "f":
        narrow = numbers.astype(target)
        wrong = narrow != numbers
        if wrong.any():
            index = int(wrong.argmax())
            raise _out_of_range(name, datatype, numbers[index], index)
        return narrow.tobytes()
    try:
        with np.errstate(over="raise"):
            return numbers.astype(target).tobytes()
    except FloatingPointError:
        index = int(np.argmax(np.abs(numbers) > np.finfo(target).max))
        raise _out_of_range(name, datatype, numbers[index], index) from None


def _bfloat(numbers: NDArray[Any]) -> bytes:
    """Round to bfloat16, half to even."""
    bits = numbers.astype("<f4").view("<u4")
    rounded: NDArray[Any] = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return rounded.astype("<u2").tobytes()


def _out_of_range(name: str, datatype: str, value: Any, index: int) -> InvalidInput:
    return InvalidInput(f"tensor '{name}': element {index} is {value}, out of the range of {datatype}")


def _flat(name: str, items: list[Any], wanted: type, datatype: str) -> list[Any]:
    """Flatten nested lists, level by level, to elements that are all of one Python type."""
    while items and isinstance(items[0], list):
        if not all(isinstance(item, list) for item in items):
            raise InvalidInput(f"tensor '{name}': the data nests unevenly")
        items = list(chain.from_iterable(items))
    if not {type(item) for item in items} <= {wanted}:
        index = next(index for index, item in enumerate(items) if type(item) is not wanted)
        raise _wrong_type(name, datatype, items[index], index)
    return items


def _wrong_type(name: str, datatype: str, value: Any, index: int) -> InvalidInput:
    shown = str(value)[:40] if isinstance(value, int | float) and not isinstance(value, bool) else kind(value)
    wanted = _KINDS.get(datatype, "integers")
    return InvalidInput(f"tensor '{name}': {datatype} data must be {wanted}, element {index} is {shown}")


def _misfit(name: str, datatype: str, array: Any) -> InvalidInput:
    """Find the element that did not convert, so that the error can name it."""
    fits = (int, float) if datatype in _WIDEST and datatype != "UINT64" else (int,)
    low, high = (0, 2**64) if datatype == "UINT64" else (-(2**63), 2**63)
    for index, item in enumerate(_leaves(array.as_list())):
        if type(item) not in fits:
            return _wrong_type(name, datatype, item, index)
        if fits == (int,) and not low <= item < high:
            return _out_of_range(name, datatype, item, index)
    return InvalidInput(f"tensor '{name}': the data does not fit {datatype}")


def _leaves(items: list[Any]) -> Iterable[Any]:
    stack = [iter(items)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            yield item
        else:
            stack.pop()


def write(tensor: Tensor) -> Any:
    """Return a tensor's elements, flat, as a value that orjson writes: an array for numbers, a list for strings.

    Raises InvalidInput for BYTES that are not UTF-8; non-finite numbers are found after writing (they become null).
    """
    if tensor.datatype == "BYTES":
        try:
            return [item.decode() for item in tensors.unpack(tensor)]
        except UnicodeDecodeError:
            raise InvalidInput(
                f"output '{tensor.name}' holds bytes that are not UTF-8, which JSON cannot carry",
                fix="ask for this output in binary form (parameters.binary_data = true)",
            ) from None
    words = np.frombuffer(tensor.data, tensors.dtype(tensor.datatype))
    if tensor.datatype == "BF16":
        return (words.astype("<u4") << 16).view("<f4")
    return words


def check_finite(tensor: Tensor, values: Any) -> None:
    """Raise InvalidInput if a written float tensor holds NaN or an infinity, for which JSON has no word."""
    if tensor.datatype[-4:] in ("FP16", "BF16", "FP32", "FP64") and not np.isfinite(values).all():
        raise InvalidInput(
            f"output '{tensor.name}' holds NaN or infinity, which JSON cannot carry",
            fix="ask for this output in binary form (parameters.binary_data = true)",
        )
