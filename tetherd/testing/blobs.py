"""Blobs in dictionaries, for tests that need no disk."""

import hashlib
import threading
from collections.abc import Collection
from pathlib import Path

from tetherd.errors import BlobNotFound, DigestMismatch, InvalidInput, OffsetConflict, TooLarge
from tetherd.types import Buffer, Digest, Seconds, parse_digest
from tetherd.wire.catalog import BlobState


class MemoryBlobs:
    """Implements ports.Blobs in dictionaries. ``now`` and ``wall`` are set by the test."""

    def __init__(self, *, max_size: int = 64 << 30, hold: Seconds = 900) -> None:
        self.now: Seconds = 0
        self.wall: Seconds = 0
        self._lock = threading.RLock()
        self._max_size = max_size
        self._hold = hold
        self._blobs: dict[Digest, bytes] = {}
        self._uploads: dict[Digest, bytes] = {}
        self._held: dict[Digest, Seconds] = {}
        self._written: dict[Digest, Seconds] = {}

    def stat(self, digest: Digest) -> BlobState:
        """See ports.Blobs."""
        with self._lock:
            if parse_digest(digest) in self._blobs:
                self._held[digest] = self.now + self._hold
                return BlobState(digest, True, len(self._blobs[digest]))
            return BlobState(digest, False, len(self._uploads.get(digest, b"")))

    def append(self, digest: Digest, offset: int, size: int, data: Buffer) -> BlobState:
        """See ports.Blobs."""
        if size > self._max_size:
            raise TooLarge(f"the file has {size:,} bytes, {self._max_size:,} is the limit")
        if offset < 0 or size < 0 or offset + len(data) > size:
            raise InvalidInput(f"{len(data):,} bytes at {offset:,} do not fit a file of {size:,} bytes")
        with self._lock:
            if parse_digest(digest) in self._blobs:
                return self.stat(digest)
            received = self._uploads.get(digest, b"")
            if offset != len(received):
                at = len(received)
                raise OffsetConflict(f"the upload continues at byte {at:,}", details={"offset": at})
            received += bytes(data)
            self._uploads[digest] = received
            self._written[digest] = self.wall
            self._held[digest] = self.now + self._hold
            if len(received) == size:
                self._seal(digest, received)
            return BlobState(digest, len(received) == size, len(received))

    def read(self, digest: Digest, offset: int, length: int) -> tuple[bytes, int]:
        """See ports.Blobs."""
        if offset < 0 or length < 0:
            raise InvalidInput(f"there are no {length} bytes at {offset}")
        if parse_digest(digest) not in self._blobs:
            raise BlobNotFound(f"no blob {digest} is stored here", details={"digest": digest})
        return self._blobs[digest][offset : offset + length], len(self._blobs[digest])

    def copy(self, digest: Digest, target: Path) -> None:
        """See ports.Blobs."""
        data, _ = self.read(digest, 0, self._max_size)
        with target.open("xb") as sink:
            sink.write(data)

    def discard(self, digests: Collection[Digest]) -> set[Digest]:
        """See ports.Blobs."""
        with self._lock:
            held = {digest for digest in digests if self._held.get(digest, 0) > self.now}
            for digest in set(digests) - held:
                self._blobs.pop(digest, None)
                self._uploads.pop(digest, None)
            return held

    def expire(self, kept: Collection[Digest], before: Seconds) -> None:
        """See ports.Blobs."""
        self.discard([digest for digest, at in self._written.items() if at < before and digest not in kept])

    def _seal(self, digest: Digest, data: bytes) -> None:
        del self._uploads[digest]
        found = "sha256:" + hashlib.sha256(data).hexdigest()
        if found != digest:
            self._held.pop(digest)
            raise DigestMismatch(f"the bytes received have the digest {found}, not {digest}")
        self._blobs[digest] = data
