"""The schema as a table: one row per setting, by its key. What reads, checks, documents or shows settings walks it."""

import types
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec

from tetherd.config.locate import Key
from tetherd.config.schema import Config, ModelSettings

ANY: Final = "*"
"""Stands for a name that the user chooses, as in ``worker.models.*.runners``."""


class Form(msgspec.Struct, frozen=True):
    """What values a setting takes: a ``base`` type, and a ``kind`` of text, ``choices`` or bounds that narrow it."""

    base: type
    kind: str = ""
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    item: "Form | None" = None


class Setting(msgspec.Struct, frozen=True):
    """One setting. ``default`` is ``msgspec.NODEFAULT`` where it depends on the host."""

    key: Key
    form: Form
    meaning: str
    default: Any


def _form(declared: Any) -> tuple[Form, str]:
    metas: list[msgspec.Meta] = []
    while get_origin(declared) is Annotated:
        declared, *found = get_args(declared)
        metas += found
    meaning = next((meta.description for meta in metas if meta.description), "")
    kind = next((meta.extra["kind"] for meta in metas if meta.extra), "")
    least = next((meta.ge for meta in metas if meta.ge is not None), None)
    most = next((meta.le for meta in metas if meta.le is not None), None)
    if get_origin(declared) is Literal:
        choices = get_args(declared)
        return Form(type(choices[0]), choices=choices), meaning
    if get_origin(declared) is tuple:
        return Form(tuple, item=_form(get_args(declared)[0])[0]), meaning
    return Form(declared, kind, (), least, most), meaning


def _walk(section: type[msgspec.Struct], prefix: Key) -> dict[Key, Setting]:
    found: dict[Key, Setting] = {}
    for field in msgspec.structs.fields(section):
        key = (*prefix, field.name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= _walk(field.type, key)
        elif isinstance(field.type, types.GenericAlias) and field.type.__origin__ is dict:
            found |= _walk(ModelSettings, (*key, ANY))
        else:
            found[key] = Setting(key, *_form(field.type), field.default)
    return found


SETTINGS: Final[dict[Key, Setting]] = _walk(Config, ())
SECTIONS: Final[frozenset[Key]] = frozenset(key[:length] for key in SETTINGS for length in range(1, len(key)))
"""Every table there can be, such as ``("worker",)`` and ``("worker", "models", "*")``."""

_MODELS: Final[Key] = ("worker", "models")


def general(key: Key) -> Key:
    """Return ``key`` with the names that users choose replaced by ``*``."""
    return (*_MODELS, ANY, *key[3:]) if key[:2] == _MODELS and len(key) > 2 else key


def lookup(key: Key) -> Setting | None:
    """Return the setting of that key, if there is one."""
    return SETTINGS.get(general(key))


def is_section(key: Key) -> bool:
    """Return whether ``key`` names a table."""
    return general(key) in SECTIONS
