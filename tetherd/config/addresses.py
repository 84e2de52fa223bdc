"""Where roles listen and dial: ``host:port`` for HTTP, ``ipc://`` and ``tcp://`` URLs for RPC. Resolves no names."""

import ipaddress
import re
from typing import Final

from tetherd.config.units import BadValue

SOCKET_PATH_MAX: Final = 107
"""Bytes that fit into a Unix socket address beside its closing zero."""

_NAME: Final = re.compile(r"(?=.{1,253}$)(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_NO_TLS = "TLS and keys do not exist yet, so anyone who reaches this port could use it"


def split(text: str) -> tuple[str, int]:
    """Split ``127.0.0.1:3000``, ``[::1]:3000`` or ``localhost:3000``; raise BadValue otherwise.

    The brackets of an IPv6 host are not part of the returned host.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise BadValue(f"{text[:80]!r} is not HOST:PORT", 'write it like "127.0.0.1:3000"')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BadValue(f"{text[:80]!r} has an IPv6 host without brackets", f'write "[{host}]:{port}"')
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise BadValue(f"{port[:20]!r} is not a port", "use a port from 1 to 65535")
    return host, int(port)


def sockets(text: str) -> list[tuple[str, int]]:
    """Return what to bind sockets of one family each to, so that ``text`` is served: two for ``[::]``."""
    host, port = split(text)
    return [(host, port), ("0.0.0.0", port)] if host == "::" else [(host, port)]  # noqa: S104


def only4(text: str) -> str:
    """Return a listener for a host without IPv6: every address is then every one of IPv4."""
    host, port = split(text)
    return f"0.0.0.0:{port}" if host == "::" else text


def http(text: str) -> str:
    """Return ``text`` if the gateway may listen there (loopback only); raise BadValue otherwise."""
    host, port = split(text)
    if not loopback(host):
        raise BadValue(f"{host!r} is not a loopback address: {_NO_TLS}", f'use "127.0.0.1:{port}"')
    return text


def listener(text: str) -> str:
    """Return ``text`` if a port that other hosts reach may be HOST:PORT of it; raise BadValue otherwise."""
    host, port = split(text)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise BadValue(f"{host[:80]!r} is not an address of this machine", f'use "[::]:{port}" for all') from None
    return text


def reachable(text: str) -> str:
    """Return ``text`` if it is a name or an address (IPv6 without brackets) of a host; raise BadValue otherwise."""
    if not is_host(text) or wildcard(text):
        raise BadValue(f"{text[:80]!r} is no host that others could reach", "write a name or address, no port")
    return text


def is_host(text: str) -> bool:
    """Return whether ``text`` is an IP address (IPv6 without brackets and scope) or has the form of a host's name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _NAME.fullmatch(text) is not None
    return "%" not in text


def seed(text: str) -> str:
    """Return ``text`` if it is HOST:PORT of another host; raise BadValue otherwise."""
    reachable(split(text)[0])
    return text


def wildcard(host: str) -> bool:
    """Return whether ``host`` stands for every address of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def rpc(text: str) -> str:
    """Return ``text`` if RPC may use it: ``ipc:///path`` or ``tcp://`` on loopback; raise BadValue otherwise."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("ipc", "tcp"):
        raise BadValue(
            f"{text[:80]!r} is not an RPC address", 'use "ipc:///run/tether/rpc.sock" or "tcp://127.0.0.1:7443"'
        )
    if scheme == "ipc":
        socket_path(rest)
        return text
    host, port = split(rest)
    if not loopback(host):
        raise BadValue(f"{host!r} is not a loopback address: {_NO_TLS}", f'use "tcp://127.0.0.1:{port}" or ipc://')
    return text


def socket_path(text: str) -> str:
    """Return ``text`` if a Unix socket can have that path; raise BadValue otherwise."""
    if not text.startswith("/") or "\0" in text:
        raise BadValue(f"{text[:80]!r} is not an absolute path", "start the path with /")
    length = len(text.encode())
    if length > SOCKET_PATH_MAX:
        raise BadValue(
            f"the socket path has {length} bytes, and the system takes at most {SOCKET_PATH_MAX}",
            "choose a shorter path (node.runtime_dir is where sockets live by default)",
        )
    return text


def loopback(host: str) -> bool:
    """Return whether ``host`` (a literal address, or localhost) can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
