"""Models inside the worker's process, and what loading and unloading leaves behind in either place."""

import gc
from pathlib import Path

import graphs
import numpy as np
import pytest
import tritonclient.http as triton
from harness import DIGITS, EXAMPLE, Daemon, Host, Load, is_right, turns_for, until

MIB = 2**20


@pytest.fixture(scope="module")
def inside(shared_host: Host) -> Daemon:
    """A daemon that hosts models in its own process."""
    daemon = shared_host.daemon(name="inside", worker={"isolation": "thread"}, orchestrator={"execution_timeout": "2s"})
    daemon.start().wait_ready()
    daemon.ctl("models", "push", str(DIGITS))
    return daemon


def anonymous(daemon: Daemon) -> int:
    """Return the bytes that a daemon's own process holds, without the files it maps.

    A runner gives its memory back by ending, and what a mapped file takes depends on who else maps it.
    """
    rollup = Path(f"/proc/{daemon.pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Anonymous:"))


def test_models_inside_the_worker_serve(inside: Daemon) -> None:
    assert is_right(inside.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])
    (runner,) = inside.runners("digits")
    assert (runner["isolation"], runner["pid"]) == ("thread", inside.pid)
    with triton.InferenceServerClient(inside.address) as client:
        array = np.array(EXAMPLE["inputs"]["pixels"], np.float32)
        for binary in (True, False):
            tensor = triton.InferInput("pixels", [1, 64], "FP32")
            tensor.set_data_from_numpy(array, binary_data=binary)
            result = client.infer("digits", [tensor])
            assert is_right({"scores": result.as_numpy("scores"), "label": result.as_numpy("label")})


def test_texts_inside_the_worker(inside: Daemon) -> None:
    inside.push("text", graphs.identity("BYTES", ("n",)))
    texts = ["", "Grüße", "a\0b"]
    assert inside.infer("text", {"x": texts}).ok()["outputs"] == {"y": texts}


def test_many_clients_of_a_model_inside_the_worker(inside: Daemon) -> None:
    load = Load(inside, "/api/v1/inference/digits", {"inputs": EXAMPLE["inputs"]}, clients=16, requests=50)
    assert load.failed() == []


def test_a_slow_model_inside_the_worker_leaves_the_daemon_responsive(inside: Daemon) -> None:
    turns = turns_for(inside, 0.7)
    load = Load(inside, "/api/v1/inference/spin", {"inputs": {"turns": turns}}, clients=2, requests=1)
    others = Load(inside, "/api/v1/inference/digits", {"inputs": EXAMPLE["inputs"]}, clients=2, requests=50)
    assert others.failed() == []
    assert others.longest_gap() < 0.5
    assert load.failed() == []


def test_an_endless_loop_inside_the_worker_is_ended(inside: Daemon) -> None:
    inside.push("spin", graphs.spin())
    reply = inside.infer("spin", {"turns": 2**62})
    assert reply.status in (503, 504), reply.body
    assert inside.infer("spin", {"turns": 1}).status == 200
    assert is_right(inside.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_loading_and_unloading_returns_memory(host: Host, isolation: str) -> None:
    daemon = host.daemon(worker={"isolation": isolation}).start().wait_ready()
    daemon.push("large", graphs.weights(16))

    def cycle() -> None:
        daemon.call("POST", "/api/v1/models/large/load").ok()
        assert daemon.infer("large", {"at": [0, 1, 2]}).status == 200
        daemon.call("POST", "/api/v1/models/large/unload").ok()

    def at_rest() -> int:
        versions = lambda: daemon.get("/api/v1/models/large")["versions"]  # noqa: E731
        until(lambda: not any(one["runners"] for one in versions()), "the model is unloaded")
        until(lambda: len(daemon.remember()) == 1, "only the spare runner is left")
        return anonymous(daemon)

    for _ in range(3):
        cycle()
    gc.collect()
    before, files = at_rest(), daemon.files()
    for _ in range(10):
        cycle()
    assert at_rest() - before < max(0.05 * before, 8 * MIB)
    until(lambda: daemon.files() <= files + 2, "the pipes of ended runners are closed")
