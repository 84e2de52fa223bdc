"""The whole command line as data, read from the commands themselves: what completions and man pages are made of."""

import inspect
from typing import Any, Final, NamedTuple

from tetherctl.app import load
from tetherctl.registry import COMMANDS
from tetherctl.settings import GLOBALS

HELP: Final = ("-h", "--help")


class Flag(NamedTuple):
    """One option: its spellings, the name of its value (empty: a switch), what it does, the values it may have."""

    names: tuple[str, ...]
    metavar: str
    help: str
    values: tuple[str, ...] = ()


class Spec(NamedTuple):
    """One command: its words, what it is for, its options, and its positional arguments with their help."""

    path: str
    summary: str
    text: str
    flags: tuple[Flag, ...]
    arguments: tuple[tuple[str, str], ...]


def global_flags() -> tuple[Flag, ...]:
    """Return the options that every command takes."""
    own = [Flag(option.flags, option.metavar, option.help, option.choices) for option in GLOBALS]
    return (*own, Flag(("--json",), "", "The same as -o json."), Flag(("-V", "--version"), "", "Print the version."))


def specs() -> list[Spec]:
    """Return every command, in the order of the help."""
    return [_spec(path) for path in COMMANDS]


def _spec(path: str) -> Spec:
    command = load(path)
    flags, arguments = [], []
    for param in command.params:
        if param.param_type_name == "argument":
            arguments.append((param.metavar, param.help or ""))
        else:
            metavar = "" if param.is_flag else param.metavar or "VALUE"
            names = tuple(sorted(param.opts, key=lambda name: name.startswith("--")))
            flags.append(Flag(names, metavar, (param.help or "") + _default(param)))
    flags.append(Flag(HELP, "", "Explain the command."))
    return Spec(path, COMMANDS[path].summary, inspect.cleandoc(command.help or ""), tuple(flags), tuple(arguments))


def _default(param: Any) -> str:
    shown = param.default not in {None, "", False, "-"} and not param.is_flag
    return f" Default: {param.default}." if shown else ""
