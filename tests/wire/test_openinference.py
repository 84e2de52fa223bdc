"""The Open Inference codec: every datatype both ways, every rule of the protocol, and no input that breaks it."""

import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tetherd.errors import InvalidInput
from tetherd.types import DATATYPES, Signature, Tensor, TensorSpec
from tetherd.wire import openinference as oip
from tetherd.wire import tensors
from tetherd.wire.inference import InferenceRequest, Wanted

SIGNATURE = Signature((), (TensorSpec("y", "FP32", (-1, 3)),), batchable=True, labels=("cat", "dog"))
SERVED = oip.Served("m", "1", SIGNATURE)


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]} | changes


def decode(*inputs: Any, blobs: bytes = b"", binary: bool = False, **top: Any) -> InferenceRequest:
    head = orjson.dumps({"inputs": list(inputs), **top})
    return oip.decode(head + blobs, len(head) if binary or blobs else None)


def refused(message: str, *inputs: Any, **options: Any) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode(*inputs, **options)


# --- requests --------------------------------------------------------------------------------------------------------


def test_a_json_request() -> None:
    request = decode(entry(), id="7")
    assert request == InferenceRequest([Tensor("x", "FP32", (1, 2), struct.pack("<2f", 1, 2))], "7")


def test_nested_data_is_flattened() -> None:
    assert decode(entry(data=[[1, 2]])).inputs == decode(entry()).inputs


def test_json_and_binary_inputs_mix() -> None:
    blob = struct.pack("<2f", 3, 4)
    request = decode(
        entry(name="a"),
        {"name": "b", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        {"name": "c", "shape": [0], "datatype": "INT8", "parameters": {"binary_data_size": 0}},
        blobs=blob,
    )
    assert [bytes(tensor.data) for tensor in request.inputs] == [struct.pack("<2f", 1, 2), blob, b""]


@given(st.data())
def test_every_datatype_in_binary(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(DATATYPES)))
    shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
    count = int(np.prod(shape, dtype=int))
    if name == "BYTES":
        blob = tensors.pack(data.draw(st.lists(st.binary(max_size=4), min_size=count, max_size=count)))
    else:
        size = count * DATATYPES[name].size
        blob = data.draw(st.binary(min_size=size, max_size=size))
    spec = {"name": "x", "shape": shape, "datatype": name, "parameters": {"binary_data_size": len(blob)}}
    (tensor,) = decode(spec, blobs=blob, binary=True).inputs
    assert tensor == Tensor("x", name, tuple(shape), blob)


def test_parameters_of_the_request() -> None:
    request = decode(
        entry(), parameters={"timeout": 500, "priority": 2, "binary_data_output": True, "mine": "x", "sequence_id": 0}
    )
    assert (request.timeout_us, request.priority, request.binary) == (500, 2, True)


def test_outputs_and_how_they_are_wanted() -> None:
    outputs = [
        {"name": "a"},
        {"name": "b", "parameters": {"binary_data": True}},
        {"name": "c", "parameters": {"classification": 3}},
    ]
    assert decode(entry(), outputs=outputs).wanted == [Wanted("a"), Wanted("b", True), Wanted("c", False, 3)]
    assert decode(entry(), outputs=[]).wanted is None


def test_a_scalar_and_zero_size_tensors() -> None:
    assert decode(entry(shape=[], data=[5])).inputs[0].shape == ()
    assert decode(entry(shape=[0, 4], data=[])).inputs[0].data == b""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [1, 3]}, r"shape \[1, 3\] holds 3 elements, the data has 2"),
        ({"shape": [10**9]}, "holds 1000000000 elements, the data has 3"),
        ({"shape": [2**31 - 1] * 5}, "elements, the data has"),
        ({"shape": [2**63]}, r"Expected `int` <= 2147483647"),
        ({"shape": [-1]}, "Expected `int` >= 0"),
        ({"shape": ["4"]}, "Expected `int`, got `str`"),
        ({"shape": [4.0]}, "Expected `int`, got `float`"),
        ({"shape": [True]}, "Expected `int`, got `bool`"),
        ({"shape": None}, "Expected `array`"),
        ({"shape": [1] * 33}, "length <= 32"),
        ({"datatype": "FP31"}, "input 'x': unknown datatype|tensor 'x': unknown datatype"),
        ({"datatype": "FP16"}, "FP16 cannot be sent as JSON"),
        ({"datatype": "BF16"}, "BF16 cannot be sent as JSON"),
        ({"data": {"a": 1}}, "data must be an array, got an object"),
        ({"data": "abc"}, "data must be an array, got a string"),
        ({"data": None}, "has no data"),
        ({"name": 5}, "Expected `str`"),
        ({"parameters": {"binary_data_size": 8}}, "both data and binary_data_size"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory is not supported"),
        ({"parameters": 5}, "Expected `object`"),
    ],
)
def test_inputs_against_the_protocol(change: dict[str, Any], message: str) -> None:
    if change.get("shape") == [10**9]:
        change = change | {"data": [1, 2, 3]}
    refused(message, entry(**change))


