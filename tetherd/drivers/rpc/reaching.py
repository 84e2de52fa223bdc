"""How long callers try to reach a process, and what they say when they do not: the same on a loop and in threads."""

from typing import Final

from tetherd.errors import Unreachable
from tetherd.types import Seconds

IPC: Final = "ipc://"

ATTEMPTS: Final = 3
"""How often a request that may be repeated is sent to another host while connections are lost."""

CONNECT: Final[Seconds] = 3.0
"""How long a call waits for a connection."""

REDIAL: Final[Seconds] = 5.0
"""An attempt to connect that takes longer is given up for a new one."""


def unreachable(address: str, why: str) -> Unreachable:
    """Return the error of a call that found no connection, or lost it."""
    return Unreachable(f"cannot reach {address}: {why}", fix="is the daemon that hosts this role running?")
