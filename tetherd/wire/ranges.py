"""Ranges of bytes as HTTP asks for them."""

import re
from typing import Final

from tetherd.errors import BadRange

_RANGE: Final = re.compile(r"bytes=(\d{1,19})-(\d{1,19})?")


def byte_range(text: str, size: int) -> tuple[int, int]:
    """Return the start and end (exclusive) of the one range asked for, of ``size`` bytes. Raises BadRange."""
    match = _RANGE.fullmatch(text)
    start = int(match[1]) if match else size
    end = min(int(match[2]) + 1, size) if match and match[2] else size
    if match is None or start >= end:
        raise BadRange(
            f"Range {text[:80]!r} cannot be served from {size} bytes", fix="ask for one range, as in bytes=0-1023"
        )
    return start, end