@pytest.mark.parametrize("size", [-1, 1.5, "8", True, 2**63])
def test_binary_sizes_that_cannot_be(size: Any) -> None:
    spec = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    refused("binary_data_size", spec, blobs=bytes(8))


def test_bytes_left_over_or_missing() -> None:
    spec = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    refused("unexpected additional input data: 1 bytes", spec, blobs=bytes(9))
    refused("binary_data_size is 8, the body has 7 bytes left", spec, blobs=bytes(7))
    refused("has no data", {"name": "x", "shape": [2], "datatype": "FP32"})


def test_binary_data_of_another_size_than_the_shape() -> None:
    spec = {"name": "x", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    refused(r"FP32 of shape \[3\] takes 12 bytes, got 8", spec, blobs=bytes(8))


@pytest.mark.parametrize("length", [-1, 100_000])
def test_a_header_length_outside_the_body(length: int) -> None:
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length"):
        oip.decode(b"{}", length)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"triton_x": 1}, "reserved"),
        ({"headers": "x"}, "reserved"),
        ({"sequence_id": 5}, "sequences are not supported"),
        ({"sequence_start": True}, "sequences are not supported"),
        ({"timeout": -1}, "'timeout' must be a non-negative integer"),
        ({"timeout": 1.5}, "'timeout' must be"),
        ({"timeout": True}, "'timeout' must be"),
        ({"priority": "high"}, "'priority' must be"),
        ({"a": [1]}, "does not follow the protocol"),
    ],
)
def test_parameters_that_are_refused(parameters: dict[str, Any], message: str) -> None:
    refused(message, entry(), parameters=parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"binary_data": 1}, "must be true or false"),
        ({"classification": -1}, "must be a count"),
        ({"classification": "3"}, "must be a count"),
        ({"shared_memory_region": "r"}, "shared memory"),
    ],
)
def test_output_parameters_that_are_refused(parameters: dict[str, Any], message: str) -> None:
    refused(message, entry(), outputs=[{"name": "y", "parameters": parameters}])


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[],"inputs":[]}',
        b'{"inputs":[{"name":"x","name":"y","shape":[1],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":{}}', b'{"inputs":[1]}', b'{"inputs":null}', b"[]", b"{}", b"1", b"null",
        b'{"inputs":[],"outputs":[1]}',         b'{"inputs":[],"outputs":5}',
        b'{"inputs":[],"outputs":{"a":1}}', b'{"inputs":[],"id":5}', b'{"inputs":[],"parameters":{"a\\u0000":1}}',
        b'{"inputs":[],"parameters":{"a":1,"a":2}}',
    ],
)  # fmt: skip
def test_documents_that_are_no_requests(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        oip.decode(body, None)


def test_keys_nobody_knows_are_ignored() -> None:
    assert decode(entry(extra={"a": [1]}), more=[1, {"b": 2}]).inputs == decode(entry()).inputs


# --- raw binary requests ---------------------------------------------------------------------------------------------


def raw(spec: TensorSpec, body: bytes, *, batchable: bool = False) -> Tensor:
    request = oip.decode_raw(body, Signature((spec,), (), batchable))
    assert request.binary
    return request.inputs[0]


def test_the_body_is_the_only_input() -> None:
    assert raw(TensorSpec("x", "FP32", (-1, 2)), bytes(8), batchable=True).shape == (1, 2)
    assert raw(TensorSpec("x", "FP32", (-1, -1)), bytes(8), batchable=True).shape == (1, 2)
    assert raw(TensorSpec("x", "FP32", (-1, 2)), bytes(16)).shape == (2, 2)
    assert raw(TensorSpec("x", "BYTES", (-1,)), b"abc", batchable=True) == Tensor(
        "x", "BYTES", (1,), tensors.pack([b"abc"])
    )


@pytest.mark.parametrize(
    ("spec", "body"),
    [
        (TensorSpec("x", "FP32", (2,)), bytes(7)),
        (TensorSpec("x", "FP32", (-1, 2)), bytes(9)),
        (TensorSpec("x", "FP32", (-1, -1)), bytes(8)),
        (TensorSpec("x", "BYTES", (2,)), b"abc"),
    ],
)
def test_raw_bodies_that_do_not_tell_their_shape(spec: TensorSpec, body: bytes) -> None:
    with pytest.raises(InvalidInput):
        raw(spec, body)


def test_a_raw_body_needs_a_model_with_one_input() -> None:
    spec = TensorSpec("x", "FP32", (1,))
    with pytest.raises(InvalidInput, match="one input"):
        oip.decode_raw(b"", Signature((spec, spec), ()))


# --- answers ---------------------------------------------------------------------------------------------------------


def encode(wanted: list[Wanted], *outputs: Tensor, id_: str = "") -> tuple[dict[str, Any], bytes]:
    body, length = oip.encode(InferenceRequest([], id_), wanted, list(outputs), SERVED)
    return orjson.loads(body[:length]), b"" if length is None else body[length:]


Y = tensors.from_numpy("y", np.array([[0.5, 2, 1]], "<f4"))


def test_a_json_answer_echoes_the_id() -> None:
    document, blob = encode([Wanted("y")], Y, id_="7")
    assert blob == b""
    assert document == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [0.5, 2, 1]}],
    }
    assert "id" not in encode([Wanted("y")], Y)[0]


