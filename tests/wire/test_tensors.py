"""Tensors as bytes: round trips of every datatype, splitting, joining, and sizes that cannot be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import InvalidInput
from tetherd.types import DATATYPES, Tensor
from tetherd.wire import tensors

FIXED = [name for name, kind in DATATYPES.items() if kind.size]


@st.composite
def any_tensor(draw: st.DrawFn, min_rank: int = 0) -> Tensor:
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=min_rank, max_size=3)))
    count = int(np.prod(shape, dtype=int))
    if datatype == "BYTES":
        return Tensor(
            "x", datatype, shape, tensors.pack(draw(st.lists(st.binary(max_size=6), min_size=count, max_size=count)))
        )
    size = count * DATATYPES[datatype].size
    return Tensor("x", datatype, shape, draw(st.binary(min_size=size, max_size=size)))


@given(any_tensor())
def test_every_datatype_survives_numpy(tensor: Tensor) -> None:
    tensors.check(tensor)
    again = tensors.from_numpy("x", tensors.to_numpy(tensor), "BF16" if tensor.datatype == "BF16" else "")
    assert again == tensor


@given(any_tensor(min_rank=1), st.data())
def test_rows_that_were_split_join_to_the_same_tensor(tensor: Tensor, data: st.DataObject) -> None:
    rest, counts = tensor.shape[0], []
    while rest:
        counts.append(data.draw(st.integers(0, rest)))
        rest -= counts[-1]
    parts = tensors.rows(tensor, counts or [0])
    assert [part.shape[0] for part in parts] == (counts or [0])
    for part in parts:
        tensors.check(part)
    assert tensors.concat(parts) == tensor


def test_rows_of_fixed_size_share_memory() -> None:
    tensor = tensors.from_numpy("x", np.arange(12, dtype="<f4").reshape(4, 3))
    first, second = tensors.rows(tensor, [1, 3])
    assert isinstance(second.data, memoryview)
    assert np.shares_memory(np.frombuffer(second.data, "<f4"), np.frombuffer(tensor.data, "<f4"))
    assert first.shape == (1, 3)


def test_a_single_tensor_passes_unchanged() -> None:
    tensor = Tensor("x", "UINT8", (2,), b"ab")
    assert tensors.concat([tensor]) is tensor
    assert tensors.rows(tensor, [2])[0] is tensor


@pytest.mark.parametrize("counts", [[], [1], [3], [1, 2]])
def test_rows_must_add_up(counts: list[int]) -> None:
    with pytest.raises(InvalidInput, match="cannot be split"):
        tensors.rows(Tensor("x", "UINT8", (2,), b"ab"), counts)


@pytest.mark.parametrize(
    "other", [Tensor("x", "INT8", (1,), b"a"), Tensor("x", "UINT8", (1, 1), b"a"), Tensor("x", "UINT8", (), b"a")]
)
def test_tensors_of_different_rows_do_not_join(other: Tensor) -> None:
    with pytest.raises(InvalidInput, match="cannot join"):
        tensors.concat([Tensor("x", "UINT8", (1,), b"a"), other])


@pytest.mark.parametrize("shape", [(10**9,), (2**32, 2**32), (2**62, 4), (2**63,)])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "UINT8"])
def test_impossible_sizes_are_refused_before_anything_is_allocated(datatype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"takes|holds"):
        tensors.check(Tensor("x", datatype, shape, b"abc"))


def test_negative_dimensions_and_unknown_datatypes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="negative"):
        tensors.check(Tensor("x", "FP32", (-1, -1), b"abcd"))
    with pytest.raises(InvalidInput, match="unknown datatype 'FP31'"):
        tensors.check(Tensor("x", "FP31", (1,), b"abcd"))


@given(st.binary(max_size=64), st.integers(0, 8))
def test_bytes_elements_fill_the_data_or_are_refused(data: bytes, count: int) -> None:
    tensor = Tensor("x", "BYTES", (count,), data)
    try:
        items = tensors.unpack(tensor)
    except InvalidInput:
        return
    assert tensors.pack(items) == data


def test_strings_and_objects_become_bytes() -> None:
    expected = tensors.pack([b"a", "ü".encode()])
    assert tensors.from_numpy("x", np.array(["a", "ü"])).data == expected
    assert tensors.from_numpy("x", np.array([b"a", "ü"], dtype=object)).data == expected


def test_big_endian_and_strided_arrays_are_put_in_order() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    assert bytes(tensors.from_numpy("x", array).data) == array.astype("<i4").tobytes()
