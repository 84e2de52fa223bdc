"""Settings as commented TOML that the parser reads back: what the defaults are, or what is in force and why."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from tetherd.config import values
from tetherd.config.fields import ANY, SETTINGS, Setting, lookup
from tetherd.config.layers import Origin, show_key
from tetherd.config.locate import Key
from tetherd.config.parse import Settings
from tetherd.config.schema import Config

_DEFAULT_HEAD: Final = """\
# Settings of tetherd, each with its default on this host. Remove the # before a line to change it.
# Every setting can also be given as an environment variable (TETHER__GATEWAY__LISTEN=127.0.0.1:3001)
# or a flag (--set gateway.listen=127.0.0.1:3001); flags win over variables, variables over this file.

"""
_EFFECTIVE_HEAD: Final = "# Settings of tetherd as they are in force here, and where each was set.\n"
_MODELS_HINT: Final = """
# [worker.models.NAME]
# What one model sets for itself: isolation, runners, threads.
"""
# The defaults as a person would write them, where the resolved value would hide what was meant.
_WRITTEN: Final[dict[Key, Any]] = {("worker", "memory_limit"): "80%", ("worker", "max_concurrency"): 0}


def default(settings: Settings) -> str:
    """Return every setting, commented out, at the default that ``settings`` (parsed from nothing) has on this host."""
    return _DEFAULT_HEAD + "\n".join(_document(settings, example=True)) + "\n" + _MODELS_HINT


def effective(settings: Settings) -> str:
    """Return every setting at its value in force, each with its origin."""
    return _EFFECTIVE_HEAD + "\n".join(_document(settings, example=False)) + "\n"


def entries(settings: Settings) -> Iterator[tuple[Key, Any, Origin]]:
    """Yield each setting in force: its key, its value as a file writes it, and where it was set."""
    config = msgspec.structs.asdict(settings.config)
    for key, setting in SETTINGS.items():
        if ANY not in key:
            yield key, values.show(setting.form, _at(config, key)), settings.origins[key]
    for name in settings.config.worker.models:
        for key, setting in SETTINGS.items():
            own = tuple(name if part == ANY else part for part in key)
            if ANY in key and own in settings.origins:
                yield own, values.show(setting.form, _at(config, own)), settings.origins[own]


def _document(settings: Settings, *, example: bool) -> Iterator[str]:
    table: Key = ()
    for key, value, origin in entries(settings):
        setting = lookup(key)
        assert setting is not None
        if key[:-1] != table:
            table = key[:-1]
            yield from ("", f"[{show_key(table)}]{_about(table)}")
        if example:
            yield f"# {setting.meaning}"
            yield f"#{show_key(key[-1:])} = {_toml(_written(setting, value))}"
        else:
            yield f"{show_key(key[-1:])} = {_toml(value)}  # {origin}"


def _about(table: Key) -> str:
    kinds: Mapping[str, Any] = {field.name: field.type for field in msgspec.structs.fields(Config)}
    return f"  # {kinds[table[0]].__doc__}" if len(table) == 1 else ""


def _written(setting: Setting, value: Any) -> Any:
    return _WRITTEN.get(setting.key, value)


def _at(tree: Any, key: Key) -> Any:
    for part in key:
        tree = tree[part] if isinstance(tree, dict) else getattr(tree, part)
    return tree


def _toml(value: Any) -> str:
    # JSON and TOML write text, whole numbers, truth and lists of them alike, but for one control character.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
