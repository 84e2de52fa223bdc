"""Writes the manual page tetherd(8) from the command line and the schema: ``python -m tetherd.manual [DIRECTORY]``."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from tetherd.__main__ import command_line
from tetherd.config import units
from tetherd.config.fields import SETTINGS
from tetherd.types import DEFAULT_ROLES, ROLES

DATE: Final = "2025-01-01"
"""A fixed date: the page must be the same whenever it is made."""


def page() -> str:
    """Return tetherd(8) in the classic man macros."""
    return "\n".join(_lines(command_line())) + "\n"


def _lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f'.TH TETHERD 8 {DATE} Tether "Tether Manual"'
    yield from (".SH NAME", "tetherd \\- the Tether daemon")
    yield from (".SH SYNOPSIS", ".B tetherd", "\\fIcommand\\fR [\\fIoptions\\fR]")
    yield from (
        ".SH DESCRIPTION",
        f"tetherd runs the roles that a host is assigned: {', '.join(ROLES)}.",
    )
    yield f"Without a configuration it runs {', '.join(DEFAULT_ROLES)}, bound to loopback."
    yield "The first SIGTERM or SIGINT lets requests in flight finish, a second one ends it at once."
    yield ".SH COMMANDS"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield from _command(name, summaries[name], command)
    yield from (
        ".SH SETTINGS",
        "In a TOML file, as TETHER__SECTION__KEY in the environment, or as \\-\\-set section.key=value.",
    )
    for setting in SETTINGS.values():
        yield from (".TP", f"\\fB{_text('.'.join(setting.key))}\\fR", _text(setting.meaning or "See worker."))
        if setting.default is not msgspec.NODEFAULT and setting.default not in ((), "", None):
            yield f"Default: {_text(_value(setting.default, setting.form.kind))}."
    yield from (".SH EXIT STATUS", *(_text(line) for line in (parser.epilog or "").splitlines()[:1]))
    yield from (_text(line) for line in (parser.epilog or "").splitlines()[1:])
    yield from (".SH SEE ALSO", ".BR tetherctl (1)")


def _command(name: str, summary: str, command: argparse.ArgumentParser) -> Iterator[str]:
    yield from (f".SS tetherd {name}", _text(summary[:1].upper() + summary[1:]) + ".")
    for action in command._actions:
        if action.dest == "help":
            continue
        names = ", ".join(f"\\fB{_text(option)}\\fR" for option in action.option_strings)
        shown = f"\\fI{_text(str(action.metavar))}\\fR" if action.metavar else ""
        yield from (".TP", " ".join(part for part in (names, shown) if part), _text(action.help or ""))


def _value(default: object, kind: str) -> str:
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    match default:
        case bool():
            return str(default).lower()
        case float() if kind == "duration":
            return units.show_duration(default)
        case int() if kind == "size":
            return units.show_size(default)
        case int() if kind == "mode":
            return f"{default:04o}"
    return str(default)


def _text(text: str) -> str:
    """Escape what the macros would take for their own."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "man/tetherd.8"
    place.parent.mkdir(exist_ok=True)
    place.write_text(page(), encoding="utf-8")
