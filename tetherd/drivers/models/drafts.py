"""Blobs that are being fetched: what of them is here, believed only by the digests of their chunks.

Nothing else is recorded beside the bytes, so there is nothing that a killed process could leave in disagreement with
them. Other hosts may be served from a draft: each of its chunks is as good as a finished blob's.
"""

import hashlib
import os
import stat
import threading
import weakref
from pathlib import Path
from typing import Any, Final

from tetherd.errors import StorageFailed
from tetherd.types import Buffer, Digest
from tetherd.wire.chunks import CHUNK, Blob

_PIECE: Final = 1 << 20


class Draft:
    """One blob on its way into ``path``. ``put`` and ``read`` may be called from several threads, the others from one.

    Its file is closed when nobody refers to it any more: whoever serves from it can finish, also when it is done.
    """

    def __init__(self, blob: Blob, path: Path) -> None:
        self.blob = blob
        self.path = path
        self.have: set[int] = set()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        weakref.finalize(self, os.close, self._file)
        self._hasher = hashlib.sha256()
        self._hashed = 0  # chunks
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise StorageFailed(f"{path} is a link or a special file", fix="remove it")
        self._resume(found.st_size)

    def put(self, index: int, data: Buffer) -> None:
        """Store a chunk that its digest confirmed, or whose digest nobody knows."""
        offset, _ = self.blob.span(index)
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._file, rest, offset)
            rest, offset = rest[written:], offset + written
        self.have.add(index)

    def holds(self, start: int, end: int) -> bool:
        """Tell whether all bytes from ``start`` to before ``end`` are here."""
        return self.have.issuperset(range(start // CHUNK, -(-end // CHUNK)))

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes that are here; what is not reads as zeros or ends early, so ask ``holds`` first."""
        return os.pread(self._file, length, offset)

    def hash_on(self) -> None:
        """Hash what is here of the blob from its start on, as far as there is no gap."""
        while self._hashed in self.have:
            offset, length = self.blob.span(self._hashed)
            self._hash(self._hasher, offset, length)
            self._hashed += 1

    def digest(self) -> Digest:
        """Return the digest of what was hashed so far."""
        return Digest("sha256:" + self._hasher.hexdigest())

    def forget(self) -> None:
        """Start from nothing."""
        os.ftruncate(self._file, 0)
        self.have.clear()
        self._hasher, self._hashed = hashlib.sha256(), 0

    def flush(self) -> None:
        """Return when its bytes are on disk."""
        os.fsync(self._file)

    def _resume(self, size: int) -> None:
        """Believe what the digests confirm of what an earlier attempt left; forget the rest."""
        if not self.blob.chunks:
            os.ftruncate(self._file, 0)
            return
        os.ftruncate(self._file, min(size, self.blob.size))
        for index, expected in enumerate(self.blob.chunks):
            offset, length = self.blob.span(index)
            if offset + length > size:
                break
            hasher = hashlib.sha256()
            self._hash(hasher, offset, length)
            if hasher.digest() == expected:
                self.have.add(index)

    def _hash(self, hasher: Any, offset: int, length: int) -> None:
        end = offset + length
        while offset < end and (data := os.pread(self._file, min(_PIECE, end - offset), offset)):
            hasher.update(data)
            offset += len(data)


class Drafts:
    """The drafts of this process, by digest: what the server may serve before it is complete."""

    def __init__(self) -> None:
        self._open: dict[Digest, Draft] = {}
        self._lock = threading.Lock()

    def get(self, digest: Digest) -> Draft | None:
        """Return the draft of a blob that is being fetched."""
        return self._open.get(digest)

    def add(self, draft: Draft) -> bool:
        """Let a draft be served; False when somebody else fetches that blob already."""
        with self._lock:
            return self._open.setdefault(draft.blob.digest, draft) is draft

    def remove(self, draft: Draft) -> None:
        """Serve it no more."""
        with self._lock:
            if self._open.get(draft.blob.digest) is draft:
                del self._open[draft.blob.digest]
