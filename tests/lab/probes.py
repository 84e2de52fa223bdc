"""Datagrams between hosts of a network, sent and counted by the test itself."""

import socket
from typing import Final

from lab import Host

BURST: Final = 50
"""Datagrams sent before what arrived is taken in, so that no buffer runs over."""

QUIET: Final = 0.1
"""Seconds of silence after which nothing more is expected, beyond what a link delays."""


def udp(host: Host, port: int = 0, *, family: int = socket.AF_INET) -> socket.socket:
    """Return a socket for datagrams, bound to all addresses of a host."""
    made = host.space.socket(socket.SOCK_DGRAM, family)
    made.bind(("", port))
    return made


def drain(target: socket.socket, quiet: float = QUIET) -> list[bytes]:
    """Return all that arrives, until nothing has for ``quiet`` seconds."""
    target.settimeout(quiet)
    arrived = []
    while True:
        try:
            arrived.append(target.recv(2048))
        except (TimeoutError, BlockingIOError):
            return arrived


def stream(source: Host, target: Host, count: int = 1, *, port: int = 0, family: int = socket.AF_INET) -> list[int]:
    """Send numbered datagrams from one host to another, and return the numbers in the order in which they arrive."""
    with udp(source, family=family) as sender, udp(target, port, family=family) as receiver:
        address = target.address6 if family == socket.AF_INET6 else target.address
        arrived = []
        for number in range(count):
            sender.sendto(number.to_bytes(4, "big"), (address, receiver.getsockname()[1]))
            if number % BURST == BURST - 1:
                arrived += drain(receiver, 0.002)
        return [int.from_bytes(one, "big") for one in arrived + drain(receiver)]


def reaches(source: Host, target: Host, **options: int) -> bool:
    """Tell whether a datagram arrives."""
    return stream(source, target, **options) == [0]


def seen_as(sender: socket.socket, server: Host, receiver: socket.socket) -> tuple[str, int]:
    """Return the address and port that a datagram has on its arrival at a server."""
    sender.sendto(b"who am I", (server.address, receiver.getsockname()[1]))
    address: tuple[str, int] = receiver.recvfrom(2048)[1]
    return address
