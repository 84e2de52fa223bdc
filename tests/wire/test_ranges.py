"""Ranges of bytes: what they mean within a blob, and what is no range of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import BadRange
from tetherd.wire.ranges import byte_range


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 40))
def test_a_range_is_what_it_says_within_the_blob(first: int, last: int, size: int) -> None:
    if first <= last and first < size:
        assert byte_range(f"bytes={first}-{last}", size) == (first, min(last + 1, size))
    else:
        with pytest.raises(BadRange):
            byte_range(f"bytes={first}-{last}", size)


def test_a_range_without_an_end_goes_to_the_end() -> None:
    assert byte_range("bytes=7-", 10) == (7, 10)


@pytest.mark.parametrize("text", ["", "bytes=-5", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=0-" + "9" * 20])
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(BadRange):
        byte_range(text, 10)
