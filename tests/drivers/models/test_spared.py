"""What a manager must leave alone: what its host's ledger and the catalogs that it followed refer to."""

from pathlib import Path

import pytest

from tetherd.drivers.models.blobs import DiskBlobs
from tetherd.drivers.models.ledger import SqliteLedger
from tetherd.drivers.models.replicas import FileCatalog
from tetherd.drivers.models.spared import LEDGER, Spared, followed
from tetherd.errors import StorageFailed
from tetherd.types import Signature
from tetherd.wire.catalog import Catalog, FileEntry, Version
from tetherd.wire.manifest import Config, build, digest_of, encode_config

SIGNATURE = Signature((), ())
CONFIG = encode_config(Config("onnx", SIGNATURE))
DATA = b"model"
FILES = [FileEntry("m.onnx", digest_of(DATA), len(DATA))]
MANIFEST = build("m", FILES, CONFIG)
VERSION = Version("m", 1, digest_of(MANIFEST), "onnx", SIGNATURE, len(DATA), 0.0, FILES)
NEEDED = {digest_of(DATA), digest_of(CONFIG), VERSION.version}


@pytest.fixture
def blobs(tmp_path: Path) -> DiskBlobs:
    return DiskBlobs(tmp_path / "blobs", reserve=0)


def test_a_host_with_no_past_spares_nothing(tmp_path: Path, blobs: DiskBlobs) -> None:
    assert Spared(tmp_path, blobs, tmp_path / LEDGER)() == set()
    assert not (tmp_path / LEDGER).exists()


def test_a_follower_spares_what_its_own_ledger_has(tmp_path: Path, blobs: DiskBlobs) -> None:
    ledger = SqliteLedger(tmp_path / LEDGER)
    ledger.commit(VERSION, digest_of(CONFIG), "latest")
    ledger.close()
    assert Spared(tmp_path, blobs, followed(tmp_path, "a"))() == NEEDED
    assert Spared(tmp_path, blobs, tmp_path / LEDGER)() == set(), "it is the catalog in force"


def test_whoever_follows_nobody_any_more_spares_what_it_followed(tmp_path: Path, blobs: DiskBlobs) -> None:
    path = followed(tmp_path, "a")
    FileCatalog(path).save(Catalog(7, [VERSION], []))
    spared = Spared(tmp_path, blobs, tmp_path / LEDGER)
    assert spared() == NEEDED - {digest_of(CONFIG)}, "only its manifest names it, which is not here"
    blobs.append(VERSION.version, 0, len(MANIFEST), MANIFEST)
    assert spared() == NEEDED
    assert Spared(tmp_path, blobs, followed(tmp_path, "b"))() == NEEDED, "it follows another one"
    assert Spared(tmp_path, blobs, path)() == set()


@pytest.mark.parametrize("name", [LEDGER, followed(Path(), "a").name])
def test_what_cannot_be_read_is_an_error(tmp_path: Path, blobs: DiskBlobs, name: str) -> None:
    (tmp_path / name).write_bytes(b"damaged" * 100)
    with pytest.raises(StorageFailed):
        Spared(tmp_path, blobs, followed(tmp_path, "b"))()
