"""Which blobs a manager leaves alone though its own catalog does not name them: an earlier place of this host did.

A host's ledger is from when it wrote a catalog, the files beside it are the catalogs of managers that it followed.
What cannot be read is an error here, for whoever asks is about to remove the rest.
"""

from pathlib import Path
from typing import Final

import msgspec

from tetherd.drivers.host import durable
from tetherd.drivers.models.blobs import disk_errors
from tetherd.drivers.models.ledger import SqliteLedger
from tetherd.errors import MALFORMED, BlobNotFound, InvalidInput, ModelInvalid, StorageFailed
from tetherd.ports import Blobs
from tetherd.types import Digest
from tetherd.wire.catalog import Catalog, Version
from tetherd.wire.manifest import MAX_MANIFEST, parse

LEDGER: Final = "ledger.db"
_FOLLOWED: Final = "followed-{}.json"


def followed(folder: Path, node: str) -> Path:
    """Return where the catalog of the manager on ``node`` is kept."""
    return folder / _FOLLOWED.format(node)


class Spared:
    """The blobs that the ledger and the followed catalogs in ``folder`` need, all but those of the file ``current``.

    Blocking. Raises StorageFailed where one of them cannot be read.
    """

    def __init__(self, folder: Path, blobs: Blobs, current: Path) -> None:
        self._folder = folder
        self._blobs = blobs
        self._current = current

    def __call__(self) -> set[Digest]:
        """Return them as they are now."""
        with disk_errors("find out which models this host had before"):
            found = self._owned()
            for path in self._folder.glob(_FOLLOWED.format("*")):
                if path != self._current:
                    found = found.union(*map(self._needed, _versions(path)))
            return found

    def _owned(self) -> set[Digest]:
        path = self._folder / LEDGER
        if path == self._current or not path.exists():
            return set()
        ledger = SqliteLedger(path)
        try:
            return ledger.references()
        finally:
            ledger.close()

    def _needed(self, version: Version) -> set[Digest]:
        """Return a version's blobs; its description is named by its manifest alone."""
        listed = {version.version, *(file.digest for file in version.files)}
        try:
            manifest, _ = self._blobs.read(version.version, 0, MAX_MANIFEST)
            return listed.union(blob.digest for blob in parse(manifest).blobs())
        except (BlobNotFound, ModelInvalid, InvalidInput):  # nobody can run it from here, with or without the rest
            return listed


def _versions(path: Path) -> list[Version]:
    try:
        return msgspec.json.decode(durable.read(path) or b"", type=Catalog).versions
    except MALFORMED as error:
        raise StorageFailed(
            f"{path} is damaged, so nothing that it may list is removed", fix="remove the file to let its models go"
        ) from error
