"""Inference from the command line: every kind of stdin, one request or many."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest


def loads(text: str) -> Any:
    return msgspec.json.decode(text)


@pytest.fixture(autouse=True)
def served(daemon: Any) -> None:
    daemon.versions["m"] = [daemon.version(1, "sha256:" + "0" * 64, [])]
    daemon.aliases["m"] = {"latest": {"number": 1}}


def test_answer_is_the_daemons_own(ctl: Any) -> None:
    done = ctl("infer", "m", stdin="[[1.5]]")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert loads(done.stdout)["outputs"] == {"y": [[1.5]]}
    assert loads(ctl("infer", "m", "--json", stdin="[1]").stdout)["schema"] == "tether.infer/v1"
    assert ctl("infer", "m", "--raw", stdin="[1]").stdout.startswith('{"id":"r1"')


def test_reads_a_file(ctl: Any, place: Path) -> None:
    (place / "in.json").write_text("[7]")
    assert loads(ctl("infer", "m", "-i", str(place / "in.json")).stdout)["outputs"] == {"y": [7]}
    missing = ctl("infer", "m", "-i", str(place / "none.json"))
    assert missing.returncode == 1
    assert "No such file" in missing.stderr


@pytest.mark.parametrize("body", ["", " \n", '{"', "\ufffd", "[1,]", "NaN", "[" * 5000, "nul", "[1] [2]"])
def test_bad_input_is_one_line_and_never_sent(ctl: Any, daemon: Any, body: str) -> None:
    done = ctl("infer", "m", stdin=body)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 3
    assert not daemon.seen


def test_dev_null_and_endless_input(ctl: Any, env: dict[str, str], daemon: Any) -> None:
    assert ctl("infer", "m").returncode == 2
    with Path("/dev/zero").open("rb") as zero:
        command = [sys.executable, "-m", "tetherctl", "infer", "m"]
        done = subprocess.run(command, env=env, stdin=zero, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "larger than 64 MiB" in done.stderr


def test_a_terminal_with_nothing_piped_does_not_hang(env: dict[str, str]) -> None:
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "tetherctl", "infer", "m"]
    done = subprocess.run(command, env=env, stdin=inner, capture_output=True, text=True, timeout=5, check=False)
    os.close(outer)
    os.close(inner)
    assert done.returncode == 2
    assert "tetherctl infer m < input.json" in done.stderr


def test_on_a_terminal_the_answer_is_laid_out(env: dict[str, str]) -> None:
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "tetherctl", "infer", "m"]
    subprocess.run(command, env=env, input=b"[[1, 2], [3, 4]]", stdout=inner, timeout=5, check=True)
    shown = os.read(outer, 4096).decode()
    os.close(outer)
    os.close(inner)
    assert "\r\n      [1,2],\r\n" in shown


def test_unknown_model(ctl: Any) -> None:
    done = ctl("infer", "ghost", stdin="[1]")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "  fix:  tetherctl models ls lists the models"


def test_deadline_beats_the_timeout(ctl: Any, daemon: Any) -> None:
    assert ctl("infer", "m", "--deadline", "5s", "--timeout", "4s", stdin="[1]").returncode == 0
    daemon.rules.append(lambda http: time.sleep(3) or True)
    done = ctl("infer", "m", "--deadline", "100ms", "--timeout", "9s", stdin="[1]")
    assert done.returncode == 6
    assert "no answer within 0.1 s" in done.stderr
