"""Content-addressed files on disk, laid out as an OCI image layout (``sha256/<hex>``).

A blob is acknowledged only when its bytes, its name and its directory are on disk; a failed fsync is never retried,
because the kernel may have dropped the pages it could not write. Nothing here may create or follow a link.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat as modes
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

from tetherd.drivers.host import durable
from tetherd.errors import (
    BlobNotFound,
    DigestMismatch,
    InvalidInput,
    OffsetConflict,
    StorageFailed,
    StorageFull,
    TooLarge,
)
from tetherd.types import Buffer, Digest, Seconds, digest_hex, parse_digest
from tetherd.wire.catalog import BlobState

_PARTIAL: Final = ".part"
_FETCHED: Final = ".fetch"  # unlike an upload, it has gaps
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_CANNOT_CLONE: Final = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})
_STRIPES: Final = 64
_READ: Final = 1 << 20


class _Upload:
    """The bytes received of one blob so far, hashed."""

    __slots__ = ("hasher", "offset")

    def __init__(self) -> None:
        self.hasher = hashlib.sha256()
        self.offset = 0

    def add(self, data: Buffer) -> None:
        self.hasher.update(data)
        self.offset += len(data)


class DiskBlobs:
    """Implements ports.Blobs in one directory.

    ``max_size`` bounds one blob. ``reserve`` is the share of the disk that new uploads leave free, so that uploads
    under way and the ledger still find room. ``hold`` is how long a blob that someone asked for is safe from removal.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_size: int = 64 << 30,
        reserve: float = 0.05,
        hold: Seconds = 900,
        now: Callable[[], Seconds] = time.monotonic,
    ) -> None:
        self._root = root / "sha256"
        self._max_size = max_size
        self._reserve = reserve
        self._hold = hold
        self._now = now
        self._uploads: dict[Digest, _Upload] = {}
        self._held: dict[Digest, Seconds] = {}
        # One lock per digest would have to be forgotten at the right moment; sharing some between digests need not.
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        with disk_errors("open the blob store"):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.sync(self._root)  # a name that a killed process left behind may not be on disk yet
            durable.sync(root)

    def path(self, digest: Digest) -> Path:
        """Return where a blob lies. The only place where a digest becomes a path."""
        return self._root / digest_hex(digest)

    def stat(self, digest: Digest) -> BlobState:
        """Return how much of the blob is stored; hold it if all of it is."""
        with self._locked(digest) as path, disk_errors("look up a blob"):
            size = _size(path)
            if size is not None:
                self._held[digest] = self._now() + self._hold
                return BlobState(digest, True, size)
            return BlobState(digest, False, _size(_part(path)) or 0)

    def append(self, digest: Digest, offset: int, size: int, data: Buffer) -> BlobState:
        """Append to an upload; see ports.Blobs."""
        self._check(offset, size, len(data))
        with self._locked(digest) as path:
            with disk_errors("resume an upload"):
                self._held[digest] = self._now() + self._hold
                stored = _size(path)
                if stored is not None:
                    return BlobState(digest, True, stored)
                upload = self._resume(digest, _part(path))
            if offset != upload.offset:
                raise OffsetConflict(
                    f"the upload continues at byte {upload.offset:,}, not {offset:,}",
                    fix=f"send the bytes from {upload.offset} on",
                    details={"offset": upload.offset},
                )
            if offset == 0:
                self._check_room(size)
            self._extend(digest, upload, size, data)
            return BlobState(digest, upload.offset == size, upload.offset)

    def read(self, digest: Digest, offset: int, length: int) -> tuple[bytes, int]:
        """Return at most ``length`` bytes from ``offset`` and the blob's size."""
        if offset < 0 or length < 0:
            raise InvalidInput(f"there are no {length} bytes at {offset}", fix="use an offset and length from 0 up")
        with disk_errors("read a blob"), _opened(digest, self.path(digest)) as source:
            return os.pread(source, length, offset), os.fstat(source).st_size

    def copy(self, digest: Digest, target: Path) -> None:
        """Write the blob to the new file ``target``."""
        with disk_errors("copy a blob"), _opened(digest, self.path(digest)) as source:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(target, flags, 0o600), "wb") as sink:
                _copy(source, sink)

    def draft(self, digest: Digest, size: int) -> Path:
        """Return where a blob that is fetched may lie until ``adopt``. Raises StorageFull where it has no room."""
        path = _fetched(self.path(digest))
        with disk_errors("make room for a blob"):
            self._check_room(size - (_size(path) or 0))
        return path

    def adopt(self, digest: Digest) -> None:
        """Make the draft of a blob the blob. Its digest was checked, and its bytes are on disk."""
        with self._locked(digest) as path, disk_errors("store a blob"):
            self._held[digest] = self._now() + self._hold
            _fetched(path).rename(path)
            durable.sync(self._root)
            self._uploads.pop(digest, None)
            _part(path).unlink(missing_ok=True)

    def discard(self, digests: Collection[Digest]) -> set[Digest]:
        """Remove blobs that are not held; return those that are."""
        return {digest for digest in digests if not self._remove(digest)}

    def expire(self, kept: Collection[Digest], before: Seconds) -> None:
        """Remove blobs and uploads last written ``before`` that are neither ``kept`` nor held."""
        now = self._now()
        for digest in [digest for digest, until in list(self._held.items()) if until <= now]:
            self._held.pop(digest, None)
        with disk_errors("look for abandoned uploads"), os.scandir(self._root) as entries:
            old = [entry.name for entry in entries if entry.stat(follow_symlinks=False).st_mtime < before]
        for name in old:
            with contextlib.suppress(InvalidInput):  # a file that someone else put here is not ours to remove
                digest = parse_digest("sha256:" + name.removesuffix(_PARTIAL).removesuffix(_FETCHED))
                if digest not in kept:
                    self._remove(digest)

    @contextlib.contextmanager
    def _locked(self, digest: Digest) -> Iterator[Path]:
        path = self.path(digest)
        with self._locks[int(path.name[:2], 16) % _STRIPES]:
            yield path

    def _check(self, offset: int, size: int, length: int) -> None:
        if size > self._max_size:
            raise TooLarge(f"the file has {size:,} bytes, {self._max_size:,} is the limit", fix="push a smaller file")
        if offset < 0 or size < 0 or offset + length > size:
            raise InvalidInput(
                f"{length:,} bytes at {offset:,} do not fit a file of {size:,} bytes", fix="send the file's own bytes"
            )

    def _check_room(self, size: int) -> None:
        disk = os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize
        if free - size < self._reserve * disk.f_blocks * disk.f_frsize:
            raise StorageFull(
                f"the disk has {free:,} bytes free, and a share of {self._reserve:.0%} is kept free",
                fix="remove models or free space on the manager's disk",
            )

    def _resume(self, digest: Digest, part: Path) -> _Upload:
        """Return the upload under way, hashing again what an earlier process received."""
        size = _size(part) or 0
        upload = self._uploads.get(digest)
        if upload is not None and upload.offset == size:
            return upload
        upload = self._uploads[digest] = _Upload()
        if size:
            with _opened(digest, part) as source:
                while data := os.pread(source, _READ, upload.offset):
                    upload.add(data)
        return upload

    def _extend(self, digest: Digest, upload: _Upload, size: int, data: Buffer) -> None:
        part = _part(self.path(digest))
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with disk_errors("write an upload"):
            sink = os.open(part, flags, 0o600)
        offset = upload.offset
        try:
            with disk_errors("write an upload"):
                _write(sink, offset, data)
            upload.add(data)
            with self._undoing(digest, sink, offset), disk_errors("make an upload durable"):
                if upload.offset < size:
                    os.fdatasync(sink)
                else:
                    self._seal(digest, upload, sink)
        finally:
            os.close(sink)

    def _seal(self, digest: Digest, upload: _Upload, sink: int) -> None:
        """Turn a complete upload into a blob."""
        path = self.path(digest)
        found = "sha256:" + upload.hasher.hexdigest()
        if found != digest:
            self._unlink(digest)
            raise DigestMismatch(
                f"the bytes received have the digest {found}, not {digest}",
                fix="the file changed or was damaged on the way: push it again",
            )
        os.fsync(sink)
        _part(path).rename(path)
        durable.sync(self._root)
        del self._uploads[digest]

    @contextlib.contextmanager
    def _undoing(self, digest: Digest, sink: int, offset: int) -> Iterator[None]:
        """Take back the last part of an upload that could not be made durable; the parts before it were."""
        try:
            yield
        except (StorageFailed, StorageFull):
            self._uploads.pop(digest, None)
            path = self.path(digest)
            with contextlib.suppress(OSError):
                if _size(path) is not None:
                    path.rename(_part(path))
                os.ftruncate(sink, offset)
            raise

    def _remove(self, digest: Digest) -> bool:
        with self._locked(digest), disk_errors("remove a blob"):
            if self._held.get(digest, 0) > self._now():
                return False
            self._unlink(digest)
            return True

    def _unlink(self, digest: Digest) -> None:
        path = self.path(digest)
        self._uploads.pop(digest, None)
        self._held.pop(digest, None)
        path.unlink(missing_ok=True)
        _part(path).unlink(missing_ok=True)
        _fetched(path).unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(deed: str) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(
                f"could not {deed}: {error.strerror}", fix="remove models or free space on the manager's disk"
            ) from error
        raise StorageFailed(
            f"could not {deed}: {error.strerror or error}", fix="check the manager's disk and its permissions"
        ) from error


