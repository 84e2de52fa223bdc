"""The daemon under what its systemd unit allows it."""

import platform
import sys
from pathlib import Path

import pytest
from confined import SOCKET
from harness import DIGITS, EXAMPLE, REPOSITORY, Host, is_right

UNIT = REPOSITORY / "systemd" / "tetherd.service"


@pytest.mark.skipif(platform.machine() not in SOCKET, reason="no filter of system calls is written for this processor")
def test_a_daemon_starts_founds_and_serves_within_its_unit(host: Host) -> None:
    under = (sys.executable, str(Path(__file__).with_name("confined.py")), str(UNIT))
    daemon = host.daemon().start(under=under).wait_ready()
    daemon.ctl("models", "push", str(DIGITS))
    assert is_right(daemon.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])
    assert daemon.ctl("doctor", "--only", "config,socket").returncode == 0
