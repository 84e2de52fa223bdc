"""Finds out whether this host can listen where it will have to, and who has the address if it cannot.

Binds every address for a moment and sends nothing.
"""

import errno
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tetherd.config import addresses
from tetherd.errors import BadConfig, InUse

_PROC: Final = Path("/proc")
_LISTENS: Final = "0A"
_BOUND: Final = "07"
"""How the kernel writes the state of a TCP listener, and of a UDP socket that anybody may send to."""


class Listener(NamedTuple):
    """An address of this host (``host:port``) and the setting it comes from; ``datagrams``: UDP, else TCP."""

    key: str
    listen: str
    datagrams: bool = False


def check(listeners: Iterable[Listener]) -> None:
    """Raise InUse for the first address that another process has, BadConfig for one that nobody could have here."""
    for each in listeners:
        host, port = addresses.split(each.listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            _bind(family, (host, port), each.datagrams)
        except OSError as error:
            name = f"{'UDP' if each.datagrams else 'TCP'} {each.listen}"
            if error.errno != errno.EADDRINUSE:
                fix = f"set {each.key} to an address of this host and a port from 1024, and restart tetherd"
                raise BadConfig(f"cannot listen on {name}: {error.strerror}", fix=fix) from None
            raise InUse(
                f"cannot listen on {name}: {holder(port, datagrams=each.datagrams) or 'another process'} has that port",
                fix=f"stop it; or set {each.key} to another port and restart tetherd; then say the same again",
            ) from None


def _bind(family: socket.AddressFamily, place: tuple[str, int], datagrams: bool) -> None:
    both = place[0] == "::"
    if not datagrams:
        socket.create_server(place, family=family, dualstack_ipv6=both).close()
        return
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        probe.bind(place)


def holder(port: int, *, datagrams: bool = False) -> str:
    """Return name and number of the process that has a port; empty where this user may not know."""
    links = {f"socket:[{inode}]" for inode in _inodes(port, datagrams)}
    for process in _PROC.iterdir() if links else ():
        if process.name.isdigit() and any(_target(file) in links for file in _files(process)):
            return f"{_name(process)} (process {process.name})"
    return ""


def _inodes(port: int, datagrams: bool) -> Iterator[str]:
    """Yield the kernel's numbers of the sockets that have a port."""
    tables, state = (("udp", "udp6"), _BOUND) if datagrams else (("tcp", "tcp6"), _LISTENS)
    for table in tables:
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] == state and int(words[1].rpartition(":")[2], 16) == port:
                yield words[9]


def _files(process: Path) -> Iterator[Path]:
    try:
        yield from (process / "fd").iterdir()
    except OSError:  # another user's, or it has ended
        return


def _target(file: Path) -> str:
    try:
        return str(file.readlink())
    except OSError:
        return ""


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
