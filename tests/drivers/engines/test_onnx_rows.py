import onnxruntime
import pytest
from onnx import TensorProto, helper

from tetherd.drivers.engines.onnx_rows import rows_mix

FLOAT = TensorProto.FLOAT


def session(nodes, inputs, outputs, tensors=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def one(node, shape=("N", 4), kind=FLOAT, given=FLOAT):
    return session([node], [("x", given, list(shape))], [("y", kind, list(shape))])


@pytest.mark.parametrize(
    "loaded",
    [
        one(helper.make_node("Softmax", ["x"], ["y"], axis=1)),
        one(helper.make_node("Relu", ["x"], ["y"]), shape=("N", "C", "H")),
        one(helper.make_node("Not", ["x"], ["y"]), kind=TensorProto.BOOL, given=TensorProto.BOOL),
        one(helper.make_node("Identity", ["x"], ["y"]), kind=TensorProto.STRING, given=TensorProto.STRING),
        one(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT32), kind=TensorProto.INT32),
    ],
)
def test_rows_that_leave_each_other_alone_may_be_batched(loaded):
    assert not rows_mix(loaded, 5)


@pytest.mark.parametrize(
    "loaded",
    [
        one(helper.make_node("Softmax", ["x"], ["y"], axis=0)),
        one(helper.make_node("Softmax", ["x"], ["y"], axis=0), shape=("N",)),
        one(helper.make_node("MeanVarianceNormalization", ["x"], ["y"], axes=[0, 2, 3]), shape=("N", 2, 4, 4)),
        one(helper.make_node("Concat", ["x", "x"], ["y"], axis=0), shape=("N", 4)),
        one(helper.make_node("RandomNormalLike", ["x"], ["y"])),
        session(
            [helper.make_node("RNN", ["x", "w", "r"], ["y"], hidden_size=2)],
            [("x", FLOAT, ["N", 1, 2])],
            [("y", FLOAT, ["N", 1, 1, 2])],
            [helper.make_tensor(name, FLOAT, [1, 2, 2], [0.5] * 4) for name in "wr"],
        ),
        session(
            [helper.make_node("CumSum", ["x", "axis"], ["y"])],
            [("x", FLOAT, ["N", 4])],
            [("y", FLOAT, ["N", 4])],
            [helper.make_tensor("axis", TensorProto.INT64, [], [0])],
        ),
    ],
)
def test_rows_that_change_each_other_may_not(loaded):
    assert rows_mix(loaded, 5)


def test_a_model_that_does_not_run_on_made_up_inputs_is_left_to_its_graph():
    picky = session(
        [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)],
        [("x", TensorProto.INT64, ["N", 1])],
        [("y", FLOAT, ["N", 1])],
        [helper.make_tensor("table", FLOAT, [1], [1.0])],
    )
    assert not rows_mix(picky, 5)


def test_a_free_size_that_does_not_fit_is_tried_larger():
    """A 16 by 16 kernel cannot slide over 8 pixels; over 64 it shows that the rows mix."""
    pooled = session(
        [
            helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[16, 16]),
            helper.make_node("Softmax", ["p"], ["y"], axis=0),
        ],
        [("x", FLOAT, ["N", 1, "H", "W"])],
        [("y", FLOAT, ["N", 1, "h", "w"])],
    )
    assert rows_mix(pooled, 5)


def test_a_model_that_never_ends_is_stopped():
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("w", FLOAT, None)],
    )
    endless = session(
        [helper.make_node("Loop", ["", "go", "x"], ["y"], body=body)],
        [("x", FLOAT, ["N", 4])],
        [("y", FLOAT, ["N", 4])],
        [helper.make_tensor("go", TensorProto.BOOL, [], [True])],
    )
    assert not rows_mix(endless, 0.1)
