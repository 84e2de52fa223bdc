import os
from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto, helper

from tetherd.drivers.engines.onnx_external import check_external_data
from tetherd.errors import ModelInvalid


def external(**entries: str) -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_of(*nodes: onnx.NodeProto, tensors: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "g", [], [], tensors)


def in_initializer(tensor):
    return helper.make_model(graph_of(tensors=(tensor,)))


def in_constant(tensor):
    return helper.make_model(graph_of(helper.make_node("Constant", [], ["c"], value=tensor)))


def in_subgraph(tensor):
    inner = graph_of(helper.make_node("If", ["x"], ["y"], then_branch=graph_of(tensors=(tensor,))))
    return helper.make_model(graph_of(helper.make_node("If", ["x"], ["y"], else_branch=inner)))


def in_graph_list(tensor):
    return helper.make_model(graph_of(helper.make_node("Custom", [], ["c"], graphs=[graph_of(tensors=(tensor,))])))


def in_tensor_list(tensor):
    node = helper.make_node("Custom", [], ["c"])
    node.attribute.add(name="t", type=onnx.AttributeProto.TENSORS).tensors.append(tensor)
    return helper.make_model(graph_of(node))


def in_sparse(tensor):
    model = helper.make_model(graph_of())
    model.graph.sparse_initializer.add().indices.CopyFrom(tensor)
    return model


def in_function(tensor):
    model = helper.make_model(graph_of())
    body = helper.make_node("If", ["x"], ["y"], then_branch=graph_of(tensors=(tensor,)))
    model.functions.add(name="f", domain="d").node.append(body)
    return model


def in_function_default(tensor):
    model = helper.make_model(graph_of())
    model.functions.add(name="f", domain="d").attribute_proto.append(helper.make_attribute("value", tensor))
    return model


def in_training(tensor):
    model = helper.make_model(graph_of())
    model.training_info.add().initialization.initializer.append(tensor)
    return model


PLACES = [
    in_initializer, in_constant, in_subgraph, in_graph_list, in_tensor_list, in_sparse, in_function,
    in_function_default, in_training,
]  # fmt: skip


@pytest.fixture
def home(tmp_path):
    directory = tmp_path / "model"
    (directory / "parts").mkdir(parents=True)
    (directory / "weights").write_bytes(bytes(8))
    (directory / "parts" / "more").write_bytes(bytes(8))
    (tmp_path / "secret").write_bytes(b"SECRETSE")
    return directory


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_can_hide(home, place):
    check_external_data(place(external(location="weights")), home)
    with pytest.raises(ModelInvalid, match="outside"):
        check_external_data(place(external(location="../secret")), home)


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "weights"},
        {"location": "./weights"},
        {"location": "parts/more", "offset": "4", "length": "4"},
        {"location": "weights", "offset": "8", "length": "0"},
        {"location": "weights", "checksum": "abc"},
    ],
)
def test_plain_files_inside_are_accepted(home, entries):
    check_external_data(in_initializer(external(**entries)), home)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({}, "no location"),
        ({"location": ""}, "no location"),
        ({"location": "../secret"}, "outside"),
        ({"location": "parts/../../secret"}, "outside"),
        ({"location": "parts/../weights"}, "outside"),
        ({"location": "/etc/passwd"}, "outside"),
        ({"location": "/dev/zero"}, "outside"),
        ({"location": "..\\secret"}, "outside"),
        ({"location": "weights\0"}, "outside"),
        ({"location": "*/_ORT_MEM_ADDR_/*"}, "memory"),
        ({"location": "x/" * 3000}, "too long"),
        ({"location": "missing"}, "not one of the model's files"),
        ({"location": "n" * 300}, "not one of the model's files"),
        ({"location": "parts"}, "not a regular file"),
        ({"location": "weights", "offset": "-1"}, "not a count"),
        ({"location": "weights", "offset": "1e3"}, "not a count"),
        ({"location": "weights", "offset": "٣"}, "not a count"),
        ({"location": "weights", "length": "9" * 5000}, "not a count"),
        ({"location": "weights", "length": str(1 << 62)}, "beyond the end"),
        ({"location": "weights", "offset": "4", "length": "5"}, "beyond the end"),
        ({"location": "weights", "offset": "9"}, "beyond the end"),
    ],
)
def test_everything_else_is_refused_with_its_reason(home, entries, reason):
    with pytest.raises(ModelInvalid, match=reason) as caught:
        check_external_data(in_initializer(external(**entries)), home)
    assert str(home) not in caught.value.message
    assert len(caught.value.message) < 400


def test_entries_count_even_where_the_tensor_does_not_call_itself_external(home):
    tensor = external(location="../secret")
    tensor.data_location = TensorProto.DEFAULT
    with pytest.raises(ModelInvalid):
        check_external_data(in_initializer(tensor), home)


def test_a_key_given_twice_is_refused(home):
    tensor = external(location="weights")
    tensor.external_data.add(key="location", value="../secret")
    with pytest.raises(ModelInvalid, match="twice"):
        check_external_data(in_initializer(tensor), home)


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo", "directory link"])
def test_links_and_special_files_are_refused(home, tmp_path, kind):
    trap = home / "trap"
    make: dict[str, Callable[[], object]] = {
        "symlink": lambda: trap.symlink_to(tmp_path / "secret"),
        "hardlink": lambda: trap.hardlink_to(tmp_path / "secret"),
        "fifo": lambda: os.mkfifo(trap),
        "directory link": lambda: trap.symlink_to(tmp_path),
    }
    make[kind]()
    location = "trap/secret" if kind == "directory link" else "trap"
    with pytest.raises(ModelInvalid):
        check_external_data(in_initializer(external(location=location)), home)
