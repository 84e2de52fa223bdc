"""The engine's messages, as it really writes them, and what is left of them."""

from pathlib import Path

import pytest

from tetherd.drivers.engines.onnx_words import LONGEST, is_refusal, plain

ADD = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Add node. Name:'add' Status Message: "
    "/onnxruntime_src/onnxruntime/core/providers/cpu/math/element_wise_ops.h:563 void onnxruntime::BroadcastIterator::"
    "Init(ptrdiff_t, ptrdiff_t) axis == 1 || axis == largest was false. Attempting to broadcast an axis by a dimension "
    "other than 1. 2 by 3\n"
)
RESHAPE = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Reshape node. Name:'rs' Status "
    "Message: /onnxruntime_src/onnxruntime/core/providers/cpu/tensor/reshape_helper.h:91 onnxruntime::ReshapeHelper::"
    "ReshapeHelper(const onnxruntime::TensorShape&, onnxruntime::TensorShapeVector&, bool) input_shape_size == "
    "requested_shape_size was false. The input tensor cannot be reshaped to the requested shape. Input shape:{3}"
)

MATMUL = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node. Name:'mm' Status "
    "Message: matmul_helper.h:59 Compute MatMul dimension mismatch"
)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (ADD, "Add node 'add': Attempting to broadcast an axis by a dimension other than 1. 2 by 3"),
        (RESHAPE, "Reshape node 'rs': The input tensor cannot be reshaped to the requested shape. Input shape:{3}"),
        (MATMUL, "MatMul node 'mm': Compute MatMul dimension mismatch"),
        (
            "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/x.cc:84 void onnxruntime::f(int) size > 0 was false.",
            "size > 0 was false.",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /cache/a b/m.onnx failed:Fatal error: Odd is no known op",
            "Odd is no known op",
        ),
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x\n index: 1 Got: 3",
            "Got invalid dimensions for input: x index: 1 Got: 3",
        ),
        ("cannot open /cache/m/weights.bin", "cannot open weights.bin"),
        ("", "ValueError"),
    ],
)
def test_what_is_left_is_the_node_and_the_reason(said: str, left: str) -> None:
    assert plain(ValueError(said), Path("/cache/m")) == left


def test_a_long_reason_is_cut_between_words() -> None:
    text = plain(ValueError("reason " * 100))
    assert text.endswith("reason ...")
    assert len(text) <= LONGEST + 4
    assert len(plain(ValueError("x" * 10_000_000))) <= LONGEST + 4


def test_a_refusal_is_told_by_its_status_and_not_by_what_is_quoted() -> None:
    assert is_refusal(ValueError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Unexpected input data type"))
    assert not is_refusal(ValueError("[ONNXRuntimeError] : 1 : FAIL : node 'INVALID_ARGUMENT'"))
    assert not is_refusal(ValueError("INVALID_ARGUMENT"))
