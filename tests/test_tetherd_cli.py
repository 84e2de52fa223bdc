"""The daemon's command line: what it prints, how it ends, and that it never shows a traceback to a user."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tetherd import __version__
from tetherd.__main__ import main

# A daemon that serves nothing: says that it is ready, and on being stopped takes as long as it was told to.
DAEMON = """
import asyncio, sys, time
from pathlib import Path
from tetherd.__main__ import run
from tetherd.config import load
from tetherd.errors import InUse

async def serve(config, *, ready):
    {body}

sys.exit(run(load.load(None, sys.argv[1:]).config, serve))
"""
WAIT = """
    try:
        ready()
        await asyncio.Event().wait()
    finally:
        {drain}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("TETHER__")]:
        monkeypatch.delenv(name)
    for kind in ("STATE", "CACHE", "RUNTIME", "CONFIGURATION"):
        monkeypatch.setenv(f"{kind}_DIRECTORY", str(tmp_path / kind.lower()))
    return tmp_path


@contextmanager
def daemon(drain: str = "pass", *arguments: str) -> Iterator[subprocess.Popen[str]]:
    code = DAEMON.format(body=WAIT.format(drain=drain).strip())
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], message: str) -> dict[str, Any]:
    assert process.stderr
    for line in process.stderr:
        found: dict[str, Any] = json.loads(line)
        if message in found["msg"]:
            return found
    raise AssertionError(f"the daemon ended without saying {message!r}")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"tetherd {__version__} (Python ")
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == __version__


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "exit codes" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nope"], ["run", "--nope"], ["config"], ["run", "--conf", "x"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: tetherd" in capsys.readouterr().err


def test_validate_prints_every_problem(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "t.toml"
    path.write_text('[gateway]\nlisen = 1\nlisten = "0.0.0.0:3000"\n[drain]\ndeadline = 5\n')
    assert main(["validate", str(path)]) == 78
    capsys.readouterr()
    assert main(["validate", "--config", str(path)]) == 78
    out, err = capsys.readouterr()
    public = "'0.0.0.0' is not a loopback address: TLS and keys do not exist yet, "
    public += "so anyone who reaches this port could use it"
    assert out == ""
    assert err.splitlines() == [
        f"tetherd: {path}:2:1: gateway.lisen: there is no such setting",
        "  fix: did you mean gateway.listen?",
        f"tetherd: {path}:3:1: gateway.listen: {public}",
        '  fix: use "127.0.0.1:3000"',
        f"tetherd: {path}:5:1: drain.deadline: '5' has no unit",
        '  fix: write a duration with its unit, like "5s"',
    ]


def test_validate_reads_standard_input(place: Path) -> None:
    command = [sys.executable, "-m", "tetherd", "validate", "--config", "-"]
    done = subprocess.run(command, input="[node\n", capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert done.stderr.startswith("tetherd: stdin:1:6: not TOML")
    assert subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", [["run"], ["config", "--effective"]])
def test_settings_are_refused_before_anything_starts(
    command: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--role", "wroker", "--log-level", "loud", "--set", "drain.deadline=5"]) == 78
    err = capsys.readouterr().err
    assert "flag --role: node.roles: 'wroker' is not one of" in err
    assert 'did you mean "worker"?' in err
    assert "flag --log-level: log.level: 'loud'" in err
    assert "flag --set drain.deadline: drain.deadline: '5' has no unit" in err
    assert "Traceback" not in err
    assert not list(place.iterdir())


def test_the_printed_default_is_a_valid_configuration(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--default"]) == 0
    path = place / "t.toml"
    path.write_text(capsys.readouterr().out)
    assert main(["validate", "--config", str(path)]) == 0


def test_effective_settings_show_flags(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--effective", "--role", "manager", "--role", "orchestrator", "--log-format", "json"]) == 0
    out = capsys.readouterr().out
    assert 'roles = ["manager","orchestrator"]  # flag --role\n' in out
    assert 'format = "json"  # flag --log-format\n' in out


def test_multicast_is_switched_off_by_a_flag(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--effective", "--no-mdns"]) == 0
    assert "mdns = false  # flag --no-mdns\n" in capsys.readouterr().out
    assert main(["config", "--effective"]) == 0
    assert "mdns = true" in capsys.readouterr().out


def test_a_reader_that_had_enough_is_no_error(place: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tetherd", "config", "--default"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_stops_gracefully(number: signal.Signals, place: Path) -> None:
    with daemon(f"await asyncio.sleep(0.2); Path({str(place / 'd')!r}).touch()") as one:
        ready = until(one, "ready")
        assert ready["roles"] == ["gateway", "orchestrator", "worker", "manager"]
        one.send_signal(number)
        assert until(one, "stopping")["signal"] == number.name
        until(one, "stopped")
        assert one.wait(10) == 0
    assert (place / "d").exists()
    assert [(place / name).stat().st_mode & 0o777 for name in ("state", "cache", "runtime")] == [0o700] * 3


@pytest.mark.parametrize("drain", ["await asyncio.sleep(60)", "time.sleep(60)"], ids=["draining", "stuck loop"])
def test_the_second_signal_ends_it_at_once(drain: str, place: Path) -> None:
    with daemon(drain) as one:
        until(one, "ready")
        one.terminate()
        until(one, "stopping")
        one.terminate()
        assert one.wait(10) == 4
        assert one.stderr
        assert one.stderr.read().startswith("tetherd: a second signal (SIGTERM): stopped by force")


def test_one_state_directory_has_one_daemon(place: Path) -> None:
    with daemon() as one:
        until(one, "ready")
        with daemon() as other:
            said = until(other, "uses")
            assert other.wait(10) == 3
        assert said["level"] == 60
        assert f"process {one.pid} uses {place}/state already" in said["msg"]
        assert "node.state_dir" in said["fix"]
    with daemon() as third:
        until(third, "ready")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise InUse('port 3000 is taken', fix='free it')", 3, "port 3000 is taken"),
        ("raise ExceptionGroup('x', [ExceptionGroup('y', [InUse('nested')])])", 3, "nested"),
        ("raise OSError(98, 'Address already in use')", 3, "an address is taken"),
        ("raise ValueError('surprise')", 1, "the daemon failed"),
        ("return", 0, "stopped"),
    ],
)
def test_how_it_ends_by_itself(body: str, code: int, message: str, place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DAEMON.format(body=body)], capture_output=True, text=True, check=False)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert message in json.loads(line)["msg"]
    assert ("stack" in json.loads(line).get("err", {})) == (message == "the daemon failed")


def test_systemd_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(place / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        with daemon("pass", "node.roles=manager") as one:
            until(one, "ready")
            one.terminate()
            assert one.wait(10) == 0
        manager.setblocking(False)
        told = []
        while True:
            try:
                told.append(manager.recv(4096).decode())
            except BlockingIOError:
                break
    assert sorted(told[:3]) == ["READY=1", "STATUS=serving as manager", "WATCHDOG=1"]
    assert told[3:] == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000", "STATUS=stopping"]
