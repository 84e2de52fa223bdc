"""Where settings come from: a file's text, environment variables, flags. Pure: each makes a layer of its input."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from tetherd.config.fields import is_section
from tetherd.config.locate import Key, Place, locate, nearest

PREFIX: Final = "TETHER__"
MAX_FILE: Final = 2**20
"""Bytes a configuration file may have."""

_POSITION = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


class Origin(msgspec.Struct, frozen=True):
    """Where a value was set. ``name`` is the file, variable or flag; lines and columns count from 1 (0 = unknown)."""

    source: Literal["default", "file", "env", "flag"] = "default"
    name: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        name = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in self.name)
        if self.source == "file":
            return f"{name}:{self.line}" if self.line else name
        return f"{self.source} {name}".rstrip()


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong: where it was set, its key, what is wrong and what to write instead."""

    origin: Origin
    key: str
    message: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.origin}:{self.origin.column}" if self.origin.column else str(self.origin)
        return ": ".join(part for part in (place, self.key, self.message) if part)


class Given(msgspec.Struct, frozen=True):
    """One value as it was given. ``text``: it came as a word of the shell, so numbers and lists are still text."""

    value: Any
    origin: Origin
    text: bool = False


class Layer(msgspec.Struct):
    """What one source sets, and what could not even be read of it."""

    given: dict[Key, Given] = {}
    problems: list[Problem] = []


def show_key(key: Key) -> str:
    """Return ``key`` as TOML writes it."""
    return ".".join(
        part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else msgspec.json.encode(part).decode() for part in key
    )


def file(text: str, name: str) -> Layer:
    """Return what the TOML ``text`` of the file ``name`` sets."""
    if len(text) > MAX_FILE:
        return _unreadable(name, f"the file has more than {MAX_FILE // 2**20} MiB", "name a configuration file")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return _syntax(text, name, str(error))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists nested thousands deep
        return _unreadable(name, f"this is no usable TOML: {str(error)[:200]}", "write plain values")
    places = locate(text)
    return Layer({key: Given(value, _origin(name, nearest(places, key))) for key, value in _leaves(tables, ())})


def environment(variables: Mapping[str, str]) -> Layer:
    """Return what variables such as ``TETHER__GATEWAY__LISTEN`` set."""
    return Layer(
        {
            tuple(name[len(PREFIX) :].lower().split("__")): Given(value, Origin("env", name), text=True)
            for name, value in sorted(variables.items())
            if name.startswith(PREFIX)
        }
    )


def flags(assignments: Sequence[str], named: Mapping[Key, tuple[str, Any]]) -> Layer:
    """Return what ``--set key=value`` assignments and flags of their own (key to flag and value) set."""
    layer = Layer({key: Given(value, Origin("flag", flag)) for key, (flag, value) in named.items()})
    for assignment in assignments:
        written, equals, value = assignment.partition("=")
        key = _parse_key(written)
        origin = Origin("flag", f"--set {written.strip()[:80]!r}" if not key else f"--set {show_key(key)}")
        if not equals or not key:
            layer.problems.append(
                Problem(
                    origin, "", f"{assignment[:80]!r} is not KEY=VALUE", "write it like --set gateway.max_body=8MiB"
                )
            )
        elif key in layer.given:
            layer.problems.append(Problem(origin, show_key(key), "set twice on the command line", "set it once"))
        else:
            layer.given[key] = Given(value.strip(), origin, text=True)
    return layer


def _parse_key(written: str) -> Key:
    if "\n" in written or "=" in written or "#" in written:
        return ()
    try:
        node = tomllib.loads(f"{written} = 0")
    except ValueError:
        return ()
    return next((key for key, _ in _leaves(node, ())), ())


def _leaves(table: Mapping[str, Any], prefix: Key) -> Iterator[tuple[Key, Any]]:
    for name, value in table.items():
        key = (*prefix, name)
        if isinstance(value, dict) and value:
            yield from _leaves(value, key)
        elif value != {} or not is_section(key):
            yield key, value


def _origin(name: str, place: Place | None) -> Origin:
    return Origin("file", name, place.line, place.column) if place else Origin("file", name)


def _syntax(text: str, name: str, message: str) -> Layer:
    found = _POSITION.fullmatch(message)
    if not found:
        return _unreadable(name, f"not TOML: {message}", "correct the syntax")
    last = text.count("\n") + 1
    line, column = int(found[2] or last), int(found[3] or len(text) - (text.rfind("\n") + 1) + 1)
    origin = Origin("file", name, line, column)
    return Layer(problems=[Problem(origin, "", f"not TOML: {found[1]}", "correct the syntax of this line")])


def _unreadable(name: str, message: str, fix: str) -> Layer:
    return Layer(problems=[Problem(Origin("file", name), "", message, fix)])
