"""Every ending of a command line has its exit code: signals, bugs, and streams that close or fill up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tetherctl.__main__ import main


def test_version_in_this_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tetherctl", "-V"])
    assert main() == 0
    assert capsys.readouterr().out == "tetherctl 0.1.0\n"


class TestEndings:
    def test_a_reader_that_leaves_is_no_error(self, env: dict[str, str], daemon: Any) -> None:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "tetherctl", "status"],
            env=env,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=10,
            check=False,
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (141, b"")

    @pytest.mark.parametrize("words", ["--version", "status", "models push --help", "help errors"])
    def test_closed_streams(self, env: dict[str, str], daemon: Any, words: str) -> None:
        script = f"{sys.executable} -m tetherctl {words}"
        for closing in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
            done = subprocess.run(
                ["/bin/sh", "-c", f"{script} {closing}"], env=env, capture_output=True, timeout=10, check=False
            )
            assert done.returncode in {0, 141}
            assert b"Traceback" not in done.stderr

    def test_full_disk_under_stdout(self, env: dict[str, str], daemon: Any) -> None:
        script = f"{sys.executable} -m tetherctl status > /dev/full"
        done = subprocess.run(
            ["/bin/sh", "-c", script], env=env, capture_output=True, text=True, timeout=10, check=False
        )
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signals(self, env: dict[str, str], daemon: Any, number: int, code: int) -> None:
        daemon.rules.append(lambda http: time.sleep(5) or True)
        process = subprocess.Popen(
            [sys.executable, "-m", "tetherctl", "models", "ls"], env=env, stderr=subprocess.PIPE, text=True
        )
        while not daemon.seen:
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=5)
        assert (process.returncode, said) == (code, "")

    def test_a_bug_names_a_report(self, ctl: Any, daemon: Any) -> None:
        daemon.rules.append(lambda http: bool(http.reply(200, {"models": [{"nme": 1}]})) or True)
        done = ctl("models", "ls")
        assert done.returncode == 70
        assert "Traceback" not in done.stderr
        report = Path(done.stderr.split()[-1])
        assert "KeyError" in report.read_text()
        report.unlink()
