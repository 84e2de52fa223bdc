"""Layers of raw settings to one Config, or every problem at once. Pure: reads no file and no environment itself."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from tetherd.config import checks, values
from tetherd.config.fields import ANY, SECTIONS, SETTINGS, general, is_section, lookup
from tetherd.config.host import Host
from tetherd.config.layers import Given, Layer, Origin, Problem, show_key
from tetherd.config.locate import Key
from tetherd.config.schema import Config
from tetherd.config.units import BadValue
from tetherd.errors import BadConfig

MAX_PROBLEMS: Final = 100
"""Problems reported at once; a file that is not a configuration at all has no more to tell."""

_ORDER: Final = {"file": 0, "env": 1, "flag": 2, "default": 3}


class Settings(msgspec.Struct, frozen=True):
    """A configuration and where each of its values was set, by key."""

    config: Config
    origins: Mapping[Key, Origin]


_HOST_DEFAULTS: Final[dict[Key, Callable[[Mapping[Key, Any], Host], Any]]] = {
    # In this order: an address lies in the runtime directory that was decided on before.
    ("node", "name"): lambda _, host: host.name,
    ("node", "state_dir"): lambda _, host: str(host.paths.state),
    ("node", "cache_dir"): lambda _, host: str(host.paths.cache),
    ("node", "runtime_dir"): lambda _, host: str(host.paths.runtime),
    ("rpc", "listen"): lambda known, _: f"ipc://{known['node', 'runtime_dir']}/rpc.sock",
    ("control", "socket"): lambda known, _: f"{known['node', 'runtime_dir']}/control.sock",
    ("worker", "memory_limit"): lambda _, __: "80%",
    ("worker", "max_concurrency"): lambda _, host: 2 * host.cores,
}


def parse(layers: Sequence[Layer], host: Host) -> Settings:
    """Return what ``layers`` (the later wins) set over the defaults of ``host``; raise BadConfig with every problem."""
    problems = [problem for layer in layers for problem in layer.problems]
    found: dict[Key, Any] = {}
    origins: dict[Key, Origin] = {}
    for layer in layers:
        for key, given in layer.given.items():
            try:
                found[key] = _read(key, given, host)
                origins[key] = given.origin
            except BadValue as error:
                problems.append(Problem(given.origin, show_key(key), str(error), error.fix))
    wrong = {problem.key for problem in problems}
    problems += _fill(found, origins, host)
    config = _build(found)
    problems += (
        Problem(_origin(origins, check.key), show_key(check.key), check.message, check.fix)
        for check in checks.check(config)
        if not wrong.intersection(map(show_key, check.involved))
    )
    if problems:
        raise bad_config(problems)
    return Settings(config, origins)


def bad_config(problems: Sequence[Problem]) -> BadConfig:
    """Return ``problems`` as one error."""
    unique = sorted(dict.fromkeys(problems), key=lambda each: (_ORDER[each.origin.source], each.origin.line))
    del unique[MAX_PROBLEMS:]
    more = f" (and {len(unique) - 1} more)" if len(unique) > 1 else ""
    details = [
        {
            "file": each.origin.name if each.origin.source == "file" else "",
            "line": each.origin.line,
            "column": each.origin.column,
            "source": str(each.origin),
            "key": each.key,
            "message": each.message,
            "fix": each.fix,
        }
        for each in unique
    ]
    return BadConfig(
        f"the configuration cannot be used: {unique[0]}{more}", fix=unique[0].fix, details={"problems": details}
    )


def _read(key: Key, given: Given, host: Host) -> Any:
    setting = lookup(key)
    if setting is None:
        raise _unknown(key, given)
    if setting.key == ("worker", "max_concurrency") and given.value in (0, "0"):
        return 2 * host.cores
    return values.read(setting.form, given.value, host, text=given.text)


def _unknown(key: Key, given: Given) -> BadValue:
    strange = next((key[:length] for length in range(1, len(key) + 1) if not is_section(key[:length])), None)
    if strange is None:
        found = "several" if isinstance(given.value, list) else "a single value"
        return BadValue(
            f"{show_key(key)} is one table, found {found}", f"write [{show_key(key)}] once, its settings below"
        )
    if lookup(strange):
        return BadValue(f"{show_key(strange)} is one value, not a table", f"set {show_key(strange)} = ...")
    if strange != key or given.value == {}:
        meant = values.suggest(strange[-1], [table[-1] for table in SECTIONS if table[:-1] == strange[:-1]])
        return BadValue(
            f"there is no table [{show_key(strange)}]", f"did you mean [{meant}]?" if meant else _inside(strange[:-1])
        )
    meant = values.suggest(key[-1], _names(key[:-1]))
    if meant:
        return BadValue("there is no such setting", f"did you mean {show_key((*key[:-1], meant))}?")
    elsewhere = [show_key(name) for name in SETTINGS if name[-1] == key[-1] and ANY not in name]
    meant = " or ".join(elsewhere)
    return BadValue("there is no such setting", f"did you mean {meant}?" if meant else _inside(key[:-1]))


def _names(table: Key) -> list[str]:
    return [key[-1] for key in SETTINGS if key[:-1] == general(table)]


def _inside(table: Key) -> str:
    if table:
        return f"[{show_key(table)}] has {', '.join(_names(table))}"
    return "there are " + ", ".join(dict.fromkeys(f"[{key[0]}]" for key in SETTINGS if len(key) > 1))


def _origin(origins: Mapping[Key, Origin], key: Key) -> Origin:
    """Return where ``key`` was set; for a table, where anything in it was."""
    return next((origin for set_key, origin in origins.items() if set_key[: len(key)] == key), Origin())


def _fill(found: dict[Key, Any], origins: dict[Key, Origin], host: Host) -> Iterator[Problem]:
    """Add the defaults of everything that was not set, or not set right."""
    for key, derive in _HOST_DEFAULTS.items():
        if key not in found:
            origins[key] = Origin()
            try:
                found[key] = values.read(SETTINGS[key].form, derive(found, host), host, text=False)
            except BadValue as error:
                yield Problem(Origin(), show_key(key), f"its default does not work here: {error}", error.fix)
                found[key] = derive(found, host)
    for key, setting in SETTINGS.items():
        if ANY not in key and key not in found:
            found[key], origins[key] = setting.default, Origin()


def _build(found: Mapping[Key, Any]) -> Config:
    tables: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}
    for key, value in found.items():
        if key[:2] == ("worker", "models"):
            models.setdefault(key[2], {})[key[3]] = value
        elif len(key) == 1:
            tables[key[0]] = value
        else:
            tables.setdefault(key[0], {})[key[1]] = value
    kinds = {field.name: field.type for field in msgspec.structs.fields(Config)}
    built = {name: kinds[name](**table) if isinstance(table, dict) else table for name, table in tables.items()}
    worker = built["worker"]
    whole = {name: msgspec.structs.replace(worker.settings(name), **own) for name, own in models.items()}
    built["worker"] = msgspec.structs.replace(worker, models=whole)
    return Config(**built)
