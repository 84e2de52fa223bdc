import os
from pathlib import Path

from certificates import home

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.host.vitals import HostVitals


def test_this_host_is_measured(tmp_path: Path) -> None:
    found = HostVitals([tmp_path], lambda: None, SystemClock()).measure()
    assert 0 < found.disk_free <= found.disk_total
    assert 3 <= found.files_open <= found.files_limit
    assert found.certificate is None
    assert found.synchronised in (True, False, None)


def test_an_open_file_counts(tmp_path: Path) -> None:
    vitals = HostVitals([tmp_path], lambda: None, SystemClock())
    before = vitals.measure().files_open
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    assert vitals.measure().files_open == before + 5
    for one in opened:
        os.close(one)


def test_the_certificate_has_so_long_to_live(tmp_path: Path) -> None:
    node = home().node(life=(-1, 3))
    left = HostVitals([tmp_path], lambda: node, SystemClock()).measure().certificate
    assert left is not None
    assert abs(left - 3 * 86400) < 60


def test_a_directory_that_is_not_there_is_no_room(tmp_path: Path) -> None:
    found = HostVitals([tmp_path, Path("/nowhere/at/all")], lambda: None, SystemClock()).measure()
    assert (found.disk, found.disk_free, found.disk_total) == ("/nowhere/at/all", 0, 0)
