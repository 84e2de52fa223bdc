"""Numbers and text as people read and write them. Pure: never prints."""

import re
import time
from typing import Any, Final

from tetherctl.errors import Usage

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)?")
MOMENTS: Final = frozenset({"created", "since", "joined", "revoked", "issued", "expires"})
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_STEPS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def _escape(match: "re.Match[str]") -> str:
    point = ord(match[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def clean(text: object) -> str:
    """Return ``text`` with everything a terminal could act on (controls, ANSI, bidi marks) written out as escapes."""
    return _UNSAFE.sub(_escape, str(text))


def clean_json(text: str, *, ascii_only: bool) -> str:
    """Escape, inside encoded JSON, what a terminal could act on; with ``ascii_only`` everything beyond ASCII too.

    Outside its strings JSON holds none of these characters (line breaks apart), so that it stays the same document.
    """
    text = _UNSAFE.sub(lambda m: m[0] if m[0] in "\n\t" else f"\\u{ord(m[0]):04x}", text)
    if not ascii_only or text.isascii():
        return text
    return "".join(c if c < "\x80" else "".join(f"\\u{unit:04x}" for unit in _utf16(c)) for c in text)


def _utf16(char: str) -> tuple[int, ...]:
    raw = char.encode("utf-16-be")
    return tuple(int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2))


def size(count: float) -> str:
    """Return a number of bytes as ``412 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def span(seconds: float) -> str:
    """Return a length of time by its largest unit: ``4 ms``, ``3 m``, ``2 d``."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    for unit, length in _STEPS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "0 s"


def ago(moment: float, now: float) -> str:
    """Return how long ago ``moment`` was; both in seconds since the epoch."""
    return "now" if now - moment < 1 else f"{span(now - moment)} ago"


def rfc3339(moment: float) -> str:
    """Return seconds since the epoch as UTC, to the millisecond."""
    whole = int(moment // 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((moment - whole) * 1000):03d}Z"


def stamped(value: Any) -> Any:
    """Return a daemon's document with its MOMENTS as RFC 3339 instead of seconds."""
    if isinstance(value, list):
        return [stamped(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: rfc3339(item) if key in MOMENTS and isinstance(item, int | float) else stamped(item)
        for key, item in value.items()
    }


def parse_duration(text: str, name: str) -> float:
    """Parse ``500ms``, ``2s``, ``1.5m``, ``1h`` or plain seconds into seconds. Raises Usage, which names ``name``."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if not 0 < seconds <= 86400 * 7:
        raise Usage(f"{name} {text!r} is not a duration", fix="use a number and a unit, for example 500ms, 2s or 1m")
    return seconds


def align(titles: list[str], rows: list[list[str]], right: set[int]) -> list[str]:
    """Return a table as lines, columns two spaces apart; the columns in ``right`` are flushed right."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [titles, *rows]
    ]
