"""What the child finds in a model. Runs in this process; test_inspect.py holds what needs the child's limits."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tetherd.drivers.engines.onnx_inspect import inspect
from tetherd.errors import ModelInvalid
from tetherd.types import DATATYPES, TensorSpec

FLOAT = TensorProto.FLOAT


def value(name, kind=FLOAT, shape=("N", 4)):
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))


def model(nodes, inputs, outputs, tensors=(), **more):
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, **{"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 9, **more})


def relu(shape=("N", 4), out=None):
    return model([helper.make_node("Relu", ["x"], ["y"])], [value("x", shape=shape)], [value("y", shape=out or shape)])


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Inspect a model or bytes the way the child does: by a bare name in its directory."""
    monkeypatch.chdir(tmp_path)

    def look(content):
        data = content if isinstance(content, bytes) else content.SerializeToString()
        (tmp_path / "model.onnx").write_bytes(data)
        return inspect(Path("model.onnx"))

    return look


def refused(look, content, reason):
    with pytest.raises(ModelInvalid, match=reason) as caught:
        look(content)
    assert caught.value.fix
    assert len(caught.value.message) < 500
    assert caught.value.message.isprintable()


def test_the_signature_comes_from_the_graph(look):
    signature = look(relu(("N", "C", 3, None)))
    assert signature.inputs == (TensorSpec("x", "FP32", (-1, -1, 3, -1)),)
    assert signature.outputs == (TensorSpec("y", "FP32", (-1, -1, 3, -1)),)
    assert signature.batchable


@pytest.mark.parametrize("kind", sorted(set(DATATYPES) - {"BF16"}))
def test_every_datatype_has_its_name(look, kind):
    names = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BYTES": "STRING"}
    number = TensorProto.DataType.Value(names.get(kind, kind))
    found = look(model([helper.make_node("Identity", ["x"], ["y"])], [value("x", number)], [value("y", number)]))
    assert (found.inputs[0].datatype, found.outputs[0].datatype) == (kind, kind)
    assert found.batchable


def test_bfloat16_has_its_name(look):
    node = helper.make_node("Cast", ["x"], ["y"], to=FLOAT)
    assert look(model([node], [value("x", TensorProto.BFLOAT16)], [value("y")])).inputs[0].datatype == "BF16"


