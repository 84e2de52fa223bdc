"""The lock on a state directory: one daemon at a time, and none that a dead one keeps out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tetherd.drivers.host import lock
from tetherd.errors import InUse, StorageFailed

HOLD = """
import pathlib, sys
from tetherd.drivers.host import lock
with lock.hold(pathlib.Path(sys.argv[1])):
    print(1, flush=True)
    input()
"""


def test_it_names_its_holder_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with lock.hold(tmp_path):
            assert (tmp_path / lock.NAME).read_text() == f"{os.getpid()}\n"


def test_a_second_daemon_is_told_who_is_there(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(InUse, match=f"process {other.pid} uses"), lock.hold(tmp_path):
            pass
        other.kill()
        other.wait()
        with lock.hold(tmp_path):
            pass


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="file"), lock.hold(tmp_path / "file"):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / lock.NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(StorageFailed), lock.hold(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "keep"
