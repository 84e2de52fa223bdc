"""``version``, ``completion`` and ``help``: about the tool itself."""

import platform
from typing import Annotated, Any, Final

from typer import Argument, Context

from tetherctl.errors import Usage
from tetherctl.human import clean
from tetherctl.session import Session
from tetherd import __version__
from tetherd.errors import TetherError

SCHEMA: Final = "tether.version/v1"
PATIENCE: Final = 2.0


def version(ctx: Context) -> None:
    """Print the versions of this tool and of the daemon.

    Succeeds without a daemon too; then the daemon's version is missing.
    """
    session: Session = ctx.obj
    document: dict[str, Any] = {"client": __version__, "daemon": None, "python": platform.python_version()}
    try:
        document["daemon"] = session.client.json("GET", "/api/v1/status", timeout=PATIENCE).get("version")
    except TetherError as error:
        session.out.detail(f"daemon: {clean(error.message)}")
    daemon = document["daemon"]
    lines = [f"tetherctl {__version__}   python {document['python']}", f"tetherd   {clean(daemon or 'not reached')}"]
    session.out.record(SCHEMA, document, lines, __version__)
    if daemon not in {None, __version__}:
        session.out.note(f"note: client and daemon differ ({__version__}, {clean(daemon)})")


def completion(ctx: Context, shell: Annotated[str, Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print a completion script for bash, zsh or fish.

    For example: source <(tetherctl completion bash)
    """
    from tetherctl.completions import SHELLS

    if shell not in SHELLS:
        raise Usage(f"no completion for {shell!r}", fix=f"use one of {', '.join(SHELLS)}")
    session: Session = ctx.obj
    session.out.write(SHELLS[shell]())


def help_(
    ctx: Context,
    topic: Annotated[list[str] | None, Argument(metavar="[COMMAND|TOPIC]", help="What to explain.")] = None,
) -> int:
    """Explain a command or a topic."""
    from tetherctl.app import invoke
    from tetherctl.registry import COMMANDS, GROUPS, overview
    from tetherctl.topics import TOPICS, topics

    session: Session = ctx.obj
    name = " ".join(topic or [])
    if name in COMMANDS:
        return invoke(name, ["--help"], session)
    if not name or name in GROUPS:
        session.out.say(overview(name))
        return 0
    if name not in TOPICS:
        raise Usage(f"there is no help on {name[:80]!r}", fix=f"topics: {', '.join(topics())}; or name a command")
    session.out.say(TOPICS[name]())
    return 0
