"""The man page, in the classic man macros, made from the commands themselves."""

from collections.abc import Iterable, Iterator
from typing import Final

from tetherctl.reference import Flag, Spec, global_flags, specs
from tetherctl.topics import ENVIRONMENT, EXIT_CODES, QUICKSTART

DATE: Final = "2025-01-01"
"""A fixed date: the page must be the same whenever it is made."""


def page() -> str:
    """Return tetherctl(1)."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield f'.TH TETHERCTL 1 {DATE} Tether "Tether Manual"'
    yield from (".SH NAME", "tetherctl \\- run models on your own machines")
    yield from (".SH SYNOPSIS", ".B tetherctl", "[\\fIglobal options\\fR] \\fIcommand\\fR [\\fIarguments\\fR]")
    yield from (".SH DESCRIPTION", "tetherctl is the operator's side of Tether.")
    yield "It talks to the daemon, tetherd, over its control socket or over HTTP."
    yield from (".SH COMMANDS",)
    for spec in specs():
        yield from _command(spec)
    yield from (".SH GLOBAL OPTIONS", "They may stand anywhere on the line before \\-\\-.")
    yield from _flags(global_flags())
    yield from (".SH EXIT STATUS",)
    for code, meaning, again in EXIT_CODES:
        yield from (".TP", f"\\fB{code}\\fR", _text(meaning + (f". Try again? {again}" if again else "")) + ".")
    yield from (".SH ENVIRONMENT", *_literal(ENVIRONMENT))
    yield from (".SH EXAMPLES", *_literal(QUICKSTART))
    yield from (".SH SEE ALSO", ".BR tetherd (8)")


def _command(spec: Spec) -> Iterator[str]:
    yield f".SS tetherctl {_text(spec.path)}"
    arguments = " ".join(f"\\fI{_text(name)}\\fR" for name, _ in spec.arguments)
    yield f"\\fBtetherctl {_text(spec.path)}\\fR {arguments} [\\fIoptions\\fR]".replace("  ", " ")
    for paragraph in spec.text.split("\n\n"):
        yield from (".PP", *(_text(line) for line in paragraph.splitlines()))
    for name, text in spec.arguments:
        yield from (".TP", f"\\fI{_text(name)}\\fR", _text(text))
    yield from _flags(spec.flags)


def _flags(flags: Iterable[Flag]) -> Iterator[str]:
    for flag in flags:
        names = ", ".join(f"\\fB{_text(name)}\\fR" for name in flag.names)
        value = f" \\fI{flag.metavar}\\fR" if flag.metavar else ""
        values = f" One of {', '.join(flag.values)}." if flag.values else ""
        yield from (".TP", names + value, _text(flag.help + values))


def _literal(text: str) -> Iterator[str]:
    yield ".nf"
    yield from (_text(line) or ".sp" for line in text.splitlines())
    yield ".fi"


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
