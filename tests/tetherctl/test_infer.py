"""Inference from the command line: every kind of stdin, one request or many."""

import os
import pty
import subprocess
import sys
import threading
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


class TestBatch:
    def test_keeps_the_order(self, ctl: Any, daemon: Any) -> None:
        first = threading.Event()

        def hold(http: Any) -> bool:  # the first line's answer waits until a later one has come
            number = loads(http.body().decode())
            if number == 0:
                first.wait(5)
            elif number == 3:
                first.set()
            http.reply(200, {"n": number})
            return True

        daemon.rules.append(hold)
        done = ctl("infer", "m", "--batch", "--concurrency", "4", stdin="".join(f"{i}\n\n" for i in range(40)))
        assert done.returncode == 0, done.stderr
        assert [loads(line)["n"] for line in done.stdout.splitlines()] == list(range(40))

    def test_stops_at_the_first_failure(self, ctl: Any) -> None:
        done = ctl("infer", "m", "--batch", stdin='1\n{"\n3\n')
        assert done.returncode == 2
        assert "line 2: " in done.stderr
        assert done.stdout.count("\n") == 1

    def test_keep_going_reports_each(self, ctl: Any) -> None:
        done = ctl("infer", "m", "--batch", "--keep-going", stdin='1\n{"\n3\n')
        lines = [loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 9
        assert [line.get("line") for line in lines] == [None, 2, None]
        assert "1 of 3 lines failed" in done.stderr

    def test_answers_come_while_input_is_open(self, env: dict[str, str]) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "tetherctl", "infer", "m", "--batch"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("1\n")
        process.stdin.flush()
        assert loads(process.stdout.readline())["outputs"] == {"y": 1}
        process.stdin.close()
        assert process.wait(5) == 0
        process.stdout.close()

    def test_a_reader_that_leaves_ends_it(self, env: dict[str, str]) -> None:
        script = f"yes 1 | {sys.executable} -m tetherctl infer m --batch; echo $? >&2"
        process = subprocess.Popen(
            ["/bin/sh", "-c", script], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        process.stderr.close()
        assert process.wait(10) == 0
        assert said.split()[-1] == "141"
