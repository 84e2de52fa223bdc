"""Where the daemon answers, and why it does not: finds the control socket, connects, tells the causes apart."""

import os
import socket
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tetherctl.errors import NotAnswering, NotRunning, SocketDenied, Usage
from tetherd.config import paths
from tetherd.errors import Unreachable

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
START = "start it: tetherd run   (installed as a service: systemctl start tetherd)"


class Endpoint(msgspec.Struct, frozen=True):
    """One address: a Unix socket (``path``) or a TCP host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Parse ``unix:///path`` or ``http://host:port``; raise Usage otherwise."""
    scheme, _, rest = text.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        return Endpoint(path=rest)
    if scheme == "http" and "@" not in rest:
        host, colon, port = rest.rstrip("/").rpartition(":")
        if not colon or not port:
            host, port = rest.rstrip("/").rstrip(":"), "80"
        host = host.removeprefix("[").removesuffix("]")
        if host and host.isprintable() and not set(host) & set(" /?#") and _is_port(port):
            return Endpoint(host=host, port=int(port))
    raise Usage(f"{text[:120]!r} is not an endpoint", fix="use unix:///path/to/control.sock or http://host:port")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536


def candidates(env: Mapping[str, str]) -> list[str]:
    """Return the places of a control socket, best first: this user's daemon, then the system's."""
    home = Path(env.get("HOME") or "/")
    runtime = env.get("XDG_RUNTIME_DIR", "")
    found = [f"{runtime}/tether/control.sock"] if runtime.startswith("/") else []
    found += [str(paths.find(env, uid=uid, home=home).control_socket) for uid in (os.getuid() or 1, 0)]
    return list(dict.fromkeys(found))


def find_endpoint(named: str, env: Mapping[str, str]) -> Endpoint:
    """Return the endpoint to talk to. Raises Usage, and NotRunning when none is named and no socket exists."""
    if named:
        return parse_endpoint(named)
    places = candidates(env)
    for place in places:
        if _is_socket(place):
            return Endpoint(path=place)
    raise NotRunning(
        "tetherd is not running on this machine",
        fix=f"{START}, or name another machine's gateway with --endpoint http://host:port",
        details={"why": f"there is no control socket at {' or '.join(places)}"},
    )


def _is_socket(place: str) -> bool:
    try:
        return stat.S_ISSOCK(Path(place).stat().st_mode)
    except PermissionError:
        return True  # a daemon may be there; connecting says what is missing
    except OSError:
        return False


def connect(endpoint: Endpoint, timeout: float) -> socket.socket:
    """Return a connected socket. Raises the Unreachable that names the cause."""
    sock = None
    try:
        if not endpoint.path:
            sock = socket.create_connection((endpoint.host, endpoint.port), timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect(endpoint.path)
    except (OSError, UnicodeError, ValueError) as error:
        if sock is not None:
            sock.close()
        raise _diagnose(endpoint, error, timeout) from None
    return sock


def _diagnose(endpoint: Endpoint, error: Exception, timeout: float) -> Unreachable:
    if isinstance(error, TimeoutError | BlockingIOError):
        # A Unix socket refuses with EAGAIN while its queue of connections is full: alive, but stuck.
        return not_answering(endpoint, timeout, 0)
    if isinstance(error, PermissionError):
        return _denied(endpoint)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotRunning(
            f"tetherd is not running at {endpoint}", fix=START, details={"why": "the control socket does not exist"}
        )
    if isinstance(error, ConnectionRefusedError):
        why = "the control socket is left over, nobody listens on it" if endpoint.path else "nothing listens there"
        fix = START if endpoint.path or endpoint.host in LOOPBACK else "start it on that host: tetherd run"
        return NotRunning(f"tetherd is not running at {endpoint}", fix=fix, details={"why": why})
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Unreachable(
        f"cannot reach tetherd at {endpoint}", fix="check --endpoint and the network", details={"why": reason}
    )


def _denied(endpoint: Endpoint) -> SocketDenied:
    why = f"you are uid {os.getuid()}"
    try:
        info = Path(endpoint.path).stat()
        why = f"the socket belongs to uid {info.st_uid}, gid {info.st_gid}, mode {info.st_mode & 0o777:04o}; {why}"
    except OSError:
        why = f"the socket's directory is closed to you; {why}"
    return SocketDenied(
        f"cannot reach tetherd at {endpoint}: permission denied",
        fix="run the command as the daemon's user, or with sudo",
        details={"why": why},
    )


def not_answering(endpoint: Endpoint, timeout: float, pid: int) -> NotAnswering:
    """Return the error for a daemon that lets one connect and then says nothing."""
    who = f"tetherd (pid {pid})" if pid else "tetherd"
    return NotAnswering(
        f"{who} at {endpoint} is running but did not answer within {timeout:g} s",
        fix="wait longer with --timeout 60s, or look at its log",
    )


def peer_pid(sock: socket.socket) -> int:
    """Return the process at the other end of a Unix socket, 0 where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if sock.family != socket.AF_UNIX or option is None:
        return 0
    pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, option, 12))[0]
    return pid
