"""Has the kernel end connections over which nothing gets through any more: no network says so, and nobody asks.

Of a connection that carries something, it is the other host's kernel that has to be heard: a large message on a slow
line takes its time. A process that reads nothing while more is sent than its host keeps for it is gone as well.
"""

import contextlib
import socket
from typing import Final

from tetherd.drivers.host.descriptors import borrowed, sockets
from tetherd.types import Seconds

BOUND: Final[Seconds] = 4.0
"""How long the other host may acknowledge nothing, neither what was sent nor what asks whether it is there."""

_OPTIONS: Final = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 2}


def bound(found: socket.socket, unread: Seconds = BOUND) -> None:
    """Bound the silence on a connection, and for how long the other side may read nothing of what is sent to it."""
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (_OPTIONS | {"TCP_USER_TIMEOUT": int(unread * 1000)}).items():
        if hasattr(socket, name):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def bound_from(host: str, port: int) -> None:
    """Bound the silence on this process's connection from an address of this host and a port, which is nng's.

    Blocks for microseconds per socket that is open. Nothing happens where the connection has ended.
    """
    for inode, number in sockets().items():
        with contextlib.suppress(OSError), borrowed(inode, number) as found:
            if _is_from(found, host, port):
                bound(found)


def _is_from(found: socket.socket, host: str, port: int) -> bool:
    if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type != socket.SOCK_STREAM:
        return False
    found.getpeername()  # not a listener on the same port
    here, number = found.getsockname()[:2]
    return (here.partition("%")[0], number) == (host, port)
