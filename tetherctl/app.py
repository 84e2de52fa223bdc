"""From a command line to an exit code: takes out the global options, loads the one command that is meant, runs it."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from tetherctl.errors import Usage
from tetherctl.output import Output, StdoutClosed
from tetherctl.registry import COMMANDS, overview, route
from tetherctl.session import Session
from tetherctl.settings import GLOBALS, Settings, hoist, resolve
from tetherd.config.environment import environment
from tetherd.errors import TetherError


class Terminated(KeyboardInterrupt):
    """SIGTERM, treated as an interrupt so that the same clean-up runs."""


def run(argv: list[str]) -> int:
    """Run one command line; return its exit code."""
    out = Output(Settings(output=_wanted(argv)), sys.stdout, sys.stderr)
    try:
        signal.signal(signal.SIGTERM, _terminated)
        code = _run(argv, out)
        out.flush()
    except TetherError as error:
        return _report(out, error)
    except StdoutClosed:
        _abandon_stdout()
        code = 141
    except KeyboardInterrupt as stop:
        code = 143 if isinstance(stop, Terminated) else 130
        out.end_line()
    except OSError as error:
        code = _report(out, _local(error))
    except Exception as error:
        code = _crashed(out, error)
    return code


def _run(argv: list[str], out: Output) -> int:
    flags, words = hoist(argv)
    settings = resolve(flags, environment())
    out.adopt(settings)
    session = Session(settings, environment(), out)
    try:
        return _dispatch(words, session)
    finally:
        session.close()


def _dispatch(words: list[str], session: Session) -> int:
    if words[:1] == ["__complete"]:
        from tetherctl.complete import answer

        return answer(session, words[1:])
    if set(words) & {"--version", "-V"} and "--" not in words:
        words = ["version"]
    path, rest = route(words)
    if path not in COMMANDS:
        return _overview(session.out, path, asked=not path or bool(rest))
    return invoke(path, rest, session)


def _overview(out: Output, group: str, *, asked: bool) -> int:
    if asked:
        out.say(overview(group))
        return 0
    raise Usage(f"tetherctl {group} needs a command", fix=f"tetherctl {group} --help lists them")


def load(path: str) -> Any:
    """Import one command and return it as a typer command. Only the module it lives in is imported."""
    from typer import Typer
    from typer.main import get_command

    from tetherctl.command import Command

    module, _, name = COMMANDS[path].target.partition(":")
    function: Callable[..., Any] = getattr(import_module(f"tetherctl.commands.{module}"), name)
    app = Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    app.command(path.split()[-1], cls=Command, context_settings=settings)(function)
    return get_command(app)


def invoke(path: str, args: list[str], session: Session) -> int:
    """Run the command at ``path``; return its exit code. Raises TetherError."""
    from typer import Exit, TyperException

    command = load(path)
    try:
        with command.make_context(f"tetherctl {path}", args, obj=session) as context:
            code = command.invoke(context)
    except Exit as stop:
        code = stop.exit_code
    except BrokenPipeError:  # help, which typer prints
        raise StdoutClosed from None
    except TyperException as error:
        raise _usage(path, command, error) from None
    return code if isinstance(code, int) else 0


def _usage(path: str, command: Any, error: Any) -> Usage:
    message = error.format_message().rstrip(".")
    fix = f"tetherctl {path} --help shows its arguments"
    if option := getattr(error, "option_name", ""):
        known = [*(o for p in command.params for o in p.opts), *(f for g in GLOBALS for f in g.flags), "--json"]
        # Compared without dashes, which all have; and an option of one letter is close to every short word.
        words = [name.removeprefix("--") for name in known if name.startswith("--")]
        if option not in known and (close := get_close_matches(option.lstrip("-"), words, 1)):
            message, fix = f"No such option: {option}", f"did you mean --{close[0]}?"
    return Usage(f"{message[0].lower()}{message[1:]}" if message else "wrong arguments", fix=fix)


def _wanted(argv: list[str]) -> str:
    # An error in the command line itself must already come in the form that the line asks for.
    try:
        flags, _ = hoist(argv)
    except TetherError:
        flags = {"output": "json"} if "--json" in argv else {}
    form = flags.get("output") or environment().get("TETHER_OUTPUT", "")
    return form if form in {"json", "ndjson", "name"} else "table"


def _terminated(_number: int, _frame: object) -> None:
    raise Terminated


def _report(out: Output, error: TetherError) -> int:
    try:
        out.flush()
    except (StdoutClosed, OSError):
        _abandon_stdout()
    out.fail(error)
    return error.exit_code


def _local(error: OSError) -> TetherError:
    from tetherctl.errors import LocalIO

    name = f" {error.filename}" if error.filename else ""
    return LocalIO(
        f"cannot read or write{name}: {error.strerror or error}", fix="check the path, its permissions and disk space"
    )


def _abandon_stdout() -> None:
    # What is still buffered has nowhere to go; without this the interpreter complains about it on its way out.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _crashed(out: Output, error: Exception) -> int:
    import tempfile

    from tetherd.errors import Internal

    with tempfile.NamedTemporaryFile("w", prefix="tetherctl-", suffix=".txt", delete=False, errors="replace") as file:
        file.write(f"tetherctl met an error it does not know.\nPython {sys.version}\n\n")
        traceback.print_exception(error, file=file)
    return _report(
        out, Internal(f"tetherctl failed: {type(error).__name__}: {error}", fix=f"please report it, with {file.name}")
    )
