"""Where processes are reached, how long callers try to, and what they say when they do not."""

from typing import Final, NamedTuple

from tetherd.errors import BadConfig, Unreachable
from tetherd.types import Credentials, Seconds

IPC: Final = "ipc://"
TCP: Final = "tcp://"
TLS: Final = "tls+tcp://"
"""How addresses between hosts begin: both ends show certificates."""

ATTEMPTS: Final = 3
"""How often a request that may be repeated is sent to another host while connections are lost."""

CONNECT: Final[Seconds] = 3.0
"""How long a call waits for a connection."""

REDIAL: Final[Seconds] = 5.0
"""An attempt to connect that takes longer is given up for a new one."""


class Secret(NamedTuple):
    """What a dial over TLS needs beside the address: who dials, and the node that it means to reach."""

    credentials: Credentials
    node: str


def target(address: str) -> tuple[str, int]:
    """Return host and port of a ``tls+tcp://`` address. Raises BadConfig."""
    host, _, port = address.removeprefix(TLS).rpartition(":")
    if not address.startswith(TLS) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadConfig(f"{address!r} is no address between hosts", fix=f"write {TLS}HOST:7443")
    return host.strip("[]"), int(port)


def unreachable(address: str, why: str) -> Unreachable:
    """Return the error of a call that found no connection, or lost it."""
    return Unreachable(f"cannot reach {address}: {why}", fix="is the daemon that hosts this role running?")
