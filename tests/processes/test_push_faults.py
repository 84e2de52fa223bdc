"""A manager killed in the middle of a push: what it acknowledged is there, and nothing is half there."""

import hashlib
import http.client
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import graphs
import pytest
from harness import DIGITS, EXAMPLE, REPOSITORY, Cluster, Daemon, Host, four_processes, is_right, until

PIECE = 1024 * 1024
MEGABYTES = 8
CALLS = ("fsync", "fdatasync", "rename")
"""What makes a push durable and visible, where the manager is killed in turn."""


class Push:
    """A push by hand in small pieces, which notes what was acknowledged and goes on after every interruption."""

    def __init__(self, gateway: Daemon, name: str, model: bytes) -> None:
        self.name = name
        self.model = model
        self.digest = f"sha256:{hashlib.sha256(model).hexdigest()}"
        self.stored = 0
        self.complete = False
        self.version: dict[str, Any] | None = None
        self.interruptions = 0
        self._gateway = gateway
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self) -> dict[str, Any]:
        self._thread.join(60)
        assert self.version, f"{self.name} was not published; {self.stored} bytes of {len(self.model)} acknowledged"
        return self.version

    def _run(self) -> None:
        deadline = time.monotonic() + 50
        while self.version is None and time.monotonic() < deadline:
            try:
                self._go_on()
            except (OSError, http.client.HTTPException):
                self.interruptions += 1
                time.sleep(0.05)

    def _go_on(self) -> None:
        offset = self.kept()
        # Until it says so the blob is not complete, even if all its bytes are there: the last step may be missing.
        while not self.complete:
            piece = self.model[offset : offset + PIECE]
            headers = {"Upload-Offset": str(offset), "Upload-Length": str(len(self.model))}
            reply = self._gateway.call("PATCH", f"/api/v1/blobs/{self.digest}", piece, headers=headers)
            if reply.status not in (201, 204):
                raise OSError(f"{reply.status}: {reply.body!r}")
            offset += len(piece)
            self.stored = max(self.stored, offset)
            self.complete = reply.status == 201
        files = [{"path": "model.onnx", "digest": self.digest, "size": len(self.model)}]
        reply = self._gateway.call("POST", f"/api/v1/models/{self.name}/versions", {"files": files})
        if reply.status not in (200, 201):
            raise OSError(f"{reply.status}: {reply.body!r}")
        self.version = reply.json()

    def kept(self) -> int:
        """Return how many bytes the manager says it has; never fewer than it acknowledged."""
        reply = self._gateway.call("HEAD", f"/api/v1/blobs/{self.digest}")
        if reply.status not in (200, 404) or (reply.status == 404 and "upload-offset" not in reply.headers):
            raise OSError(f"{reply.status}")
        assert reply.status == 200 or not self.complete, "a complete blob is gone"
        kept = len(self.model) if reply.status == 200 else int(reply.headers["upload-offset"])
        assert kept >= self.stored, f"{self.stored} bytes were acknowledged, {kept} are left"
        return kept


def check_whole(gateway: Daemon, name: str, model: bytes) -> None:
    """See that a published version has all its bytes and serves."""
    (version,) = gateway.get(f"/api/v1/models/{name}")["versions"]
    for file in version["files"]:
        data = gateway.call("GET", f"/api/v1/blobs/{file['digest']}").body
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == file["digest"]
        assert data == model
    manifest = gateway.call("GET", f"/api/v1/models/{name}/manifest").body
    assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == version["digest"]
    assert gateway.infer(name, {"at": [0, 1]}, timeout=60).status == 200


def names(gateway: Daemon) -> set[str]:
    return {one["name"] for one in gateway.get("/api/v1/models")["models"]}


@pytest.fixture(scope="module")
def cluster(shared_host: Host) -> Cluster:
    cluster = four_processes(shared_host, worker={"isolation": "thread", "max_runners": 4})
    cluster.gateway.ctl("models", "push", str(DIGITS))
    return cluster


