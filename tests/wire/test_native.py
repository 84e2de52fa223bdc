"""The native form: shapes from nesting, datatypes from the signature."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import InvalidInput
from tetherd.types import Signature, Tensor, TensorSpec
from tetherd.wire import jsondata, native, tensors

ONE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (), batchable=True)
TWO = Signature((TensorSpec("x", "FP32", (-1, 2)), TensorSpec("s", "BYTES", (-1,))), (), batchable=True)


def decode(text: bytes, signature: Signature = ONE) -> list[Tensor]:
    return native.decode(jsondata.parse(text), signature).inputs


@pytest.mark.parametrize(
    "text",
    [b"[[1,2],[3,4]]", b'{"data":[[1,2],[3,4]]}', b'{"inputs":[[1,2],[3,4]]}', b'{"inputs":{"x":[[1,2],[3,4]]}}'],
)
def test_a_model_with_one_input_takes_it_bare(text: bytes) -> None:
    (tensor,) = decode(text)
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", "FP32", (2, 2))
    assert tensors.to_numpy(tensor).tolist() == [[1, 2], [3, 4]]


def test_inputs_by_name() -> None:
    x, s = decode(b'{"inputs":{"x":[[1,2]],"s":["a"]},"id":"7"}', TWO)
    assert x.shape == (1, 2)
    assert tensors.unpack(s) == [b"a"]
    assert native.decode(jsondata.parse(b'{"data":[[1,2]],"id":"7"}'), ONE).id == "7"


def test_scalars_have_no_shape() -> None:
    (tensor,) = decode(b"5")
    assert tensor.shape == ()
    assert tensors.to_numpy(tensor) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[[1,2],[3]]", "nest unevenly"),
        (b"[[1,2],[3,4,5],[6]]", "nest unevenly"),
        (b"[1,[2]]", "nest unevenly"),
        (b"[[1],2]", "nest unevenly"),
        (b"[[[1],[2]],[[3],4]]", "nest unevenly"),
        (b'{"x":[[1,2]]}', "neither inputs nor data"),
        (b'{"inputs":{"y":[1]}}', "unexpected input 'y'"),
        (b'{"inputs":{"x":{"a":1}}}', "got an object"),
        (b'{"inputs":{"x":[[1,"a"]]}}', "element 1 is a string"),
        (b"null", "element 0 is null"),
        (b'{"inputs":{"x":[[1,2]],"x":[[1,2]]}}', "more than once"),
    ],
)
def test_what_is_no_tensor_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode(text)


def test_a_model_with_two_inputs_wants_names() -> None:
    with pytest.raises(InvalidInput, match="name them"):
        decode(b"[[1,2]]", TWO)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"inputs":[{"name":"x"}]}', True),
        (b'{"inputs":[]}', True),
        (b'{"inputs":[[1]]}', False),
        (b'{"inputs":{"x":1}}', False),
        (b'{"data":[{}]}', False),
        (b"[{}]", False),
        (b"1", False),
    ],
)
def test_open_inference_is_recognised_by_its_inputs(text: bytes, expected: bool) -> None:
    assert native.is_open_inference(jsondata.parse(text)) is expected


shapes = st.lists(st.integers(0, 3), min_size=1, max_size=3)


@given(shapes, st.sampled_from(["FP32", "INT64", "BOOL", "BYTES", "FP16", "BF16"]))
def test_answers_nest_as_requests_do(shape: list[int], datatype: str) -> None:
    count = 1
    for size in shape:
        count *= size
    data = tensors.pack([b"a"] * count) if datatype == "BYTES" else bytes(count * (tensors.size(datatype, [1]) or 0))
    tensor = Tensor("x", datatype, tuple(shape), data)
    document = orjson.loads(native.encode([tensor], {"model": "m"}))
    signature = Signature((TensorSpec("x", datatype, tuple(shape)),), ())
    (again,) = decode(orjson.dumps({"inputs": document["outputs"]}), signature)
    if 0 not in shape[:-1]:  # the lists of an empty dimension do not say what they would hold
        assert again == tensor


def test_a_scalar_answer_is_bare() -> None:
    texts = Tensor("s", "BYTES", (), tensors.pack([b"a"]))
    number = Tensor("n", "FP32", (), b"\0\0\x80\x3f")
    assert orjson.loads(native.encode([texts, number], {})) == {"outputs": {"s": "a", "n": 1.0}}


def test_non_finite_answers_are_refused() -> None:
    with pytest.raises(InvalidInput, match="NaN"):
        native.encode([Tensor("n", "FP32", (1,), b"\0\0\xc0\x7f")], {})
