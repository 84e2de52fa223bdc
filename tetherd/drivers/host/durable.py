"""Small files that are either as they were or as they are meant to be, also after a power failure."""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

from tetherd.errors import Forbidden, StorageFailed, StorageFull

MAX_BYTES: Final = 16 * 2**20
_OTHERS: Final = 0o077
_SUFFIX: Final = ".new"


def write(path: Path, data: bytes) -> None:
    """Put ``data`` into ``path``, for this user's eyes alone. Raises StorageFull, StorageFailed."""
    temporary = path.with_name(path.name + _SUFFIX)
    try:
        temporary.unlink(missing_ok=True)  # left by a crash
        sink = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(sink, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(sink)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise _failed("write", path, error) from None


def read(path: Path, *, secret: bool = False) -> bytes | None:
    """Return what ``path`` holds, None if it is not there; refuse a ``secret`` that other users can read.

    Raises Forbidden, StorageFailed.
    """
    try:
        # Not to wait for the other end of a pipe that lies there.
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed("read", path, error) from None
    try:
        found = os.fstat(source)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
            raise StorageFailed(f"{path} is not a plain file of at most {MAX_BYTES} bytes", fix="move it away")
        if secret:
            _check_secret(path, found)
        with os.fdopen(os.dup(source), "rb") as file:
            return file.read(MAX_BYTES)
    finally:
        os.close(source)


def guard(path: Path) -> None:
    """Raise Forbidden if ``path``, which somebody else reads and writes, is there and other users can read it."""
    with contextlib.suppress(FileNotFoundError):
        _check_secret(path, path.lstat())


def remove(path: Path) -> None:
    """Remove ``path`` if it is there. Raises StorageFailed."""
    try:
        path.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise _failed("remove", path, error) from None


def sync(directory: Path) -> None:
    """Have the names in a directory survive a power failure."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_secret(path: Path, found: os.stat_result) -> None:
    if found.st_mode & _OTHERS or found.st_uid not in (os.geteuid(), 0):
        raise Forbidden(
            f"{path} holds a secret key, and other users can read it (mode {stat.S_IMODE(found.st_mode):04o})",
            fix=f"chmod 600 {path}; if somebody may have read it, make a new one: leave the network and join again",
        )


def _failed(deed: str, path: Path, error: OSError) -> StorageFailed | StorageFull:
    kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
    return kind(f"could not {deed} {path}: {error.strerror or error}", fix="check the disk and the file's permissions")
