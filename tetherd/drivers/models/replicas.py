"""What a manager that follows another keeps on disk: copies of blobs, and of the catalog that says what they are."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tetherd.drivers.host import durable
from tetherd.drivers.models.blobs import DiskBlobs, disk_errors
from tetherd.drivers.models.drafts import Draft, Drafts
from tetherd.drivers.models.fetch import BulkClient
from tetherd.errors import MALFORMED, StorageFailed
from tetherd.types import Digest
from tetherd.wire.catalog import Catalog
from tetherd.wire.chunks import Blob, BlobSource


class StoreFetcher:
    """Implements ports.Fetcher over a store; ``drafts`` is what other hosts may fetch from meanwhile.

    ``node`` is this host's: each goes its own way through a blob, so that those who fetch at the same time soon have
    something for each other.
    """

    def __init__(self, blobs: DiskBlobs, drafts: Drafts, client: BulkClient, node: str) -> None:
        self._blobs = blobs
        self._drafts = drafts
        self._client = client
        self._salt = int(node[:8], 16)

    def document(self, digest: Digest, limit: int, sources: Sequence[BlobSource]) -> bytes:
        """Return a small blob, from the store if it is there; see ports.Fetcher."""
        state = self._blobs.stat(digest)
        if state.complete:
            return self._blobs.read(digest, 0, state.offset)[0]
        data = self._client.document(digest, limit, sources)
        self._blobs.append(digest, state.offset, len(data), memoryview(data)[state.offset :])
        return data

    def fetch(self, blob: Blob, sources: Sequence[BlobSource]) -> None:
        """Store a blob; see ports.Fetcher."""
        if self._blobs.stat(blob.digest).complete:
            return
        with disk_errors("copy a blob"):
            draft = Draft(blob, self._blobs.draft(blob.digest, blob.size))
            self._drafts.add(draft)
            try:
                self._client.fetch(draft, sources, salt=self._salt if len(sources) > 1 else 0)
                draft.flush()
                self._blobs.adopt(blob.digest)
            finally:
                self._drafts.remove(draft)

    def close(self) -> None:
        """End what is under way."""
        self._client.close()


class FileCatalog:
    """Implements ports.CatalogCopy in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Catalog | None:
        """Return what was saved last."""
        try:
            data = durable.read(self._path)
            return None if data is None else msgspec.json.decode(data, type=Catalog)
        except (*MALFORMED, StorageFailed):
            return None

    def save(self, catalog: Catalog) -> None:
        """Keep a catalog."""
        durable.write(self._path, msgspec.json.encode(catalog))
