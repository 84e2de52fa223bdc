"""Where a daemon keeps its files when nothing says otherwise. Imports almost nothing: every command waits for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Paths(NamedTuple):
    """The directories of one daemon; none of them need exist."""

    state: Path
    cache: Path
    runtime: Path
    config: Path

    @property
    def config_file(self) -> Path:
        """The configuration file that is read when none is named."""
        return self.config / "tetherd.toml"

    @property
    def control_socket(self) -> Path:
        """Where the daemon's control socket is by default."""
        return self.runtime / "control.sock"


def find(environ: Mapping[str, str], *, uid: int, home: Path) -> Paths:
    """Return the directories for this user: the service manager's, else the system's for root, else the user's own."""
    own = _system() if uid == 0 else _user(environ, home)
    state = _first(environ, "STATE_DIRECTORY") or own.state
    return Paths(
        state=state,
        cache=_first(environ, "CACHE_DIRECTORY") or own.cache,
        runtime=_first(environ, "RUNTIME_DIRECTORY") or own.runtime,
        config=_first(environ, "CONFIGURATION_DIRECTORY") or own.config,
    )


def _system() -> Paths:
    return Paths(Path("/var/lib/tether"), Path("/var/cache/tether"), Path("/run/tether"), Path("/etc/tether"))


def _user(environ: Mapping[str, str], home: Path) -> Paths:
    state = _xdg(environ, "XDG_STATE_HOME", home / ".local/state")
    runtime = _absolute(environ.get("XDG_RUNTIME_DIR", ""))
    return Paths(
        state=state,
        cache=_xdg(environ, "XDG_CACHE_HOME", home / ".cache"),
        # Never a shared temporary directory: anybody could put a socket of that name there first.
        runtime=runtime / "tether" if runtime else state / "run",
        config=_xdg(environ, "XDG_CONFIG_HOME", home / ".config"),
    )


def _xdg(environ: Mapping[str, str], name: str, default: Path) -> Path:
    # The XDG specification says that a relative path is invalid and must be ignored.
    return (_absolute(environ.get(name, "")) or default) / "tether"


def _first(environ: Mapping[str, str], name: str) -> Path | None:
    # The service manager joins several directories of one kind with colons.
    return _absolute(environ.get(name, "").partition(":")[0])


def _absolute(text: str) -> Path | None:
    return Path(text) if text.startswith("/") else None
