"""Small durable files: as they were, or as they are meant to be."""

import os
import stat
from pathlib import Path

import pytest

from tetherd.drivers.host import durable
from tetherd.errors import Forbidden, StorageFailed


def test_what_was_written_is_read_and_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert durable.read(path) is None
    durable.write(path, b"one")
    durable.write(path, b"two")
    assert durable.read(path, secret=True) == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_a_crash_cut_off_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write(path, b"one")
    (tmp_path / "file.new").write_bytes(b"hal")
    assert durable.read(path) == b"one"
    durable.write(path, b"two")
    assert durable.read(path) == b"two"


def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    durable.write(path, b"one")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageFailed, match="Input/output"):
        durable.write(path, b"two")
    assert durable.read(path) == b"one"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_secrets_that_others_can_get_at_are_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    durable.write(path, b"one")
    path.chmod(mode)
    assert durable.read(path) == b"one"
    with pytest.raises(Forbidden, match=f"{mode:04o}") as caught:
        durable.read(path, secret=True)
    assert f"chmod 600 {path}" in caught.value.fix


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_what_another_library_reads_is_guarded_too(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "ledger.db"
    durable.guard(path)
    path.touch(mode=0o600)
    durable.guard(path)
    path.chmod(mode)
    with pytest.raises(Forbidden, match=f"{mode:04o}"):
        durable.guard(path)


def test_links_and_special_files_are_refused(tmp_path: Path) -> None:
    durable.write(tmp_path / "file", b"one")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "link", tmp_path / "pipe", tmp_path):
        with pytest.raises(StorageFailed):
            durable.read(path)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(durable.MAX_BYTES + 1)
    with pytest.raises(StorageFailed, match="at most"):
        durable.read(tmp_path / "file")


def test_removing_twice_is_removing_once(tmp_path: Path) -> None:
    durable.write(tmp_path / "file", b"one")
    durable.remove(tmp_path / "file")
    durable.remove(tmp_path / "file")
    assert durable.read(tmp_path / "file") is None
