"""``tetherctl config``: what is in force on this machine, for this tool and for the daemon, and where it was set."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from typer import Argument, Context

from tetherctl.endpoint import candidates
from tetherctl.errors import Usage
from tetherctl.human import size
from tetherctl.output import Column
from tetherctl.session import Session
from tetherctl.settings import GLOBALS, config_file
from tetherd.config.load import load, load_text
from tetherd.config.paths import find
from tetherd.config.show import entries

MAX_STDIN: Final = 2**20
_BYTES: Final = re.compile("[0-9]{4,}B")  # a size that is no whole number of a larger unit


def show(
    ctx: Context,
    key: Annotated[str, Argument(metavar="[KEY]", help="Only this setting, or those of this table.")] = "",
) -> None:
    """Print effective settings and where each comes from.

    Settings of this tool start with cli; all others are the daemon's, as it would read them if it started now.
    """
    session: Session = ctx.obj
    items = [*_own(session), *_daemons()]
    shown = [item for item in items if not key or item["key"] == key or item["key"].startswith(f"{key}.")]
    if not shown:
        raise Usage(f"there is no setting {key[:80]!r}", fix="tetherctl config show lists all")
    columns = [
        Column("KEY", lambda item: item["key"]),
        Column("VALUE", lambda item: _written(item["value"])),
        Column("ORIGIN", lambda item: item["origin"]),
    ]
    session.out.listing("tether.config.show/v1", shown, columns, lambda item: item["key"], f"{len(shown)} settings")


def _own(session: Session) -> Iterator[dict[str, Any]]:
    settings = session.settings
    for option in GLOBALS:
        if option.key:
            value = getattr(settings, option.name)
            yield {"key": f"cli.{option.key}", "value": value, "origin": settings.origins.get(option.name, "default")}


def _daemons() -> Iterator[dict[str, Any]]:
    for key, value, origin in entries(load(None)):
        yield {"key": ".".join(key), "value": value, "origin": str(origin)}


def _written(value: Any) -> str:
    if value is None or value == "":
        return "(unset)"
    if isinstance(value, str):
        return size(int(value[:-1])).replace(" ", "") if _BYTES.fullmatch(value) else value
    return msgspec.json.encode(value).decode()


def path(ctx: Context) -> None:
    """Print every file and directory in use."""
    session: Session = ctx.obj
    places = find(session.env, uid=os.geteuid(), home=Path(session.env.get("HOME") or "/"))
    found = {"cli": config_file(session.env), "daemon": places.config_file, "state": places.state}
    found |= {"cache": places.cache, "runtime": places.runtime}
    sockets = [("socket", Path(place)) for place in candidates(session.env)]
    items = [{"use": use, "path": str(place), "exists": _exists(place)} for use, place in [*found.items(), *sockets]]
    columns = [
        Column("USE", lambda item: item["use"]),
        Column("PATH", lambda item: item["path"]),
        Column("", lambda item: "" if item["exists"] else "(not there)"),
    ]
    session.out.listing("tether.config.path/v1", items, columns, lambda item: str(item["path"]), "")


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:
        return False


def validate(
    ctx: Context,
    file: Annotated[str, Argument(metavar="[FILE|-]", help="The daemon's file to check; - is stdin.")] = "",
) -> None:
    """Check configuration files without using them.

    Without FILE, the daemon's and this tool's own as they would be read now. Exit code 78 when one cannot be used.
    """
    session: Session = ctx.obj
    if file == "-":
        load_text(sys.stdin.buffer.read(MAX_STDIN + 1) if sys.stdin else b"", "stdin")
    else:
        load(Path(file) if file else None)
    what = "stdin" if file == "-" else file or "the configuration"
    session.out.record("tether.config.validate/v1", {"file": file, "valid": True}, [f"{what} is valid"], what)
