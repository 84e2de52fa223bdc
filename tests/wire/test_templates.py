"""Templates must answer exactly what reading in full answers, for any text that resembles one they know."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import InvalidInput
from tetherd.types import Signature, TensorSpec
from tetherd.wire import openinference
from tetherd.wire.inference import Prepared, prepare
from tetherd.wire.templates import MAX_TEMPLATES, Templates, learn

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 2)),), batchable=True)


def body(data: Any = (1, 2.5, 3), **more: Any) -> bytes:
    head = {"name": "x", "datatype": "FP32", "shape": [1, 3], **more.pop("of_input", {})}
    return json.dumps({"inputs": [{**head, "data": data}], **more}).encode()


def plain(prepared: Prepared) -> Prepared:
    """Return a request whose tensors stand in one place only: those that were read are not kept by a template."""
    return msgspec.structs.replace(prepared, request=msgspec.structs.replace(prepared.request, inputs=[]))


def in_full(text: bytes) -> Prepared | None:
    try:
        return plain(prepare(openinference.decode(text, None), SIGNATURE))
    except InvalidInput:
        return None


def read(templates: Templates, text: bytes) -> Prepared | None:
    try:
        return plain(templates.read(text))
    except InvalidInput:
        return None


def known(*texts: bytes) -> Templates:
    templates = Templates(SIGNATURE)
    for text in texts:
        templates.read(text)
    return templates


def test_a_request_with_other_numbers_is_recognised() -> None:
    first = prepare(openinference.decode(body(), None), SIGNATURE)
    template = learn(body(), first)
    assert template is not None
    filled = template.fill(body([7, 8, 9]))
    assert filled == in_full(body([7, 8, 9]))
    assert filled is not None
    assert filled.wanted is first.wanted  # nothing was decided again


@pytest.mark.parametrize(
    "text",
    [
        body([[1, 2, 3]]),
        body([1, 2]),
        body([1, 2, 3, 4]),
        body([1, "2", 3]),
        body([1, True, 3]),
        body([1, None, 3]),
        body([1, 1e300, 3]),
        body().replace(b"[1, 2.5, 3]", b'[1, 2.5, 3], "data": [4, 5, 6]'),
        body().replace(b"[1, 2.5, 3]", b'[1], "shape": [1, 3], "parameters": {}, "x": [1, 2.5, 3]'),
        body().replace(b"[1, 2.5, 3]", b"{}"),
        body().replace(b"[1, 2.5, 3]", b"[1, 2.5, 3]]"),
        body().replace(b"[1, 2.5, 3]", b""),
        body()[:-1],
        body() + b" ",
        body() + b"x",
    ],
)
def test_what_resembles_a_template_is_read_as_strictly_as_without(text: bytes) -> None:
    assert read(known(body()), text) == in_full(text)


@given(st.data())
def test_mutations_are_read_alike(data: st.DataObject) -> None:
    text = bytearray(body())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"[", b"]", b",", b'"', b"1", b"}"])
        )
    assert read(known(body()), bytes(text)) == in_full(bytes(text))


def test_a_request_with_an_id_or_an_empty_tensor_makes_none() -> None:
    with_id, empty = body(id="7"), body([], of_input={"shape": [0, 3]})
    for text in (with_id, empty):
        assert learn(text, prepare(openinference.decode(text, None), SIGNATURE)) is None
        assert read(known(text), text) == in_full(text)


def test_there_are_only_so_many() -> None:
    kinds = [body(parameters={"tag": number}) for number in range(MAX_TEMPLATES + 5)]
    templates = known(*kinds)
    assert len(templates._known) == MAX_TEMPLATES
    assert [read(templates, text) for text in kinds] == [in_full(text) for text in kinds]


def binary(
    shape: tuple[int, ...] = (1, 3), size: int | None = None, blobs: bytes | None = None, **more: Any
) -> tuple[bytes, int]:
    size = 4 * shape[0] * shape[1] if size is None else size
    one = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [one], **more}).encode()
    return head + (bytes(range(size)) if blobs is None else blobs), len(head)


def read_binary(templates: Templates, text: bytes, length: int) -> Prepared | None:
    try:
        return plain(templates.read_binary(text, length))
    except InvalidInput:
        return None


def binary_in_full(text: bytes, length: int) -> Prepared | None:
    try:
        return plain(prepare(openinference.decode(text, length), SIGNATURE))
    except InvalidInput:
        return None


@pytest.mark.parametrize(
    "request_",
    [
        binary(blobs=bytes(12)),
        binary((2, 3)),
        binary(blobs=bytes(11)),
        binary(blobs=bytes(13)),
        binary(size=8),
        binary(id="7"),
        binary((0, 3)),
        (binary()[0], 5),
        (binary()[0], 10_000),
    ],
)
def test_a_known_head_changes_nothing_but_the_time_it_takes(request_: tuple[bytes, int]) -> None:
    templates = Templates(SIGNATURE)
    templates.read_binary(*binary())
    templates.read_binary(*binary((2, 3)))
    for _ in range(2):
        assert read_binary(templates, *request_) == binary_in_full(*request_)


def test_a_head_is_read_once() -> None:
    templates = Templates(SIGNATURE)
    first = templates.read_binary(*binary())
    again = templates.read_binary(*binary(blobs=bytes(12)))
    assert again.wanted is first.wanted
    assert bytes(again.inputs[0].data) == bytes(12)
    assert len(templates._heads) == 1


def test_mixed_requests_are_read_in_full() -> None:
    signature = Signature(
        (TensorSpec("x", "FP32", (-1,)), TensorSpec("y", "FP32", (-1,))),
        (TensorSpec("z", "FP32", (-1,)),),
        batchable=True,
    )
    x = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
    y = {"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    templates = Templates(signature)
    for inputs in ([x, y], [y, x]):
        head = json.dumps({"inputs": inputs}).encode()
        prepared = templates.read_binary(head + bytes(4), len(head))
        assert [one.name for one in prepared.inputs] == ["x", "y"]
    assert not templates._heads