def _part(path: Path) -> Path:
    return path.with_name(path.name + _PARTIAL)


def _fetched(path: Path) -> Path:
    return path.with_name(path.name + _FETCHED)


def _size(path: Path) -> int | None:
    """Return the size of a regular file that is nobody else's too, None if there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not modes.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise OSError(errno.EPERM, "a link or special file lies where a blob belongs")
    return found.st_size


@contextlib.contextmanager
def _opened(digest: Digest, path: Path) -> Iterator[int]:
    if _size(path) is None:
        raise BlobNotFound(f"no blob {digest} is stored here", fix="push the model again", details={"digest": digest})
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield source
    finally:
        os.close(source)


def _write(sink: int, offset: int, data: Buffer) -> None:
    """Write all of ``data`` at ``offset``, or leave the file as it was."""
    rest = memoryview(data).cast("B")
    at = offset
    try:
        while rest:
            count = os.pwrite(sink, rest, at)
            rest, at = rest[count:], at + count
    except OSError:
        os.ftruncate(sink, offset)
        raise


def _copy(source: int, sink: Any) -> None:
    """Copy one file's bytes, inside the file system where it can share them between files."""
    try:
        while os.copy_file_range(source, sink.fileno(), 1 << 30):
            pass
    except OSError as error:
        if error.errno not in _CANNOT_CLONE:
            raise
        os.lseek(source, 0, os.SEEK_SET)
        sink.seek(0)
        with os.fdopen(os.dup(source), "rb") as plain:
            shutil.copyfileobj(plain, sink, _READ)
