"""The contract of ports.Blobs on the disk and in memory, then what only a disk can do wrong."""

import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tetherd.drivers.models.blobs import DiskBlobs
from tetherd.errors import (
    BlobNotFound,
    DigestMismatch,
    InvalidInput,
    OffsetConflict,
    StorageFailed,
    StorageFull,
    TooLarge,
)
from tetherd.ports import Blobs
from tetherd.testing import MemoryBlobs
from tetherd.types import Digest
from tetherd.wire.catalog import BlobState
from tetherd.wire.manifest import digest_of

DATA = bytes(range(256)) * 8
DIGEST = digest_of(DATA)


class World:
    """A store under test and its time."""

    def __init__(self, kind: str, root: Path) -> None:
        self.now = 0.0
        self.memory = MemoryBlobs(max_size=1 << 20)
        disk = DiskBlobs(root / "blobs", max_size=1 << 20, reserve=0, now=lambda: self.now)
        self.store: Blobs = disk if kind == "disk" else self.memory

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.memory.now += seconds


@pytest.fixture(params=["disk", "memory"])
def world(request, tmp_path):
    return World(request.param, tmp_path)


@pytest.fixture
def store(world) -> Blobs:
    return world.store


def put(store: Blobs, data: bytes) -> Digest:
    digest = digest_of(data)
    state = store.append(digest, 0, len(data), data)
    assert state.complete
    return digest


