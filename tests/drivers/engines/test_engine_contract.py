"""What every engine promises, whatever runs its models. A new engine joins by a line in ``ENGINES``.

Each engine here returns input ``a`` as output ``first`` and ``b`` as ``second``.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tetherd.drivers.engines.onnx import OnnxEngine
from tetherd.errors import InvalidInput, TetherError
from tetherd.ports import Engine
from tetherd.testing import FakeEngine
from tetherd.types import Signature, Tensor, TensorSpec
from tetherd.wire import tensors

SIGNATURE = Signature(
    (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1,))),
    (TensorSpec("first", "FP32", (-1, 2)), TensorSpec("second", "INT64", (-1,))),
    batchable=True,
)
A = tensors.from_numpy("a", np.array([[1.5, -2.0], [0.0, 3.0], [4.0, 5.0]], np.float32))
B = tensors.from_numpy("b", np.array([7, 8, 9], np.int64))


def fake(_: Path) -> Engine:
    def answer(inputs: list[Tensor]) -> list[Tensor]:
        given = {tensor.name: tensor for tensor in inputs}
        if given.keys() != {"a", "b"} or given["b"].datatype != "INT64":
            raise InvalidInput("not the model's inputs")
        outputs = zip(SIGNATURE.outputs, (given["a"], given["b"]), strict=True)
        return [Tensor(spec.name, one.datatype, one.shape, one.data) for spec, one in outputs]

    return FakeEngine(SIGNATURE, answer)


def onnxruntime(folder: Path) -> Engine:
    value, node = helper.make_tensor_value_info, helper.make_node
    graph = helper.make_graph(
        [node("Identity", ["b"], ["second"]), node("Identity", ["a"], ["first"])],
        "contract",
        [value("a", TensorProto.FLOAT, ["n", 2]), value("b", TensorProto.INT64, ["n"])],
        [value("second", TensorProto.INT64, ["n"]), value("first", TensorProto.FLOAT, ["n", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return OnnxEngine(folder / "model.onnx", SIGNATURE, 1)


ENGINES: tuple[Callable[[Path], Engine], ...] = (fake, onnxruntime)


@pytest.fixture(params=ENGINES, ids=lambda make: make.__name__)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    made: Engine = request.param(tmp_path)
    return made


def answers(engine: Engine) -> None:
    outputs, spent = engine.execute([A, B], 10.0)
    assert outputs == [
        Tensor("first", A.datatype, A.shape, A.data),
        Tensor("second", B.datatype, B.shape, B.data),
    ]
    assert len(spent) == 3
    assert all(isinstance(ns, int) and 0 <= ns < 10**10 for ns in spent)


def test_it_says_what_it_takes_and_what_it_weighs(engine: Engine) -> None:
    assert engine.signature == SIGNATURE
    assert engine.bytes >= 0


def test_outputs_come_in_the_signatures_order_with_the_time_they_took(engine: Engine) -> None:
    for _ in range(3):
        answers(engine)


def test_no_rows_are_answered_with_no_rows(engine: Engine) -> None:
    none = [Tensor("a", "FP32", (0, 2), b""), Tensor("b", "INT64", (0,), b"")]
    outputs, _ = engine.execute(none, 10.0)
    assert [(one.name, one.shape, bytes(one.data)) for one in outputs] == [
        ("first", (0, 2), b""),
        ("second", (0,), b""),
    ]


@pytest.mark.parametrize(
    "inputs",
    [[A], [], [A, tensors.from_numpy("b", np.array([1.0, 2.0, 3.0], np.float32))]],
    ids=["one", "none", "type"],
)
def test_what_it_cannot_execute_is_an_error_in_our_words_and_harms_nothing(
    engine: Engine, inputs: list[Tensor]
) -> None:
    with pytest.raises(TetherError):
        engine.execute(inputs, 10.0)
    answers(engine)


def test_ending_and_watching_what_does_not_execute_is_harmless(engine: Engine) -> None:
    for _ in range(2):
        engine.end(time.monotonic())
        assert engine.watch(time.monotonic() + 1e6) == 0.0
        answers(engine)
    assert engine.watch(time.monotonic() + 1e6) == 0.0
