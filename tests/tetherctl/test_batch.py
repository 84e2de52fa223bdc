"""Many requests at once: the order is kept, failures are told apart, and nothing waits that need not."""

import io
import subprocess
import sys
import threading
from typing import Any

import msgspec
import pytest

from tetherctl import batch


def loads(text: str) -> Any:
    return msgspec.json.decode(text)


@pytest.fixture(autouse=True)
def served(daemon: Any) -> None:
    daemon.versions["m"] = [daemon.version(1, "sha256:" + "0" * 64, [])]
    daemon.aliases["m"] = {"latest": {"number": 1}}


def test_keeps_the_order(ctl: Any, daemon: Any) -> None:
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


def test_stops_at_the_first_failure(ctl: Any) -> None:
    done = ctl("infer", "m", "--batch", stdin='1\n{"\n3\n')
    assert done.returncode == 2
    assert "line 2: " in done.stderr
    assert done.stdout.count("\n") == 1


def test_keep_going_reports_each(ctl: Any) -> None:
    done = ctl("infer", "m", "--batch", "--keep-going", stdin='1\n{"\n3\n')
    lines = [loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 9
    assert [line.get("line") for line in lines] == [None, 2, None]
    assert "1 of 3 lines failed" in done.stderr


def test_answers_come_while_input_is_open(env: dict[str, str]) -> None:
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


def test_a_reader_that_leaves_ends_it(env: dict[str, str]) -> None:
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


def test_input_that_is_closed_under_its_reader_ends_quietly() -> None:
    stream = io.BytesIO(b"1\n2\n")
    reading = batch.lines(stream)
    assert next(reading).line == b"1\n"
    stream.close()
    assert list(reading) == []


def test_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_LINE", 4)
    slots = list(batch.lines(io.BytesIO(b"1\n\n22\n55555555\n6\n")))
    assert [(slot.number, bool(slot.error)) for slot in slots] == [(1, False), (3, False), (4, True)]
