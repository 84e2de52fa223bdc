"""Who is at the other end of a local socket, as the kernel tells it, and whether they may be there."""

import os
import socket
import struct
from typing import Final

from tetherd.errors import Forbidden

_CREDENTIALS: Final = struct.Struct("3i")  # process, user, group
_OTHERS: Final = 0o066


def peer_uid(connection: socket.socket) -> int:
    """Return the user who connected."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(found)[1]
    return uid


def check_peer(uid: int, mode: int) -> None:
    """Raise Forbidden for anyone but root and this process's user, unless ``mode`` opens the socket to others.

    A mode that does is the owner's decision, and the file's permissions enforce it.
    """
    if uid not in (0, os.geteuid()) and not mode & _OTHERS:
        raise Forbidden(
            f"the control socket is for root and the user the daemon runs as, not for user {uid}",
            fix="run the command as that user, or open control.mode to a group (0660)",
        )
