"""Where a version's files come from: the manager of this host, or managers of others.

Neither is believed: whoever asks compares the digest of everything that comes.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from tetherd.errors import DigestMismatch, ModelInvalid
from tetherd.types import Digest
from tetherd.wire.catalog import Chunk, GetBlob, GetManifest
from tetherd.wire.chunks import Blob
from tetherd.wire.messages import Request

PIECE: Final = 1024 * 1024

Call: TypeAlias = Callable[[Request[Chunk]], Chunk]


class Origin(Protocol):
    """Gives what a version consists of. ``resumes``: what it brought by half is worth keeping for the next time."""

    resumes: bool

    def manifest(self, version: Digest) -> bytes:
        """Return a version's manifest. Raises VersionNotFound, Unavailable."""

    def document(self, digest: Digest, size: int) -> bytes:
        """Return a small blob. Raises BlobNotFound, Unavailable."""

    def bring(self, blob: Blob, target: Path) -> None:
        """Write a blob to ``target``. Raises DigestMismatch, ModelInvalid, Unavailable."""


class ManagerOrigin:
    """The manager that ``call`` asks, over the connection of the roles."""

    resumes = False

    def __init__(self, call: Call) -> None:
        self._call = call

    def manifest(self, version: Digest) -> bytes:
        """Return a version's manifest."""
        return bytes(self._call(GetManifest(version)).data.data)

    def document(self, digest: Digest, size: int) -> bytes:
        """Return a small blob."""
        return bytes(self._call(GetBlob(digest, 0, size)).data.data)

    def bring(self, blob: Blob, target: Path) -> None:
        """Write a blob to the new file ``target``."""
        hasher = hashlib.sha256()
        with target.open("xb") as stream:
            at = 0
            while at < blob.size:
                data = self._call(GetBlob(blob.digest, at, min(PIECE, blob.size - at))).data.data
                if not data:
                    raise ModelInvalid(
                        f"{target.name} ends after {at} of {blob.size} bytes", fix="push the model again"
                    )
                hasher.update(data)
                stream.write(data)
                at += len(data)
        if "sha256:" + hasher.hexdigest() != blob.digest:
            raise DigestMismatch(f"{target.name} is not what its digest promises", fix="push the model again")
