"""Reads the configuration of this process: the file, the environment and the flags it was started with."""

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tetherd.config import layers
from tetherd.config.environment import environment
from tetherd.config.host import Host, this_host
from tetherd.config.layers import MAX_FILE, Layer, Origin, Problem
from tetherd.config.locate import Key
from tetherd.config.parse import Settings, parse


def load(
    path: Path | None, assignments: Sequence[str] = (), named: Mapping[Key, tuple[str, Any]] | None = None
) -> Settings:
    """Return the settings in force: defaults, then the file, then the environment, then flags.

    ``path`` is the file to read; without one, the default file if there is one. ``assignments`` are ``key=value``,
    ``named`` maps keys to the flag that set them and its value. Raises BadConfig with every problem.
    """
    host = this_host(environment())
    return parse([_file(path, host), *surroundings(assignments, named)], host)


def load_text(data: bytes, name: str) -> Settings:
    """Return the settings that ``data``, a configuration file's content, would give here. Raises BadConfig."""
    return parse([decode(data, name), *surroundings()], this_host(environment()))


def defaults() -> Settings:
    """Return the settings of this host when nothing is set at all. Raises BadConfig."""
    return parse([], this_host(environment()))


def surroundings(assignments: Sequence[str] = (), named: Mapping[Key, tuple[str, Any]] | None = None) -> list[Layer]:
    """Return the layers over the file."""
    return [layers.environment(environment()), layers.flags(assignments, named or {})]


def decode(data: bytes, name: str) -> Layer:
    """Return what the bytes of a configuration file set."""
    if len(data) > MAX_FILE:
        return _refused(name, f"the file has more than {MAX_FILE // 2**20} MiB", "name a configuration file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        origin = Origin("file", name, line, column)
        return Layer(problems=[Problem(origin, "", "not UTF-8 text", "save the file as UTF-8")])
    return layers.file(text, name)


def _file(path: Path | None, host: Host) -> Layer:
    chosen = path or host.paths.config_file
    try:
        with chosen.open("rb") as source:
            return _refuse_writable(source, str(chosen)) or decode(source.read(MAX_FILE + 1), str(chosen))
    except FileNotFoundError:
        if path is None:
            return Layer()
        return _refused(str(chosen), "no such file", "`tetherd config --default` prints one to start from")
    except OSError as error:
        return _refused(str(chosen), f"cannot be read: {error.strerror}", "name a file that this user can read")


def _refuse_writable(source: BinaryIO, name: str) -> Layer | None:
    mode = os.fstat(source.fileno()).st_mode
    if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
        return _refused(name, "everybody may write to this file, and so decide what runs here", f"chmod o-w {name}")
    return None


def _refused(name: str, message: str, fix: str) -> Layer:
    return Layer(problems=[Problem(Origin("file", name), "", message, fix)])
