"""Durations and sizes as people write them, to numbers and back. Refuses bare numbers: their unit would be a guess."""

import math
import re
from typing import Final

SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z%]+)")
_BARE = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,6})?")


class BadValue(ValueError):
    """A value that cannot be used: ``args[0]`` says what is wrong, ``fix`` what to write instead."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def duration(text: str) -> float:
    """Return the seconds that ``text`` ("250ms", "10s", "1.5m", "7d") stands for; raise BadValue otherwise."""
    amount, unit = _split(text, "a duration", "10s", SECONDS)
    # A product such as 250 * 0.001 is not exactly 0.25; a microsecond is finer than any duration here.
    return round(amount * SECONDS[unit], 6)


def size(text: str) -> int:
    """Return the bytes that ``text`` ("64MiB", "1.5GiB") stands for; raise BadValue otherwise."""
    amount, unit = _split(text, "a size", "64MiB", BYTES)
    return int(amount * BYTES[unit])


def memory(text: str, total: int) -> int:
    """Return the bytes that ``text`` stands for: a size, or a percentage of ``total``; raise BadValue otherwise."""
    if not text.endswith("%"):
        return size(text)
    percent = text[:-1].rstrip()
    if not _BARE.fullmatch(percent) or not 0 < float(percent) <= 100:
        raise BadValue(f"{_quoted(text)} is not a share of memory", 'write a percentage from "1%" to "100%"')
    return int(total * float(percent) / 100)


def show_duration(seconds: float) -> str:
    """Return ``seconds`` in the largest unit that leaves a whole number ("90s", "7d", "250ms")."""
    for unit in ("d", "h", "m", "s"):
        amount = seconds / SECONDS[unit]
        if amount >= 1 and math.isclose(amount, round(amount), abs_tol=1e-9):
            return f"{round(amount)}{unit}"
    milliseconds = f"{seconds * 1000:.3f}".rstrip("0").rstrip(".")
    return "0s" if milliseconds == "0" else f"{milliseconds}ms"


def show_size(count: int) -> str:
    """Return ``count`` bytes in the largest unit that leaves a whole number ("64MiB", "1000B")."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if count and count % BYTES[unit] == 0:
            return f"{count // BYTES[unit]}{unit}"
    return f"{count}B"


def _split(text: str, what: str, example: str, units: dict[str, float] | dict[str, int]) -> tuple[float, str]:
    known = ", ".join(units)
    if _BARE.fullmatch(text):
        raise BadValue(f"{_quoted(text)} has no unit", f'write {what} with its unit, like "{text}{_unit(example)}"')
    found = _AMOUNT.fullmatch(text)
    if not found:
        raise BadValue(f"{_quoted(text)} is not {what}", f'write a number and one of {known}, like "{example}"')
    amount, unit = found[1], found[2]
    if unit not in units:
        meant = next((known for known in units if known.lower()[0] == unit.lower()[0]), None)
        fix = f'did you mean "{amount}{meant}"?' if meant else f"use one of {known}"
        raise BadValue(f"{_quoted(text)} has the unknown unit {_quoted(unit)}", fix)
    return float(amount), unit


def _unit(example: str) -> str:
    return example.lstrip("0123456789.")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
