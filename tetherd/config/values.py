"""One raw value to one typed setting, or a BadValue that says what to write instead."""

import datetime as dt
import difflib
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tetherd.config import addresses, units
from tetherd.config.fields import Form
from tetherd.config.host import Host
from tetherd.config.units import BadValue
from tetherd.errors import InvalidInput
from tetherd.types import parse_reference

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?")
_MODE = re.compile(r"0?[0-7]{3}")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")

_SHOW: Final[dict[str, Callable[[Any], str]]] = {
    "duration": units.show_duration,
    "size": units.show_size,
    "memory": units.show_size,
    "mode": "{:04o}".format,
}


def read(form: Form, value: Any, host: Host, *, text: bool) -> Any:
    """Return ``value`` as ``form`` wants it; ``text``: it is a word of the shell. Raises BadValue."""
    if isinstance(value, int) and abs(value) >= 2**63:
        raise BadValue("the number is beyond 64 bits", "write a smaller one")
    if form.item is not None:
        return _read_list(form.item, value, host, text=text)
    if form.choices:
        return _choose(form.choices, value)
    if form.kind:
        result = _read_kind(form.kind, value, host)
    elif form.base is bool:
        result = _read_bool(value, text=text)
    else:
        result = _read_whole(value, text=text)
    return _within(form, result)


def show(form: Form, value: Any) -> Any:
    """Return ``value`` as a configuration file writes it: the reverse of ``read``."""
    if form.item is not None:
        return [show(form.item, item) for item in value]
    if form.kind in _SHOW:
        return _SHOW[form.kind](value)
    return str(value) if form.base is Path else value


def suggest(word: str, known: list[str]) -> str:
    """Return the known word that was probably meant, or nothing."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), "")


def quoted(value: Any) -> str:
    """Return ``value`` for a message: bounded, and with nothing in it that a terminal would obey."""
    try:
        shown = repr(value)
    except ValueError:  # Python does not write out numbers of thousands of digits
        return "a huge number"
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _read_list(item: Form, value: Any, host: Host, *, text: bool) -> tuple[Any, ...]:
    if text and isinstance(value, str):
        value, text = _split_list(value), False
    if not isinstance(value, list | tuple):
        raise BadValue(f"expected a list, found {_describe(value)}", f"write [{quoted(value)}]".replace("'", '"'))
    found = tuple(read(item, each, host, text=text) for each in value)
    if len(set(found)) < len(found):
        raise BadValue("the list names something twice", "name each once")
    return found


def _split_list(text: str) -> Any:
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"list = {text}")["list"]
    except ValueError:
        raise BadValue(f"{quoted(text)} is not a list", "write a,b,c or a TOML list") from None


def _choose(choices: tuple[Any, ...], value: Any) -> Any:
    if value in choices and type(value) is type(choices[0]):
        return value
    known = ", ".join(map(str, choices))
    meant = suggest(value.lower(), list(map(str, choices))) if isinstance(value, str) else ""
    raise BadValue(
        f"{quoted(value)} is not one of {known}" if len(choices) > 1 else f"{quoted(value)} is not {known}",
        f'did you mean "{meant}"?' if meant else f"use one of {known}" if len(choices) > 1 else f"write {known}",
    )


def _read_bool(value: Any, *, text: bool) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in ("true", "false"):
        if text:
            return value == "true"
        raise BadValue(f"expected true or false, found {_describe(value)}", f"write {value} without quotes")
    raise BadValue(f"expected true or false, found {_describe(value)}", "write true or false")


def _read_whole(value: Any, *, text: bool) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        if text:
            return int(value)
        raise BadValue(f"expected a whole number, found {_describe(value)}", f"write {value} without quotes")
    raise BadValue(f"expected a whole number, found {_describe(value)}", "write a whole number, like 4")


def _read_kind(kind: str, value: Any, host: Host) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and kind in ("duration", "size", "memory"):
        value = str(value)  # so that the message about the missing unit is the same with and without quotes
    if number and kind == "mode":
        raise BadValue(f"expected text, found {_describe(value)}", 'write it in quotes, like "0600"')
    if not isinstance(value, str):
        raise BadValue(f"expected text, found {_describe(value)}", "write it in quotes")
    return _READERS[kind](value, host)


def _within(form: Form, value: Any) -> Any:
    display = _SHOW.get(form.kind, str)
    if form.least is not None and value < form.least:
        raise BadValue(f"{display(value)} is too small", f"the least is {display(form.least)}")
    if form.most is not None and value > form.most:
        raise BadValue(f"{display(value)} is too large", f"the most is {display(form.most)}")
    return value


def _describe(value: Any) -> str:
    kinds = {
        bool: "true or false",
        str: "text",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a table",
        dt.datetime: "a date",
        dt.date: "a date",
        dt.time: "a time",
    }
    return f"{kinds.get(type(value), 'something else')} ({quoted(value)})"


def _path(text: str, host: Host) -> Path:
    if text.startswith("~/"):
        return host.home / text[2:]
    if not text.startswith("/") or "\0" in text:
        raise BadValue(f"{quoted(text)} is not an absolute path", "start the path with / or ~/")
    return Path(text)


def _socket(text: str, host: Host) -> Path:
    return Path(addresses.socket_path(str(_path(text, host))))


def _mode(text: str, _: Host) -> int:
    if not _MODE.fullmatch(text):
        raise BadValue(f"{quoted(text)} is not a file mode", 'write three octal digits, like "0600"')
    mode = int(text, 8)
    if mode & 0o600 != 0o600 or mode & 0o002:
        raise BadValue(
            f'"{mode:04o}" shuts out the daemon itself or lets everybody in', 'use "0600", or "0660" to let a group in'
        )
    return mode


def _matching(pattern: re.Pattern[str], what: str, fix: str) -> Callable[[str, Host], str]:
    def reader(text: str, _: Host) -> str:
        if not pattern.fullmatch(text):
            raise BadValue(f"{quoted(text)} is not {what}", fix)
        return text

    return reader


def _reference(text: str, _: Host) -> str:
    try:
        return str(parse_reference(text))
    except InvalidInput as error:
        raise BadValue(error.message, error.fix) from None


_READERS: Final[dict[str, Callable[[str, Host], Any]]] = {
    "duration": lambda text, _: units.duration(text),
    "size": lambda text, _: units.size(text),
    "memory": lambda text, host: units.memory(text, host.memory),
    "http": lambda text, _: addresses.http(text),
    "listener": lambda text, _: addresses.listener(text),
    "reachable": lambda text, _: addresses.reachable(text),
    "seed": lambda text, _: addresses.seed(text),
    "rpc": lambda text, _: addresses.rpc(text),
    "peer": lambda text, _: addresses.rpc(text) if text else "",
    "path": _path,
    "socket": _socket,
    "mode": _mode,
    "reference": _reference,
    "name": _matching(_NAME, "a host name", "use 1 to 64 letters, digits and . _ -"),
    "host": _matching(_HOST, "a Host header", 'write a host name like "inference.example"'),
}
