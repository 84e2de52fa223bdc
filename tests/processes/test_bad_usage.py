"""Bad input to commands, impossible configurations, and sockets that belong to someone else."""

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from harness import EXAMPLE, PATIENCE, REPOSITORY, Daemon, Host, is_right, turns_for, until

pytestmark = pytest.mark.usefixtures("it_lives")


def serves(daemon: Daemon) -> bool:
    return is_right(daemon.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\x00", b"[" * 100_000, b'{"inputs": {"pixels": "x"}}'], ids=range(5)
)
def test_what_is_piped_into_infer(small: Daemon, content: bytes) -> None:
    done = small.ctl("infer", "digits", stdin=content, code=2)
    assert not done.stdout
    assert done.stderr.count(b"\n") <= 3


def test_endless_input_is_cut(small: Daemon) -> None:
    command = [sys.executable, "-m", "tetherctl", "--endpoint", small.url, "infer", "digits"]
    endless = subprocess.Popen(["yes", "1"], stdout=subprocess.PIPE)
    done = subprocess.run(command, cwd=REPOSITORY, stdin=endless.stdout, capture_output=True, timeout=60, check=False)
    endless.kill()
    endless.wait()
    assert endless.stdout
    endless.stdout.close()
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_an_interrupt_leaves_at_once(small: Daemon) -> None:
    turns = turns_for(small, 2)
    command = [sys.executable, "-m", "tetherctl", "--endpoint", small.url, "infer", "spin", "-i", "-"]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        asking = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert asking.stdin
        asking.stdin.write(json.dumps({"inputs": {"turns": turns}}).encode())
        asking.stdin.close()
        until(lambda: small.get("/api/v1/status")["workers"][0]["busy"], "it executes")
        asking.send_signal(number)
        assert asking.wait(PATIENCE) in (code, -number)
        assert asking.stderr
        assert b"Traceback" not in asking.stderr.read()
        asking.stderr.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[node", "tetherd"),
        ("[node]\nnmae = 'x'", "name"),
        ("[gateway]\nlisten = '0.0.0.0:3000'", "loopback"),
        ("[gateway]\nlisten = '127.0.0.1:65536'", "listen"),
        ("[worker]\nrunners = 'two'", "runners"),
        ("[rpc]\nlisten = 'tcp://0.0.0.0:1'", "loopback"),
        ("[node]\nruntime_dir = '/" + "x" * 120 + "'", "107"),
        ("x = 1\n" * 3, "x"),
    ],
    ids=range(8),
)
def test_configurations_that_cannot_be(small: Daemon, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tetherd.toml"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "tetherd", "run", "--config", str(file)],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_file_where_a_socket_should_be_is_left_alone(host: Host) -> None:
    precious = host.folder / "precious"
    precious.write_text("keep me")
    for where in ({"rpc": {"listen": f"ipc://{precious}"}}, {"control": {"socket": str(precious)}}):
        daemon = host.daemon(name=f"onto-{next(iter(where))}", **where)
        daemon.start(wait=False)
        assert daemon.wait_end() in (3, 78)
        assert precious.read_text() == "keep me"


def test_what_is_taken_is_not_taken_over(small: Daemon, host: Host) -> None:
    second = host.daemon(name="second", gateway={"listen": small.address})
    second.start(wait=False)
    assert second.wait_end() == 3
    third = subprocess.run(
        [sys.executable, "-m", "tetherd", "run", "--config", str(small.config)],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert third.returncode == 3
    assert b"Traceback" not in third.stderr
    assert serves(small)


def test_what_is_said_into_its_own_sockets(small: Daemon) -> None:
    """Bytes that are no frame, into the socket on which the roles listen."""
    for junk in (
        b"\0SP\0\0\x30\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0SP\0\0\x30\0\0\x01" + b"\xff" * 8 + bytes(100),
        bytes(64),
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(small.control.with_name("rpc.sock")))
            threading.Event().wait(0.05)
            connection.sendall(junk)
    assert serves(small)
