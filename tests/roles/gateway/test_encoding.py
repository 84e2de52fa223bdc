"""Which coding an answer gets."""

import pytest

from tetherd.roles.gateway.encoding import choose


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("gzip;q=0.1, deflate;q=0.9", "deflate"),
        ("GZIP", "gzip"),
        ("*", "gzip"),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("gzip;q=0, *", "deflate"),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("br", None),
        ("", None),
        ("gzip;q=nonsense", None),
        ("gzip;x=1", "gzip"),
    ],
)
def test_by_quality(accept: str, coding: str | None) -> None:
    assert choose(accept) == coding