def add(first, second, out):
    return model([helper.make_node("Add", ["a", "b"], ["y"])], [value("a", shape=first), value("b", shape=second)], [
        value("y", shape=out)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("content", "batchable"),
    [
        (relu(), True),
        (relu((None, 4)), True),
        (relu(("N",)), True),
        (relu((2, 4)), False),
        (relu(()), False),
        (relu((1, "N")), False),
        (relu(("N", 4), ("M", 4)), False),
        (relu(("N", 4), (None, 4)), True),
        (add(("N", 4), ("N", 4), ("N", 4)), True),
        (add(("N", 4), ("M", 4), ("N", 4)), False),
        (add(("N", 4), (1, 4), ("N", 4)), False),
        (add(("N", 4), (), ("N", 4)), False),
        (model([helper.make_node("Constant", [], ["y"], value_floats=[1.0])], [], [value("y", shape=(1,))]), False),
        (model([helper.make_node("Softmax", ["x"], ["y"], axis=0)], [value("x")], [value("y")]), False),
        (model([helper.make_node("NonZero", ["x"], ["y"])], [value("x")], [value("y", TensorProto.INT64, (2, "M"))]),
         False),
        (model([helper.make_node("Shape", ["x"], ["y"])], [value("x")], [value("y", TensorProto.INT64, (2,))]), False),
    ],
)  # fmt: skip
def test_only_models_whose_first_dimension_is_rows_everywhere_are_batchable(look, content, batchable):
    assert look(content).batchable is batchable


def test_an_input_with_an_initializer_is_optional(look):
    bias = helper.make_tensor("b", FLOAT, [4], [1.0] * 4)
    node = helper.make_node("Add", ["x", "b"], ["y"])
    found = look(model([node], [value("x"), value("b", shape=(4,))], [value("y")], [bias]))
    assert [(item.name, item.optional) for item in found.inputs] == [("x", False), ("b", True)]
    assert not found.batchable


def test_negative_dimensions_are_free(look):
    content = relu()
    for item in (*content.graph.input, *content.graph.output):
        item.type.tensor_type.shape.dim[0].dim_value = -1
    assert look(content).inputs[0].shape == (-1, 4)


def test_external_data_beside_the_model_is_loaded(look, tmp_path):
    weight = numpy_helper.from_array(np.eye(4, dtype="f4"), "w")
    content = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x")], [value("y")], [weight])
    onnx.save(content, tmp_path / "saved.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert look((tmp_path / "saved.onnx").read_bytes()).batchable
    (tmp_path / "w.bin").unlink()
    refused(look, (tmp_path / "saved.onnx").read_bytes(), "not one of the model's files")


@pytest.mark.parametrize(
    "content",
    [b"", bytes(1000), b'{"graph": {}}', relu().SerializeToString()[:-20], b"PK\x03\x04" + bytes(100),
     b"\x80\x02cos\nsystem\n", b"\x08\x09" + b"\x3a\xff\xff\xff\xff\x0f", b"\n" * 100_000],
)  # fmt: skip
def test_what_is_not_onnx_is_refused(look, content):
    with pytest.raises(ModelInvalid):
        look(content)


def test_flipped_bits_are_refused_or_still_a_model(look):
    data = relu().SerializeToString()
    for position in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        with contextlib.suppress(ModelInvalid):
            look(bytes(flipped))


def sequence():
    content = model([helper.make_node("SequenceConstruct", ["x"], ["s"])], [value("x")], [value("s")])
    content.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("s", FLOAT, None))
    return content


def cyclic():
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    return model(nodes, [value("x")], [value("b")])


def shaped(dims, raw=b""):
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, raw_data=raw)
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [value("x")], [value("y")], [tensor])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (sequence(), "output 's' is of type sequence"),
        (model([helper.make_node("Relu", ["x"], ["y"])], [value("x")], []), "no outputs"),
        (model([helper.make_node("Relu", ["x"], ["y"])], [value("x")], [value("y", shape=None)]), "'y' has no shape"),
        (model([helper.make_node("Identity", ["x"], ["y"])], [value("x", TensorProto.COMPLEX64)],
               [value("y", TensorProto.COMPLEX64)]), "COMPLEX64"),
        (model([helper.make_node("Identity", ["x"], ["y"])], [value("x", 99)], [value("y", 99)]), "type 99"),
        (model([helper.make_node("Relu", ["x" * 2000], ["y"])], [value("x" * 2000)], [value("y")]), "longer than"),
        (model([helper.make_node("Relu", ["x0"], ["y"])], [value(f"x{i}") for i in range(1001)], [value("y")]),
         "1,001 inputs"),
        (model([helper.make_node("Relu", ["x"], ["y"])], [value("x")], [value("y")] * 1001), "1,001 outputs"),
        (cyclic(), "does not load"),
        (model([helper.make_node("NoSuchThing", ["x"], ["y"])], [value("x")], [value("y")]), "NoSuchThing"),
        (model([helper.make_node("Evil", ["x"], ["y"], domain="evil")], [value("x")], [value("y")],
               opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]), "Evil"),
        (model([helper.make_node("Relu", ["x"], ["y"])], [value("x")], [value("y")], ir_version=999), "does not load"),
        (model([helper.make_node("Relu", ["x"], ["y"])], [value("x")], [value("y")],
               opset_imports=[helper.make_opsetid("", 9999)]), "does not load"),
        (shaped([1 << 40]), "does not load"),
        (shaped([1 << 32, 1 << 32]), "does not load"),
        (shaped([-1]), "does not load"),
        (shaped([1] * 100_000), "does not load"),
        (shaped([4], b"1234"), "does not load"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_served_are_refused_with_the_reason(look, content, reason):
    with pytest.raises(ModelInvalid, match=reason) as caught:
        look(content)
    assert caught.value.fix
    assert len(caught.value.message) < 500
    assert caught.value.message.isprintable()


def test_deep_nesting_is_refused(look):
    graph = b""
    for _ in range(5_000):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # a graph in an attribute in a node in a graph
            graph = tag + varint(len(graph)) + graph
    with pytest.raises(ModelInvalid):
        look(relu().SerializeToString() + b"\x3a" + varint(len(graph)) + graph)


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_a_library_named_by_the_model_is_not_loaded(look):
    node = helper.make_node(
        "EPContext",
        ["x"],
        ["y"],
        domain="com.microsoft",
        embed_mode=0,
        ep_cache_context="../../evil.so",
        main_context=1,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    with pytest.raises(ModelInvalid):
        look(model([node], [value("x")], [value("y")], opset_imports=opsets))


def test_labels_are_the_lines_of_the_file_beside_the_model(look, tmp_path):
    (tmp_path / "labels.txt").write_bytes("\ufeffzero\r\none two\n\nthree\n\n".encode())
    assert look(relu()).labels == ("zero", "one two", "", "three")
    (tmp_path / "labels.txt").write_bytes(b"\n")
    assert look(relu()).labels == ()


@pytest.mark.parametrize(
    ("labels", "reason"), [(b"\xff\xfe", "UTF-8"), (b"a" * ((1 << 20) + 1), "limit"), (b"a\n" * 100_001, "100,001")]
)
def test_labels_that_are_no_labels_are_refused(look, tmp_path, labels, reason):
    (tmp_path / "labels.txt").write_bytes(labels)
    refused(look, relu(), reason)


def test_bfloat16_and_strings_together_are_refused(look):
    both = [
        helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["n"]),
        helper.make_tensor_value_info("s", TensorProto.STRING, ["n"]),
    ]
    outs = [
        helper.make_tensor_value_info("y", TensorProto.BFLOAT16, ["n"]),
        helper.make_tensor_value_info("t", TensorProto.STRING, ["n"]),
    ]
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["s"], ["t"])]
    graph = helper.make_graph(nodes, "g", both, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    refused(look, model.SerializeToString(), "bfloat16 and string")