@pytest.fixture(autouse=True)
def _what_was_there_stays(cluster: Cluster) -> Any:
    yield
    assert is_right(cluster.gateway.wait_ready().infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def delays(steps: int) -> list[float]:
    """Return moments spread over the time that a push takes."""
    return [0.6 * step / steps for step in range(steps)]


def kill_during_push(cluster: Cluster, delay: float, seed: int) -> None:
    model = graphs.weights(MEGABYTES, seed)
    name = f"timed-{seed}"
    push = Push(cluster.gateway, name, model)
    time.sleep(delay)  # the moment is what is tried here
    cluster.manager.kill()
    published = push.version is not None
    cluster.manager.start()
    assert push.kept() >= push.stored
    if published:
        assert name in names(cluster.gateway)
    push.finish()
    check_whole(cluster.gateway, name, model)
    cluster.gateway.call("DELETE", f"/api/v1/models/{name}").ok()


@pytest.mark.parametrize("delay", delays(4))
def test_the_manager_is_killed_at_some_moment_of_a_push(cluster: Cluster, delay: float) -> None:
    kill_during_push(cluster, delay, seed=int(delay * 1000))


@pytest.mark.slow
@pytest.mark.parametrize("delay", delays(40))
def test_the_manager_is_killed_at_every_moment_of_a_push(cluster: Cluster, delay: float) -> None:
    kill_during_push(cluster, delay, seed=10_000 + int(delay * 1000))


def kill_at_call(cluster: Cluster, call: str, count: int) -> bool:
    """Kill the manager at the ``count``th call of a thread of it during a push; return whether it came to that."""
    model = graphs.weights(2, seed=hash((call, count)) % 2**32)
    name = f"{call}-{count}"
    cluster.manager.end()
    tracer = [shutil.which("strace") or "", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    cluster.manager.start(wait=False, under=[*tracer, "-e", f"inject={call}:signal=SIGKILL:when={count}"])
    push = Push(cluster.gateway, name, model)
    manager = cluster.manager.process
    assert manager
    until(lambda: push.version or manager.poll() is not None, f"the {count}. {call} of the manager, or no such")
    died = manager.poll() is not None
    published = push.version is not None
    cluster.manager.end()
    cluster.manager.start()
    if published:
        until(lambda: name in names(cluster.gateway), "the gateway sees the version")
    push.finish()
    check_whole(cluster.gateway, name, model)
    return died


def can_trace() -> bool:
    strace = shutil.which("strace")
    return bool(strace) and subprocess.run([strace, "-qq", "-e", "trace=none", "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_trace(), reason="strace is missing or may not trace")
@pytest.mark.parametrize("call", CALLS)
def test_the_manager_is_killed_at_the_calls_that_make_a_push_durable(cluster: Cluster, call: str) -> None:
    assert kill_at_call(cluster, call, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not can_trace(), reason="strace is missing or may not trace")
@pytest.mark.parametrize("call", [*CALLS, "unlink", "pwrite64", "write", "openat"])
def test_the_manager_is_killed_at_each_call_of_a_kind(cluster: Cluster, call: str) -> None:
    for count in (1, 2, 3, 5, 8, 13, 21, 34):
        kill_at_call(cluster, call, count)


def test_tetherctl_goes_on_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "large.onnx").write_bytes(graphs.weights(24, seed=1))
    command = [sys.executable, "-m", "tetherctl", "--endpoint", cluster.gateway.url, "models", "push"]
    push = subprocess.Popen(
        [*command, str(tmp_path / "large.onnx"), "-o", "json"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    partial = cluster.manager.folder / "manager/state/blobs"
    until(
        lambda: any(path.stat().st_size > 2**20 for path in partial.rglob("*") if path.is_file()), "it uploads", pause=0
    )
    cluster.manager.signal(signal.SIGKILL)
    cluster.manager.wait_end()
    cluster.manager.start()
    out, err = push.communicate(timeout=60)
    assert push.returncode == 0, err.decode()
    assert json.loads(out)["schema"].startswith("tether.")
    check_whole(cluster.gateway, "large", (tmp_path / "large.onnx").read_bytes())
