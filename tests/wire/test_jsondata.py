"""Tensor data as JSON arrays: what each datatype holds, and what it refuses by naming the element."""

import numpy as np
import orjson
import pytest

from tetherd.errors import InvalidInput
from tetherd.types import Tensor
from tetherd.wire import jsondata, tensors


def read(datatype: str, text: str) -> Tensor:
    count, data = jsondata.read("x", datatype, jsondata.parse(text.encode()))
    return Tensor("x", datatype, (count,), data)


@pytest.mark.parametrize(
    ("datatype", "text", "values"),
    [
        ("FP32", "[1, 2.5, -3e2]", [1, 2.5, -300]),
        ("FP64", "[[0.1], [1e308]]", [0.1, 1e308]),
        ("INT8", "[-128, 127]", [-128, 127]),
        ("UINT8", "[0, 255]", [0, 255]),
        ("INT64", "[-9223372036854775808, 9223372036854775807]", [-(2**63), 2**63 - 1]),
        ("UINT64", "[18446744073709551615, 0]", [2**64 - 1, 0]),
        ("INT64", "[9007199254740993]", [2**53 + 1]),
        ("BOOL", "[true, [false]]", None),
        ("BOOL", "[[true], [false]]", [True, False]),
        ("FP32", "[]", []),
        ("UINT64", "[]", []),
    ],
)
def test_values(datatype: str, text: str, values: list[float] | None) -> None:
    if values is None:
        with pytest.raises(InvalidInput):
            read(datatype, text)
        return
    assert tensors.to_numpy(read(datatype, text)).tolist() == values


def test_strings_are_utf8_with_any_character() -> None:
    assert tensors.unpack(read("BYTES", '["a\\u0000b", "\\ud83d\\ude00", ""]')) == [b"a\0b", "😀".encode(), b""]


def test_bfloat16_rounds_half_to_even() -> None:
    words = tensors.to_numpy(read("BF16", "[1, 1.00390625, 1.01171875, -2]"))
    assert (words.astype("<u4") << 16).view("<f4").tolist() == [1, 1, 1.015625, -2]


@pytest.mark.parametrize(
    ("datatype", "text", "message"),
    [
        ("FP32", "[1, true]", "element 1 is true"),
        ("FP32", '[1, 2, "x"]', "element 2 is a string"),
        ("FP32", "[null]", "element 0 is null"),
        ("FP32", "[1, {}]", "element 1 is an object"),
        ("FP32", "[1, 1e39]", r"element 1 is 1e\+39, out of the range of FP32"),
        ("FP16", "[70000]", "out of the range of FP16"),
        ("INT32", "[0, 1.5]", "must be integers, element 1 is 1.5"),
        ("INT32", "[1.0]", "must be integers, element 0 is 1.0"),
        ("INT32", "[2147483648]", "element 0 is 2147483648, out of the range of INT32"),
        ("UINT8", "[1, 300]", "element 1 is 300, out of the range of UINT8"),
        ("UINT8", "[-1]", "out of the range of UINT8"),
        ("UINT64", "[1, -1]", "element 1 is -1, out of the range of UINT64"),
        ("INT64", "[9223372036854775808]", "out of the range of INT64"),
        ("BOOL", "[true, 1]", "must be booleans, element 1 is 1"),
        ("BYTES", '["a", 1]', "must be strings, element 1 is 1"),
        ("BYTES", '["a", ["b"]]', "element 1 is an array"),
        ("BYTES", '[["a"], "b"]', "nests unevenly"),
    ],
)
def test_elements_that_do_not_fit_are_named(datatype: str, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(datatype, text)


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b'{"a":1}x', b"[NaN]", b"[Infinity]", b"[1e999]", b"[" + b"1" * 10_000 + b"]", b"\xff",
        b'"\xed\xa0\x80"',
        b'"\\ud800"', b"\xef\xbb\xbf{}", b"[" * 100_000 + b"]" * 100_000, b"[1,]", b"'a'", b"[01]", b'"\x01"',
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        jsondata.parse(text)


def test_duplicate_keys_are_refused_at_every_depth() -> None:
    with pytest.raises(InvalidInput, match="'a' more than once"):
        jsondata.fields(jsondata.parse(b'{"a":1,"b":2,"a":1}'), "the request")
    with pytest.raises(InvalidInput, match="'b' more than once"):
        jsondata.plain(jsondata.parse(b'{"a":{"b":1,"b":2}}'), "the request")


@pytest.mark.parametrize("depth", [101, 500, 1022])
def test_objects_nest_to_a_limit(depth: int) -> None:
    with pytest.raises(InvalidInput, match="deeper"):
        jsondata.plain(jsondata.parse(b'{"a":' * depth + b"1" + b"}" * depth), "the request")


def test_arrays_nest_deeply_without_recursion() -> None:
    assert read("FP32", "[" * 1000 + "1" + "]" * 1000).shape == (1,)
    with pytest.raises(InvalidInput):
        read("BOOL", "[" * 1000 + "1" + "]" * 1000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_numbers_without_a_word_in_json_are_refused(value: float, datatype: str) -> None:
    tensor = tensors.from_numpy("y", np.array([1, value], tensors.dtype(datatype)))
    with pytest.raises(InvalidInput, match="'y' holds NaN or infinity"):
        jsondata.check_finite(tensor, jsondata.write(tensor))


def test_bytes_that_are_not_text_are_refused_in_json() -> None:
    with pytest.raises(InvalidInput, match="not UTF-8"):
        jsondata.write(Tensor("y", "BYTES", (1,), tensors.pack([b"\xff"])))


@pytest.mark.parametrize("datatype", ["BOOL", "INT8", "UINT64", "FP32", "FP64", "BYTES"])
def test_what_was_written_reads_the_same(datatype: str) -> None:
    text = {"BOOL": "[true,false]", "BYTES": '["a","ü"]'}.get(datatype, "[1,0,100]")
    tensor = read(datatype, text)
    written = orjson.dumps(jsondata.write(tensor), option=orjson.OPT_SERIALIZE_NUMPY)
    assert read(datatype, written.decode()) == tensor
