"""The options every command takes: where they stand on the line, in the environment and in the client's file.

Precedence: flag, environment, ``cli.toml``, default. Never reads the daemon's configuration.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import msgspec

from tetherctl.errors import Usage
from tetherctl.human import parse_duration
from tetherd.errors import BadConfig

FORMATS: Final = ("table", "json", "ndjson", "name")


class Global(msgspec.Struct, frozen=True):
    """One global option. ``metavar`` empty: a switch. ``env`` and ``key``: where else it may be set."""

    name: str
    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    env: str = ""
    key: str = ""
    default: str = ""


GLOBALS: Final = (
    Global(
        "endpoint",
        ("--endpoint",),
        "Where tetherd answers: unix:///path or http://host:port.",
        "URI",
        env="TETHER_ENDPOINT",
        key="endpoint",
    ),
    Global(
        "output",
        ("-o", "--output"),
        "Form of the output; --json is -o json.",
        "FORMAT",
        FORMATS,
        env="TETHER_OUTPUT",
        key="output",
        default="table",
    ),
    Global("quiet", ("-q", "--quiet"), "Print data and errors only."),
    Global("verbose", ("-v", "--verbose"), "Say more on stderr."),
    Global(
        "color",
        ("--color",),
        "Colour: NO_COLOR, FORCE_COLOR and TERM=dumb are honoured too.",
        "WHEN",
        ("auto", "always", "never"),
        key="color",
        default="auto",
    ),
    Global(
        "timeout",
        ("--timeout",),
        "How long to wait for the daemon: 500ms, 10s, 2m.",
        "DURATION",
        env="TETHER_TIMEOUT",
        key="timeout",
    ),
    Global("no_input", ("--no-input",), "Never ask; fail and name the flag to pass instead."),
    Global(
        "progress",
        ("--progress",),
        "Form of progress on stderr.",
        "FORM",
        ("auto", "bar", "plain", "json", "none"),
        default="auto",
    ),
)
BY_FLAG: Final = {flag: option for option in GLOBALS for flag in option.flags}


class Settings(msgspec.Struct, frozen=True):
    """The effective global options. ``timeout`` None: each command's own default; ``dumb``: no cursor control."""

    endpoint: str = ""
    output: str = "table"
    quiet: bool = False
    verbose: bool = False
    color: str = "auto"
    timeout: float | None = None
    no_input: bool = False
    progress: str = "auto"
    dumb: bool = False
    origins: dict[str, str] = {}


def hoist(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split ``argv`` into the global options in it and the rest, up to ``--``.

    A command's own option value that looks like a global must be written ``--option=value``. Raises Usage when an
    option is set twice to different values or lacks its value.
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    queue = list(reversed(argv))
    while queue:
        word = queue.pop()
        if word == "--":
            return found, [*rest, word, *reversed(queue)]
        flag, value = _split(word)
        if flag == "--json":
            _put(found, "output", "json", flag)
        elif word.strip("qv") == "-" and len(word) > 2:
            queue.extend(f"-{letter}" for letter in word[1:])
        elif option := BY_FLAG.get(flag):
            if option.metavar and value is None:
                if not queue:
                    raise Usage(f"{flag} needs a value", fix=f"write {flag} {option.metavar}")
                value = queue.pop()
            _put(found, option.name, value if value is not None and option.metavar else "yes", flag)
        else:
            rest.append(word)
    return found, rest


def _split(word: str) -> tuple[str, str | None]:
    if word.startswith("--"):
        flag, equals, value = word.partition("=")
        return flag, value if equals else None
    if word.startswith("-o") and len(word) > 2:
        return "-o", word[2:]
    return word, None


def _put(found: dict[str, str], name: str, value: str, flag: str) -> None:
    if found.setdefault(name, value) != value:
        raise Usage(f"{flag} is set twice: {found[name]!r} and {value!r}", fix="keep one of them")


def config_file(env: Mapping[str, str]) -> Path:
    """Return where the client's own file is looked for."""
    home = env.get("XDG_CONFIG_HOME") or f"{env.get('HOME') or '~'}/.config"
    return Path(home).expanduser() / "tether" / "cli.toml"


def read_file(path: Path) -> dict[str, str]:
    """Read the client's file; an absent one is empty. Raises BadConfig."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise BadConfig(
            f"cannot read {path}: {error.strerror}", fix="correct its permissions, or move it away"
        ) from None
    import tomllib  # most runs have no such file

    try:
        table: dict[str, Any] = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadConfig(f"{path} is not TOML: {error}", fix="correct that line, or move the file away") from None
    keys = {option.key for option in GLOBALS if option.key}
    for key, value in table.items():
        if key not in keys:
            close = get_close_matches(key, sorted(keys), 1)
            hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(sorted(keys))}"
            raise BadConfig(f"{path}: unknown key {key!r}", fix=hint)
        if not isinstance(value, str):
            raise BadConfig(f"{path}: {key} must be text", fix=f'write {key} = "..."')
    return table


def resolve(flags: Mapping[str, str], env: Mapping[str, str]) -> Settings:
    """Lay flags over the environment over the file over the defaults. Raises Usage and BadConfig."""
    path = config_file(env)
    table = read_file(path)
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for option in GLOBALS:
        layers = (
            (flags.get(option.name), option.flags[-1]),
            (env.get(option.env) if option.env else None, f"environment {option.env}"),
            (table.get(option.key) if option.key else None, str(path)),
        )
        for value, origin in layers:
            if value:
                values[option.name], origins[option.name] = _check(option, value, origin), origin
                break
    return Settings(
        endpoint=values.get("endpoint", ""),
        output=values.get("output", "table"),
        quiet="quiet" in values,
        verbose="verbose" in values,
        color=_color(values, env),
        timeout=parse_duration(values["timeout"], origins["timeout"]) if "timeout" in values else None,
        no_input="no_input" in values,
        progress=values.get("progress", "auto"),
        dumb=env.get("TERM", "") in {"", "dumb"},
        origins=origins,
    )


def _check(option: Global, value: str, origin: str) -> str:
    if option.choices and value not in option.choices:
        close = get_close_matches(value, option.choices, 1)
        fix = f"did you mean {close[0]}?" if close else f"use one of {', '.join(option.choices)}"
        raise Usage(f"{origin}: {value!r} is not a value for {option.name}", fix=fix)
    return value


def _color(values: Mapping[str, str], env: Mapping[str, str]) -> str:
    if "color" in values and values["color"] != "auto":
        return values["color"]
    if env.get("NO_COLOR"):
        return "never"
    if env.get("FORCE_COLOR", "0") not in {"", "0"}:
        return "always"
    return "never" if env.get("TERM") == "dumb" else "auto"