def test_binary_and_json_outputs_mix_in_the_order_they_were_asked_for() -> None:
    z = Tensor("z", "INT8", (2,), b"\1\2")
    document, blob = encode([Wanted("z", True), Wanted("y"), Wanted("w", True)], Y, z, Tensor("w", "INT8", (1,), b"\3"))
    assert [output["name"] for output in document["outputs"]] == ["z", "y", "w"]
    assert document["outputs"][0] == {
        "name": "z",
        "datatype": "INT8",
        "shape": [2],
        "parameters": {"binary_data_size": 2},
    }
    assert blob == b"\1\2\3"


def test_only_empty_binary_outputs_make_a_json_answer() -> None:
    body, length = oip.encode(InferenceRequest([]), [Wanted("e", True)], [Tensor("e", "FP32", (0, 3), b"")], SERVED)
    assert length is None
    assert orjson.loads(body)["outputs"][0]["parameters"] == {"binary_data_size": 0}


def test_nan_is_refused_in_json_and_carried_in_binary() -> None:
    nan = tensors.from_numpy("y", np.array([[np.nan]], "<f4"))
    with pytest.raises(InvalidInput, match="NaN"):
        encode([Wanted("y")], nan)
    assert encode([Wanted("y", True)], nan)[1] == bytes(nan.data)
    null = Tensor("s", "BYTES", (1,), tensors.pack([b"null"]))
    assert encode([Wanted("s")], null)[0]["outputs"][0]["data"] == ["null"]


def test_classification_names_the_best_of_each_row() -> None:
    y = tensors.from_numpy("y", np.array([[0.5, 2, 1], [3, 0.25, 0]], "<f4"))
    document, _ = encode([Wanted("y", classes=2)], y)
    assert document["outputs"][0] == {
        "name": "y",
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["2.0:1:dog", "1.0:2", "3.0:0:cat", "0.25:1:dog"],
    }
    assert encode([Wanted("y", classes=99)], y)[0]["outputs"][0]["shape"] == [2, 3]


def test_classification_of_a_model_that_does_not_batch() -> None:
    served = oip.Served("m", "1", Signature((), SIGNATURE.outputs))
    body, _ = oip.encode(InferenceRequest([]), [Wanted("y", classes=1)], [Y], served)
    assert orjson.loads(body)["outputs"][0]["shape"] == [1]
    assert orjson.loads(body)["outputs"][0]["data"] == ["2.0:1"]


def test_classification_of_no_rows() -> None:
    empty = Tensor("y", "FP32", (0, 3), b"")
    assert encode([Wanted("y", classes=2)], empty)[0]["outputs"][0] | {"data": []} == {
        "name": "y", "datatype": "BYTES", "shape": [0, 2], "data": [],
    }  # fmt: skip


# --- nothing breaks it -----------------------------------------------------------------------------------------------

GOOD = orjson.dumps(
    {
        "id": "1",
        "parameters": {"binary_data_output": True},
        "inputs": [
            {"name": "a", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 10}},
            {"name": "b", "shape": [1, 2], "datatype": "FP32", "data": [1.5, -2]},
        ],
        "outputs": [{"name": "y", "parameters": {"classification": 2}}],
    }
)
BLOB = tensors.pack([b"a", b"b"])


def survives(body: bytes, length: int | None) -> None:
    try:
        request = oip.decode(body, length)
    except InvalidInput:
        return
    for tensor in request.inputs:
        tensors.check(tensor)


@pytest.mark.parametrize("end", range(len(GOOD + BLOB)))
def test_truncated_anywhere(end: int) -> None:
    for length in (len(GOOD), None, end):
        survives((GOOD + BLOB)[:end], length)


@given(st.binary(max_size=200), st.none() | st.integers(-1, 201))
@example(GOOD, None)
def test_random_bytes(body: bytes, length: int | None) -> None:
    survives(body, length)


@given(st.integers(0, len(GOOD + BLOB) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_mutations(at: int, patch: bytes, cut: int) -> None:
    body = GOOD + BLOB
    survives(body[:at] + patch + body[at + cut :], len(GOOD))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**65) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | json_values,
        "shape": st.lists(st.integers(0, 3), max_size=2) | json_values,
        "datatype": st.sampled_from(sorted(DATATYPES)) | json_values,
        "data": json_values,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "b"]), json_values, max_size=2)
        | json_values,
    },
)


@given(st.lists(fields, max_size=2), json_values, st.binary(max_size=8))
def test_any_json(inputs: list[Any], outputs: Any, blob: bytes) -> None:
    import json

    head = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    survives(head + blob, len(head))
