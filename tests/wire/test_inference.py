"""Requests against signatures: names, datatypes, shapes, rows and outputs."""

import pytest

from tetherd.errors import InvalidInput
from tetherd.types import Signature, Tensor, TensorSpec
from tetherd.wire.inference import InferenceRequest, Wanted, bind, plan

A = TensorSpec("a", "FP32", (-1, 2))
B = TensorSpec("b", "INT32", (-1,), optional=True)
Y = TensorSpec("y", "FP32", (-1, 3))
PAIR = Signature((A, B), (Y, TensorSpec("h", "FP16", (-1, 1)), TensorSpec("s", "BYTES", (-1, 1))), batchable=True)
FIXED = Signature((TensorSpec("a", "FP32", (-1, 2)),), (Y,), batchable=False)


def a(rows: int = 1, width: int = 2, datatype: str = "FP32") -> Tensor:
    return Tensor("a", datatype, (rows, width), bytes(4 * rows * width))


def b(rows: int = 1) -> Tensor:
    return Tensor("b", "INT32", (rows,), bytes(4 * rows))


def test_inputs_come_in_the_order_of_the_signature() -> None:
    tensors, rows = bind([b(3), a(3)], PAIR)
    assert [tensor.name for tensor in tensors] == ["a", "b"]
    assert rows == 3


def test_optional_inputs_may_be_absent() -> None:
    tensors, rows = bind([a(2)], PAIR)
    assert [tensor.name for tensor in tensors] == ["a"]
    assert rows == 2


def test_models_that_do_not_batch_have_no_rows() -> None:
    assert bind([a(5)], FIXED)[1] == 0


def test_zero_rows_are_taken() -> None:
    assert bind([a(0)], PAIR)[1] == 0


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "input 'a' is missing: expected FP32 of shape"),
        ([b()], "input 'a' is missing"),
        ([a(), a()], "'a' is given more than once"),
        ([a(), Tensor("c", "FP32", (1,), bytes(4))], "unexpected input 'c'"),
        ([a(datatype="INT32")], "input 'a': expected datatype FP32, got INT32"),
        ([a(width=3)], r"input 'a': expected shape \[-1, 2\], got \[1, 3\]"),
        ([Tensor("a", "FP32", (2,), bytes(8))], r"expected shape \[-1, 2\], got \[2\]"),
        ([a(2), b(3)], "input 'b': expected 2 rows as in 'a', got 3"),
    ],
)
def test_what_does_not_fit_is_named(tensors: list[Tensor], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        bind(tensors, PAIR)
    assert caught.value.fix


def test_all_outputs_are_planned_when_none_is_named() -> None:
    request = InferenceRequest([], binary=True)
    assert plan(request, PAIR) == [Wanted("y", True), Wanted("h", True), Wanted("s", True)]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([Wanted("z")], "unexpected inference output 'z'"),
        ([Wanted("y"), Wanted("y")], "more than once"),
        ([Wanted("h")], "'h' is FP16, which JSON cannot carry"),
        ([Wanted("s", classes=2)], "cannot be classified"),
        (None, "'h' is FP16"),
    ],
)
def test_outputs_that_cannot_be_given_are_refused_before_the_model_runs(
    wanted: list[Wanted] | None, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        plan(InferenceRequest([], wanted=wanted), PAIR)


def test_a_half_precision_output_can_be_classified_in_json() -> None:
    assert plan(InferenceRequest([], wanted=[Wanted("h", classes=1)]), PAIR) == [Wanted("h", classes=1)]
