"""Directories that only this user can put files into: sockets and blobs are trusted because of where they lie."""

import os
from pathlib import Path

from tetherd.errors import Forbidden, StorageFailed


def private(directory: Path) -> None:
    """Create ``directory`` (for this user alone) if need be. Raises Forbidden and StorageFailed."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise StorageFailed(
            f"the directory {directory} cannot be used: {error.strerror}",
            fix="name one that this user may create and write to (node.state_dir, node.cache_dir, node.runtime_dir)",
        ) from None
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022:
        raise Forbidden(
            f"other users may put files into {directory}, and so take this daemon's place",
            fix=f"chown it to this user and chmod go-w {directory}",
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StorageFailed(f"this user may not write to {directory}", fix=f"chown it to this user: {directory}")
