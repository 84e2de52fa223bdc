import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tetherd.drivers.models.origins import PIECE, ManagerOrigin
from tetherd.drivers.models.unpack import prune, unpack
from tetherd.errors import (
    DigestMismatch,
    ModelInvalid,
    StorageFailed,
    StorageFull,
    TetherError,
    Unavailable,
    VersionNotFound,
)
from tetherd.types import Digest, Signature, Tensor, TensorSpec
from tetherd.wire.catalog import Chunk, FileEntry, GetBlob, GetManifest
from tetherd.wire.chunks import Blob
from tetherd.wire.manifest import Config, build, digest_of, encode_config

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),), batchable=True)
FILES = {"model.onnx": b"m" * (2 * PIECE + 17), "data/weights.bin": b"w" * 100, "empty.txt": b""}


class Manager:
    """Serves one version, and counts what is asked of it."""

    def __init__(self, files: dict[str, bytes] = FILES) -> None:
        config = encode_config(Config("onnx", SIGNATURE))
        entries = [FileEntry(path, digest_of(data), len(data)) for path, data in files.items()]
        self.listing = build("digits", entries, config)
        self.version = digest_of(self.listing)
        self.blobs: dict[str, bytes] = {digest_of(data): data for data in [config, *files.values()]}
        self.config = digest_of(config)
        self.asked: list[Any] = []
        self.hook: Callable[[GetBlob], None] = lambda request: None

    def call(self, request: Any) -> Chunk:
        self.asked.append(request)
        if isinstance(request, GetManifest):
            data = self.listing
        else:
            assert isinstance(request, GetBlob)
            assert request.length <= PIECE
            self.hook(request)
            data = self.blobs[request.digest][request.offset : request.offset + request.length]
        return Chunk(len(data), Tensor("data", "UINT8", (len(data),), data))

    def fetched(self) -> int:
        files = [one for one in self.asked if isinstance(one, GetBlob) and one.digest != self.config]
        self.asked.clear()
        return len(files)


def home(cache: Path, manager: Manager) -> Path:
    return cache / "versions" / manager.version.removeprefix("sha256:")


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "versions").glob("*") if path.suffix != ".lock")


def test_a_version_is_fetched_once(tmp_path: Path) -> None:
    manager = Manager()
    found = unpack(manager.version, tmp_path, ManagerOrigin(manager.call))
    assert found.signature == SIGNATURE
    assert found.model.read_bytes() == FILES["model.onnx"]
    assert {path: (home(tmp_path, manager) / path).read_bytes() for path in FILES} == FILES
    assert manager.fetched() == 4  # three chunks and one
    assert unpack(manager.version, tmp_path, ManagerOrigin(manager.call)).model == found.model
    assert manager.fetched() == 0
    assert left(tmp_path) == [found.model.parent.name]


@pytest.mark.parametrize("which", ["manifest", "config", "file", "short", "other file"])
def test_what_is_not_as_promised_is_refused_and_nothing_stays(tmp_path: Path, which: str) -> None:
    manager = Manager()
    version = manager.version
    if which == "manifest":
        manager.listing += b" "
    elif which == "config":
        manager.blobs[manager.config] = manager.blobs[manager.config][::-1]
    else:
        digest = digest_of(FILES["model.onnx"])
        data = FILES["model.onnx"]
        manager.blobs[digest] = {"file": b"x" + data[1:], "short": data[:-1], "other file": b""}[which]
    with pytest.raises((DigestMismatch, ModelInvalid)):
        unpack(version, tmp_path, ManagerOrigin(manager.call))
    assert not (tmp_path / "versions").exists() or left(tmp_path) == []


def change(path: Path) -> None:
    path.write_bytes(b"x" + path.read_bytes()[1:])


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def link(path: Path) -> None:
    path.with_name("elsewhere").hardlink_to(path)


def symlink(path: Path) -> None:
    target = path.parents[2] / "target"
    shutil.move(path, target)
    path.symlink_to(target)


@pytest.mark.parametrize("tamper", [change, shorten, link, symlink, Path.unlink])
def test_a_directory_that_was_tampered_with_is_made_anew(tmp_path: Path, tamper: Callable[[Path], Any]) -> None:
    manager = Manager()
    found = unpack(manager.version, tmp_path, ManagerOrigin(manager.call))
    tamper(found.model)
    manager.fetched()
    again = unpack(manager.version, tmp_path, ManagerOrigin(manager.call))
    assert manager.fetched() == 4
    assert again.model.read_bytes() == FILES["model.onnx"]
    assert again.model.lstat().st_nlink == 1
    assert not again.model.is_symlink()


