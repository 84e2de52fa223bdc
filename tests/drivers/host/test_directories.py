"""Directories of the daemon: private when made, refused when others may write to them."""

import os
from pathlib import Path

import pytest

from tetherd.drivers.host.directories import private
from tetherd.errors import Forbidden, StorageFailed


def test_they_are_made_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private(tmp_path / "a/b")
    finally:
        os.umask(before)
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700
    private(tmp_path / "a/b")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_one_that_others_may_write_to_is_refused(mode: int, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(mode)
    with pytest.raises(Forbidden, match="other users may put files"):
        private(tmp_path / "shared")


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="cannot be used"):
        private(tmp_path / "file")
