"""Heads of requests for blobs: what is understood, and that everything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.drivers.models.heads import parse
from tetherd.errors import InvalidInput


def test_a_head() -> None:
    found = parse(b"GET /blobs/x HTTP/1.1\r\nRange: bytes=1-2\r\nX: a\r\nX: b\r\n\r\n")
    assert (found.method, found.target) == ("GET", b"/blobs/x")
    assert found.headers == {b"range": b"bytes=1-2", b"x": b"a, b"}


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    try:
        found = parse(noise + b"\r\n\r\n")
    except InvalidInput:
        return
    assert found.method


@pytest.mark.parametrize("header", [b"Content-Length: 1", b"Transfer-Encoding: chunked"])
def test_a_body_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidInput, match="no body"):
        parse(b"GET / HTTP/1.1\r\n" + header + b"\r\n\r\n")
