"""What a host keeps of its earlier places: the catalogs of managers that it followed, and the blobs they need.

A host's ledger is from when it wrote a catalog, the files beside it are the catalogs of managers that it followed.
"""

import logging
from pathlib import Path
from typing import Final

import msgspec

from tetherd.drivers.host import durable
from tetherd.drivers.models.blobs import disk_errors
from tetherd.drivers.models.ledger import SqliteLedger
from tetherd.errors import MALFORMED, StorageFailed
from tetherd.ports import Former
from tetherd.types import Digest
from tetherd.wire.catalog import Catalog

LEDGER: Final = "ledger.db"
_FOLLOWED: Final = "followed-{}.json"

_log = logging.getLogger("tetherd.spared")


def followed(folder: Path, node: str) -> Path:
    """Return where the catalog of the manager on ``node`` is kept."""
    return folder / _FOLLOWED.format(node)


class Followed:
    """Implements ports.Formers with the files of ``folder``, all but ``current``."""

    def __init__(self, folder: Path, current: Path) -> None:
        self._folder = folder
        self._current = current

    def load(self) -> list[Former]:
        """Return those that can be read; see ports.Formers."""
        found = []
        prefix, suffix = _FOLLOWED.split("{}")
        with disk_errors("read which models this host had before"):
            for path in _files(self._folder, self._current):
                try:
                    node = path.name.removeprefix(prefix).removesuffix(suffix)
                    found.append(Former(node, _read(path), path.stat().st_mtime))
                except StorageFailed as error:
                    _log.error("the models of a primary before are not taken over", extra={"reason": error.message})
        return sorted(found, key=lambda former: -former.catalog.epoch)

    def remove(self, node: str) -> None:
        """Forget one; see ports.Formers."""
        durable.remove(followed(self._folder, node))


class Spared:
    """The blobs that the ledger and the followed catalogs in ``folder`` need, all but those of the file ``current``.

    Blocking. Raises StorageFailed where one of them cannot be read: whoever asks is about to remove the rest.
    """

    def __init__(self, folder: Path, current: Path) -> None:
        self._folder = folder
        self._current = current

    def __call__(self) -> set[Digest]:
        """Return them as they are now."""
        with disk_errors("find out which models this host had before"):
            found = self._owned()
            for path in _files(self._folder, self._current):
                found = found.union(*(version.blobs() for version in _read(path).versions))
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


def _files(folder: Path, current: Path) -> list[Path]:
    return [path for path in folder.glob(_FOLLOWED.format("*")) if path != current]


def _read(path: Path) -> Catalog:
    try:
        return msgspec.json.decode(durable.read(path) or b"", type=Catalog)
    except MALFORMED as error:
        raise StorageFailed(
            f"{path} is damaged, so nothing that it may list is removed", fix="remove the file to let its models go"
        ) from error
