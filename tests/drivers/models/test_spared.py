"""What a manager must leave alone: what its host's ledger and the catalogs that it followed refer to."""

import time
from pathlib import Path

import pytest

from tetherd.drivers.models.ledger import SqliteLedger
from tetherd.drivers.models.replicas import FileCatalog
from tetherd.drivers.models.spared import LEDGER, Followed, Spared, followed
from tetherd.errors import StorageFailed
from tetherd.types import Signature
from tetherd.wire.catalog import Catalog, FileEntry, Version
from tetherd.wire.manifest import Config, build, digest_of, encode_config

SIGNATURE = Signature((), ())
CONFIG = encode_config(Config("onnx", SIGNATURE))
DATA = b"model"
FILES = [FileEntry("m.onnx", digest_of(DATA), len(DATA))]
MANIFEST = build("m", FILES, CONFIG)
VERSION = Version("m", 1, digest_of(MANIFEST), digest_of(CONFIG), "onnx", SIGNATURE, len(DATA), 0.0, FILES)
NEEDED = {digest_of(DATA), digest_of(CONFIG), VERSION.version}


def test_a_host_with_no_past_spares_nothing(tmp_path: Path) -> None:
    assert Spared(tmp_path, tmp_path / LEDGER)() == set()
    assert not (tmp_path / LEDGER).exists()


def test_a_follower_spares_what_its_own_ledger_has(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / LEDGER)
    ledger.commit(VERSION, "latest")
    ledger.close()
    assert Spared(tmp_path, followed(tmp_path, "a"))() == NEEDED
    assert Spared(tmp_path, tmp_path / LEDGER)() == set(), "it is the catalog in force"


def test_whoever_follows_nobody_any_more_spares_what_it_followed(tmp_path: Path) -> None:
    path = followed(tmp_path, "a")
    FileCatalog(path).save(Catalog(7, [VERSION], []))
    spared = Spared(tmp_path, tmp_path / LEDGER)
    assert spared() == NEEDED
    assert Spared(tmp_path, followed(tmp_path, "b"))() == NEEDED, "it follows another one"
    assert Spared(tmp_path, path)() == set()


def test_what_was_followed_is_found_newest_first_and_can_be_forgotten(tmp_path: Path) -> None:
    for node, epoch in (("a", 5), ("b", 9), ("c", 7)):
        FileCatalog(followed(tmp_path, node)).save(Catalog(epoch, [VERSION], []))
    (tmp_path / "followed-d.json").write_bytes(b"damaged")
    found = Followed(tmp_path, followed(tmp_path, "c"))
    before = time.time()
    assert [(each.node, each.catalog.epoch) for each in found.load()] == [("b", 9), ("a", 5)]
    assert all(abs(each.copied - before) < 60 for each in found.load())
    found.remove("b")
    found.remove("b")
    assert [each.node for each in found.load()] == ["a"]


@pytest.mark.parametrize("name", [LEDGER, followed(Path(), "a").name])
def test_what_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"damaged" * 100)
    with pytest.raises(StorageFailed):
        Spared(tmp_path, followed(tmp_path, "b"))()
