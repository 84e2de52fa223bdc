from pathlib import Path

import pytest

from tetherd.discovery.peers import Remembered
from tetherd.drivers.discovery import remembered
from tetherd.errors import StorageFailed

PEERS = [Remembered("a" * 64, ("10.0.0.1:7443",), {"bulk": 7445})]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert remembered.load(tmp_path) == []
    remembered.save(tmp_path, PEERS)
    assert remembered.load(tmp_path) == PEERS
    assert (tmp_path / remembered.NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'[{"node":"a"}]', b"\xff"])
def test_a_damaged_file_is_no_peer(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / remembered.NAME).write_bytes(data)
    assert remembered.load(tmp_path) == []
    assert "found anew" in caplog.text


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"[]")
    (tmp_path / remembered.NAME).symlink_to(tmp_path / "elsewhere")
    assert remembered.load(tmp_path) == []


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        remembered.save(tmp_path / "nowhere", PEERS)