def test_what_was_put_is_read_back(store, tmp_path):
    assert store.append(DIGEST, 0, len(DATA), DATA) == BlobState(DIGEST, True, len(DATA))
    assert store.read(DIGEST, 0, 1 << 20) == (DATA, len(DATA))
    assert store.read(DIGEST, 100, 7) == (DATA[100:107], len(DATA))
    assert store.read(DIGEST, len(DATA) + 5, 7) == (b"", len(DATA))
    store.copy(DIGEST, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA


def test_an_empty_blob_is_a_blob(store, tmp_path):
    digest = put(store, b"")
    assert store.stat(digest) == BlobState(digest, True, 0)
    assert store.read(digest, 0, 10) == (b"", 0)
    store.copy(digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


def test_an_unknown_blob_has_no_bytes(store, tmp_path):
    assert store.stat(DIGEST) == BlobState(DIGEST, False, 0)
    for ask in (lambda: store.read(DIGEST, 0, 1), lambda: store.copy(DIGEST, tmp_path / "copy")):
        with pytest.raises(BlobNotFound) as caught:
            ask()
        assert caught.value.details == {"digest": DIGEST}


def test_an_upload_in_parts_shows_its_offset(store):
    assert store.append(DIGEST, 0, len(DATA), DATA[:1000]) == BlobState(DIGEST, False, 1000)
    assert store.stat(DIGEST) == BlobState(DIGEST, False, 1000)
    with pytest.raises(BlobNotFound):
        store.read(DIGEST, 0, 1)
    assert store.append(DIGEST, 1000, len(DATA), memoryview(DATA)[1000:]).complete
    assert store.read(DIGEST, 0, len(DATA))[0] == DATA


@pytest.mark.parametrize("offset", [0, 999, 1001])
def test_a_wrong_offset_is_told_the_right_one(store, offset):
    store.append(DIGEST, 0, len(DATA), DATA[:1000])
    with pytest.raises(OffsetConflict) as caught:
        store.append(DIGEST, offset, len(DATA), DATA[offset : offset + 10])
    assert caught.value.details == {"offset": 1000}
    assert store.append(DIGEST, 1000, len(DATA), DATA[1000:]).complete


def test_wrong_bytes_are_dropped_and_the_upload_can_start_again(store):
    with pytest.raises(DigestMismatch):
        store.append(DIGEST, 0, len(DATA), bytes(len(DATA)))
    assert store.stat(DIGEST) == BlobState(DIGEST, False, 0)
    assert put(store, DATA) == DIGEST


def test_a_complete_blob_is_not_touched_by_another_upload(store):
    put(store, DATA)
    assert store.append(DIGEST, 0, len(DATA), bytes(len(DATA))).complete
    assert store.append(DIGEST, 7, len(DATA), b"x").complete
    assert store.read(DIGEST, 0, len(DATA))[0] == DATA


@pytest.mark.parametrize(("offset", "size", "data"), [(0, 2, b"abc"), (-1, 3, b"abc"), (0, -1, b""), (2, 3, b"ab")])
def test_bytes_that_do_not_fit_are_refused(store, offset, size, data):
    with pytest.raises(InvalidInput):
        store.append(DIGEST, offset, size, data)
    assert store.stat(DIGEST).offset == 0


def test_a_blob_that_is_too_large_is_refused_before_its_first_byte(store):
    with pytest.raises(TooLarge):
        store.append(DIGEST, 0, (1 << 20) + 1, b"x")
    assert store.stat(DIGEST).offset == 0


@pytest.mark.parametrize("digest", ["", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "a" * 63 + "/"])
def test_what_is_not_a_digest_reaches_no_file(store, digest):
    for ask in (store.stat, lambda bad: store.append(bad, 0, 1, b"x"), lambda bad: store.read(bad, 0, 1)):
        with pytest.raises(InvalidInput):
            ask(digest)


def test_a_blob_that_somebody_counts_on_is_not_discarded(world, store):
    put(store, DATA)
    world.later(901)
    store.stat(DIGEST)
    assert store.discard([DIGEST]) == {DIGEST}
    assert store.stat(DIGEST).complete
    world.later(901)
    assert store.discard([DIGEST]) == set()
    assert not store.stat(DIGEST).complete


def test_an_upload_under_way_is_not_discarded(world, store):
    store.append(DIGEST, 0, len(DATA), DATA[:10])
    assert store.discard([DIGEST]) == {DIGEST}
    assert store.append(DIGEST, 10, len(DATA), DATA[10:]).complete


def test_old_uploads_and_orphans_expire_and_kept_blobs_do_not(world, store):
    orphan, kept = put(store, b"orphan"), put(store, b"kept")
    store.append(DIGEST, 0, len(DATA), DATA[:10])
    world.later(901)
    store.expire({kept}, before=-1)
    assert store.stat(DIGEST).offset == 10
    assert store.stat(orphan).complete
    world.later(901)
    store.expire({kept}, before=1e12)
    assert store.stat(DIGEST).offset == 0
    assert not store.stat(orphan).complete
    assert store.stat(kept).complete


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.lists(st.integers(1, 120), max_size=6), st.booleans())
def test_any_cut_of_an_upload_gives_the_same_blob(tmp_path, data, cuts, restart):
    """Also with a restart of the store between any two parts."""
    store = DiskBlobs(tmp_path / os.urandom(8).hex(), reserve=0)
    root = store.path(DIGEST).parent.parent
    digest = digest_of(data)
    for cut in [*cuts, len(data) + 1]:
        state = store.stat(digest)
        if not state.complete:
            store.append(digest, state.offset, len(data), data[state.offset : state.offset + cut])
        if restart:
            store = DiskBlobs(root, reserve=0)
    assert store.read(digest, 0, 1000) == (data, len(data))


# --- only on a disk --------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path) -> DiskBlobs:
    return DiskBlobs(tmp_path / "blobs", reserve=0)


def names(disk: DiskBlobs) -> list[str]:
    return sorted(path.name for path in disk.path(DIGEST).parent.iterdir())


def test_files_are_private_and_lie_where_an_oci_layout_has_them(disk, tmp_path):
    put(disk, DATA)
    path = tmp_path / "blobs" / "sha256" / DIGEST.removeprefix("sha256:")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert names(disk) == [path.name]
    disk.copy(DIGEST, tmp_path / "copy")
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
    assert path.stat().st_nlink == 1


def test_a_copy_never_overwrites(disk, tmp_path):
    put(disk, DATA)
    (tmp_path / "copy").write_bytes(b"mine")
    with pytest.raises(StorageFailed):
        disk.copy(DIGEST, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"mine"


def test_an_upload_resumes_in_another_process(tmp_path):
    DiskBlobs(tmp_path, reserve=0).append(DIGEST, 0, len(DATA), DATA[:1500])
    again = DiskBlobs(tmp_path, reserve=0)
    assert again.stat(DIGEST) == BlobState(DIGEST, False, 1500)
    assert again.append(DIGEST, 1500, len(DATA), DATA[1500:]).complete


def test_a_prefix_that_rotted_between_two_processes_is_found(tmp_path):
    DiskBlobs(tmp_path, reserve=0).append(DIGEST, 0, len(DATA), DATA[:1500])
    part = next((tmp_path / "sha256").iterdir())
    part.write_bytes(bytes(1500))
    again = DiskBlobs(tmp_path, reserve=0)
    with pytest.raises(DigestMismatch):
        again.append(DIGEST, 1500, len(DATA), DATA[1500:])
    assert list((tmp_path / "sha256").iterdir()) == []


def test_new_uploads_stop_before_the_disk_is_full_and_old_ones_finish(tmp_path):
    roomy = DiskBlobs(tmp_path, reserve=0)
    roomy.append(DIGEST, 0, len(DATA), DATA[:10])
    full = DiskBlobs(tmp_path, reserve=1.0)
    with pytest.raises(StorageFull, match="free"):
        put(full, b"new")
    assert full.append(DIGEST, 10, len(DATA), DATA[10:]).complete


@pytest.mark.parametrize("trap", ["symlink", "hardlink", "directory", "fifo"])
@pytest.mark.parametrize("suffix", ["", ".part"])
def test_links_and_special_files_are_neither_followed_nor_written(disk, tmp_path, trap, suffix):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    place = disk.path(DIGEST).with_name(disk.path(DIGEST).name + suffix)
    make: dict[str, Callable[[], object]] = {
        "symlink": lambda: place.symlink_to(secret),
        "hardlink": lambda: place.hardlink_to(secret),
        "directory": place.mkdir,
        "fifo": lambda: os.mkfifo(place),
    }
    make[trap]()
    with pytest.raises(StorageFailed):
        disk.append(DIGEST, 0, len(DATA), DATA)
    with pytest.raises(StorageFailed):
        disk.stat(DIGEST)
    if not suffix:
        with pytest.raises(StorageFailed):
            disk.read(DIGEST, 0, 1)
    assert secret.read_bytes() == b"secret"


def test_files_of_others_in_the_store_are_left_alone(disk):
    stranger = disk.path(DIGEST).with_name("README")
    stranger.write_text("keep me")
    disk.expire(set(), before=1e12)
    assert stranger.exists()


def test_many_uploads_of_one_blob_all_succeed_and_leave_one_file(disk):
    data = os.urandom(40_000)
    digest = digest_of(data)
    gate = threading.Barrier(6)

    def push() -> bool:
        gate.wait()
        state = disk.stat(digest)
        while not state.complete:
            try:
                chunk = data[state.offset : state.offset + 1000]
                state = disk.append(digest, state.offset, len(data), chunk)
            except OffsetConflict as conflict:
                state = BlobState(digest, False, conflict.details["offset"])
        return state.complete

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda _: push(), range(6)))
    assert disk.read(digest, 0, len(data)) == (data, len(data))
    assert names(disk) == [digest.removeprefix("sha256:")]


def test_uploads_and_discards_at_once_never_lose_an_acknowledged_blob(disk):
    stop = threading.Event()

    def discard() -> None:
        while not stop.is_set():
            disk.discard([digest_of(bytes([index])) for index in range(40)])

    reaper = threading.Thread(target=discard)
    reaper.start()
    try:
        for index in range(40):
            put(disk, bytes([index]))
            assert disk.stat(digest_of(bytes([index]))).complete
    finally:
        stop.set()
        reaper.join()
