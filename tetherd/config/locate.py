"""Where each key of a TOML text stands, for messages that name a line. Trusts the text to be valid TOML."""

import re
import tomllib
from typing import Any, Final, TypeAlias

import msgspec

Key: TypeAlias = tuple[str, ...]

_PART = r'(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\')'
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
# What a value is made of, longest first: strings that may hold brackets and line ends, then everything else.
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*|[\[{]|[\]}]|\n|[^"\'#\[\]{}\n]+',
    re.DOTALL,
)
_OPEN: Final = ("[", "{")
_CLOSE: Final = ("]", "}")


class Place(msgspec.Struct, frozen=True):
    """A line and a column in it, both counted from 1."""

    line: int
    column: int


def locate(text: str) -> dict[Key, Place]:
    """Return where every table header and every key outside inline tables stands."""
    text = text.replace("\r\n", "\n")
    places: dict[Key, Place] = {}
    table: Key = ()
    at = 0
    while (at := _BLANK.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        start = at
        header = text[at] == "["
        while header and text[at] in "[ \t":
            at += 1
        found = _KEY.match(text, at)
        if not found:  # not valid TOML after all: what was located so far is still right
            break
        key = _parts(found[0])
        if header:
            table = key
            at = _line_end(text, found.end())
            places.setdefault(key, _place(text, start))
        else:
            value = _SPACE.match(text, text.index("=", found.end()) + 1).end()  # type: ignore[union-attr]
            places.setdefault(table + key, _place(text, start))
            at = _value_end(text, value)
    return places


def nearest(places: dict[Key, Place], key: Key) -> Place | None:
    """Return where ``key`` stands, or else the closest thing around it that was located."""
    return next((places[key[:length]] for length in range(len(key), 0, -1) if key[:length] in places), None)


def _parts(written: str) -> Key:
    node: Any = tomllib.loads(f"{written} = 0")
    parts: list[str] = []
    while isinstance(node, dict):
        part, node = next(iter(node.items()))
        parts.append(part)
    return tuple(parts)


def _value_end(text: str, at: int) -> int:
    depth = 0
    while found := _TOKEN.match(text, at):
        at = found.end()
        piece = found[0]
        if piece in _OPEN:
            depth += 1
        elif piece in _CLOSE:
            depth -= 1
        elif piece == "\n" and depth == 0:
            break
    return at


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _place(text: str, at: int) -> Place:
    return Place(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
