"""Real daemons on the hosts of a network, each with directories of its own, and what is asked of them from there."""

import contextlib
import http.client
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from harness import PATIENCE, ROLES, Daemon
from lab import Host
from traffic import Traffic

GATEWAY: Final = "127.0.0.1:3000"
"""Where every gateway listens: on its own loopback, which is no other host's."""


class _Inside(http.client.HTTPConnection):
    """A connection from within a host; whoever uses it may be outside."""

    def __init__(self, host: Host, address: str, timeout: float) -> None:
        super().__init__(address, timeout=timeout)
        self._from = host

    def connect(self) -> None:
        self.sock = self._from.space.socket()
        self.sock.settimeout(self.timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect((self.host, self.port))


class Resident(Daemon):
    """A daemon that runs on a host of the network; HTTP and ``tetherctl`` come from there, too."""

    def __init__(self, host: Host, folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(folder, host.name, settings)
        self.host = host

    def start(self, *, wait: bool = True, under: Sequence[str] = ()) -> Self:
        self.host.space.call(lambda: Daemon.start(self, wait=False, under=under))
        if wait:
            self.wait_live()
        return self

    def ctl(self, *words: str, stdin: bytes = b"", code: int | None = 0) -> subprocess.CompletedProcess[bytes]:
        return self.host.space.call(lambda: Daemon.ctl(self, *words, stdin=stdin, code=code))

    def connect(self, *, control: bool = False, timeout: float = PATIENCE) -> http.client.HTTPConnection:
        return super().connect(control=True, timeout=timeout) if control else _Inside(self.host, self.address, timeout)

    def traffic(self, clients: int = 4) -> Traffic:
        """Let clients on this host ask its gateway for the digits model, until the end of the context."""
        return Traffic(self.host.space, self.address, clients)


class Fleet:
    """The daemons of one network, one on each host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members: dict[str, Resident] = {}

    def daemon(self, host: Host, *roles: str, **settings: Mapping[str, Any]) -> Resident:
        """Return the daemon of a host, not started yet, of these roles (none named: all) and settings (by table)."""
        home = self.folder / host.name
        home.mkdir()
        tables: dict[str, dict[str, Any]] = {
            "node": {
                "name": host.name,
                "roles": list(roles or ROLES),
                "state_dir": str(home / "state"),
                "cache_dir": str(home / "cache"),
                "runtime_dir": str(home / "run"),
            },
            "drain": {"deadline": "10s"},
        }
        if "gateway" in tables["node"]["roles"]:
            tables["gateway"] = {"listen": GATEWAY}
        for table, values in settings.items():
            tables.setdefault(table, {}).update(values)
        self.members[host.name] = Resident(host, home, tables)
        return self.members[host.name]

    def ctl(self, host: Host, *words: str, stdin: bytes = b"", code: int | None = 0) -> str:
        """Run a command of ``tetherctl`` on a host against its daemon, and return what it printed."""
        return self.members[host.name].ctl(*words, stdin=stdin, code=code).stdout.decode()

    def found(self, host: Host, *roles: str, **settings: Mapping[str, Any]) -> Resident:
        """Start a host's daemon and let it found a network, which ``join`` joins."""
        self._founder = self.daemon(host, *roles, **settings).start()
        self._founder.ctl("cluster", "init", "--name", "home")
        return self._founder

    def join(self, host: Host, *roles: str, **settings: Mapping[str, Any]) -> Resident:
        """Start a host's daemon and let it join with a token for its roles."""
        daemon = self.daemon(host, *roles, **settings).start()
        self._invite(daemon, *roles)
        return daemon

    def rejoin(self, daemon: Resident, *roles: str) -> None:
        """Let a host that was sent away forget the network, and join it once more."""
        daemon.ctl("cluster", "leave", "--force", "--yes")
        self._invite(daemon, *roles)

    def _invite(self, daemon: Resident, *roles: str) -> None:
        wanted = [word for role in roles for word in ("--role", role)]
        daemon.ctl("cluster", "join", stdin=self._founder.ctl("cluster", "token", *wanted).stdout)

    def end(self) -> None:
        for member in self.members.values():
            member.end()

    def check_logs(self) -> None:
        for member in self.members.values():
            assert "Traceback" not in member.logged(), f"{member.name}:\n{member.logged()[-8000:]}"


@contextlib.contextmanager
def new_fleet() -> Iterator[Fleet]:
    """Yield a fleet without members; end its daemons, and read their logs."""
    # Short: the paths of sockets have little room.
    folder = Path(tempfile.mkdtemp(prefix="tth"))
    fleet = Fleet(folder)
    try:
        try:
            yield fleet
        finally:
            fleet.end()
        fleet.check_logs()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