def test_what_an_interrupted_fetch_left_is_replaced(tmp_path: Path) -> None:
    manager = Manager()

    def fail(request: GetBlob) -> None:
        if request.offset:
            raise VersionNotFound("gone")

    manager.hook = fail
    with pytest.raises(VersionNotFound):
        unpack(manager.version, tmp_path, ManagerOrigin(manager.call))
    draft = home(tmp_path, manager).with_suffix(".draft")
    draft.mkdir()
    (draft / "model.onnx").write_text("half")
    manager.hook = lambda request: None
    assert unpack(manager.version, tmp_path, ManagerOrigin(manager.call)).model.read_bytes() == FILES["model.onnx"]
    assert left(tmp_path) == [home(tmp_path, manager).name]


class Slowly(ManagerOrigin):
    """Writes a file by halves, and finds the first half again."""

    resumes = True

    def __init__(self, manager: Manager) -> None:
        super().__init__(manager.call)
        self.found: dict[str, int] = {}
        self.fails = True

    def bring(self, blob: Blob, target: Path) -> None:
        self.found[target.name] = target.stat().st_size if target.exists() else 0
        if self.fails and blob.size > PIECE:
            target.write_bytes(b"half")
            raise Unavailable("the other hosts are gone")
        target.unlink(missing_ok=True)
        super().bring(blob, target)


def test_what_arrived_of_a_version_is_kept_for_the_next_time_where_that_helps(tmp_path: Path) -> None:
    manager = Manager()
    origin = Slowly(manager)
    with pytest.raises(Unavailable):
        unpack(manager.version, tmp_path, origin)
    assert left(tmp_path) == [home(tmp_path, manager).name + ".draft"]
    origin.fails = False
    found = unpack(manager.version, tmp_path, origin)
    assert origin.found["model.onnx"] == len("half")
    assert found.model.read_bytes() == FILES["model.onnx"]
    assert left(tmp_path) == [home(tmp_path, manager).name]


def test_pruning_takes_what_was_fetched_by_half_and_forgotten(tmp_path: Path) -> None:
    manager, other = Manager(), Manager({"model.onnx": b"other"})
    with pytest.raises(Unavailable):
        unpack(manager.version, tmp_path, Slowly(manager))
    draft = home(tmp_path, manager).with_suffix(".draft")
    os.utime(draft, (1000, 1000))
    unpack(other.version, tmp_path, ManagerOrigin(other.call))
    prune(tmp_path, 2)
    assert draft.exists()
    prune(tmp_path, 1)
    assert left(tmp_path) == [home(tmp_path, other).name]


def test_runners_of_one_version_fetch_it_once_between_them(tmp_path: Path) -> None:
    manager = Manager()
    gate = threading.Barrier(4)
    results: list[bytes | TetherError] = []

    def run() -> None:
        gate.wait(5)
        try:
            results.append(unpack(manager.version, tmp_path, ManagerOrigin(manager.call)).model.read_bytes())
        except TetherError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [FILES["model.onnx"]] * 4
    assert manager.fetched() == 4


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    manager = Manager()
    (tmp_path / "versions").write_text("in the way")
    with pytest.raises(StorageFailed, match="cannot unpack") as caught:
        unpack(manager.version, tmp_path, ManagerOrigin(manager.call))
    assert "permissions" in caught.value.fix


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_from_a_broken_one(tmp_path: Path, reason: int) -> None:
    def fill(_: GetBlob) -> None:
        raise OSError(reason, os.strerror(reason))

    manager = Manager()
    manager.hook = lambda request: None if request.digest == manager.config else fill(request)
    with pytest.raises(StorageFull, match="cannot unpack") as caught:
        unpack(manager.version, tmp_path, ManagerOrigin(manager.call))
    assert "make room" in caught.value.fix


def test_pruning_keeps_what_was_used_last(tmp_path: Path) -> None:
    managers = [Manager({"model.onnx": bytes([number])}) for number in range(4)]
    for age, manager in enumerate(managers):
        unpack(manager.version, tmp_path, ManagerOrigin(manager.call))
        os.utime(home(tmp_path, manager), (1000 - age, 1000 - age))
    unpack(managers[3].version, tmp_path, ManagerOrigin(managers[3].call))  # used again
    prune(tmp_path, 2)
    assert left(tmp_path) == sorted(home(tmp_path, managers[index]).name for index in (0, 3))
    prune(tmp_path / "absent", 2)


def test_an_unknown_version_is_what_the_manager_says(tmp_path: Path) -> None:
    def call(_: Any) -> Chunk:
        raise VersionNotFound("no such version")

    with pytest.raises(VersionNotFound):
        unpack(Digest("sha256:" + "0" * 64), tmp_path, ManagerOrigin(call))
