"""One daemon per state directory: a lock that the kernel releases however the daemon ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tetherd.errors import InUse, StorageFailed

NAME = "tetherd.lock"


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Hold ``directory`` while the context lasts.

    Raises InUse (which names the process that holds it) and StorageFailed.
    """
    path = directory / NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StorageFailed(
            f"{path} cannot be written: {error.strerror}",
            fix="make node.state_dir a directory that this user may write to",
        ) from None
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise InUse(
            f"{who} uses {directory} already, and a state directory belongs to one daemon",
            fix="stop it, or give this daemon its own node.state_dir and node.runtime_dir",
        ) from None
    # The file stays behind, empty of meaning: removing it would let two daemons lock two files of one name.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
