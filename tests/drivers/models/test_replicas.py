"""Copies on disk: of blobs, brought from other hosts and served while they arrive, and of a catalog."""

import os
from pathlib import Path

import pytest
from certificates import home
from sources import Hosts, blob_of, head, shelf

from tetherd.drivers.models.blobs import DiskBlobs
from tetherd.drivers.models.drafts import Drafts
from tetherd.drivers.models.fetch import BulkClient
from tetherd.drivers.models.link import Pace
from tetherd.drivers.models.replicas import FileCatalog, StoreFetcher
from tetherd.drivers.tcp.mutual import dialling
from tetherd.errors import StorageFull, Unavailable
from tetherd.types import Signature
from tetherd.wire.catalog import Alias, Catalog, FileEntry, Version
from tetherd.wire.chunks import CHUNK

DATA = os.urandom(3 * CHUNK) + b"rest"
BLOB = blob_of(DATA)


class Host:
    def __init__(self, root: Path) -> None:
        context = dialling(home().node())
        self.drafts = Drafts()
        self.blobs = DiskBlobs(root / "blobs", reserve=0, now=lambda: self.now)
        self.now = 0.0
        self.client = BulkClient(lambda: context, Pace(connect=1, over=0.5, stuck=2))
        self.fetcher = StoreFetcher(self.blobs, self.drafts, self.client, "ff" * 32)
        self.folder = root / "blobs" / "sha256"

    def names(self) -> set[str]:
        return {path.suffix for path in self.folder.iterdir()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_blob_becomes_one_of_the_store(hosts: Hosts, host: Host) -> None:
    host.blobs.append(BLOB.digest, 0, BLOB.size, DATA[:10])  # an upload of it was under way here too
    host.fetcher.fetch(BLOB, [hosts.fair(shelf(DATA))])
    assert host.blobs.read(BLOB.digest, 0, len(DATA)) == (DATA, len(DATA))
    assert host.names() == {""}
    assert host.drafts.get(BLOB.digest) is None
    assert host.blobs.discard({BLOB.digest}) == {BLOB.digest}  # held: it was asked for a moment ago
    host.fetcher.fetch(BLOB, [])  # it is here: nobody is asked


def test_what_arrived_of_it_stays_and_goes_on(hosts: Hosts, host: Host) -> None:
    path = host.blobs.draft(BLOB.digest, BLOB.size)
    path.write_bytes(DATA[: 2 * CHUNK])
    with pytest.raises(Unavailable):
        host.fetcher.fetch(BLOB, [])
    assert not host.blobs.stat(BLOB.digest).complete
    assert host.names() == {".fetch"}
    host.fetcher.fetch(BLOB, [hosts.fair(shelf(DATA))])
    assert host.blobs.stat(BLOB.digest).complete


def test_wrong_bytes_never_come_under_the_name_of_the_blob(hosts: Hosts, host: Host) -> None:
    def lies(connection, start, end) -> None:
        connection.sendall(head(206, end - start, content_range=f"bytes {start}-{end - 1}/{len(DATA)}"))
        connection.sendall(bytes(end - start))

    liar = hosts.hostile(BLOB, lies)
    with pytest.raises(Unavailable, match="sent wrong bytes"):
        host.fetcher.fetch(BLOB, [liar])
    assert not host.blobs.stat(BLOB.digest).complete
    assert BLOB.digest.removeprefix("sha256:") not in {path.name for path in host.folder.iterdir()}
    host.fetcher.fetch(BLOB, [liar, hosts.fair(shelf(DATA))])
    assert host.blobs.read(BLOB.digest, 0, len(DATA)) == (DATA, len(DATA))


def test_what_nobody_goes_on_with_is_removed(host: Host) -> None:
    path = host.blobs.draft(BLOB.digest, BLOB.size)
    path.write_bytes(DATA[:CHUNK])
    os.utime(path, (1000, 1000))
    host.blobs.expire({BLOB.digest}, 2000)
    assert path.exists()
    host.blobs.expire(set(), 2000)
    assert not path.exists()


def test_a_disk_without_room_is_told_before_anything_is_sent(hosts: Hosts, host: Host) -> None:
    host.blobs._reserve = 1.0
    with pytest.raises(StorageFull):
        host.fetcher.fetch(BLOB, [hosts.fair(shelf(DATA))])
    assert host.names() == set()


def test_documents_are_kept(hosts: Hosts, host: Host) -> None:
    text = b"manifest"
    digest = blob_of(text).digest
    source = hosts.fair(shelf(text))
    assert host.fetcher.document(digest, 100, [source]) == text
    assert host.fetcher.document(digest, 100, []) == text


def test_after_the_end_nothing_is_fetched(hosts: Hosts, host: Host) -> None:
    host.fetcher.close()
    with pytest.raises(Unavailable, match="stopping"):
        host.fetcher.fetch(BLOB, [hosts.fair(shelf(DATA))])


def test_a_catalog_is_read_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "catalog.json"
    assert FileCatalog(path).load() is None
    files = [FileEntry("model.onnx", BLOB.digest, BLOB.size)]
    version = Version("digits", 1, BLOB.digest, BLOB.digest, "onnx", Signature((), ()), BLOB.size, 1.5, files)
    catalog = Catalog(7, [version], [Alias("digits", "latest", 1, 3, None)], ["digits"])
    FileCatalog(path).save(catalog)
    assert FileCatalog(path).load() == catalog
    path.write_bytes(b"{")
    assert FileCatalog(path).load() is None
