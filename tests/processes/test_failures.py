"""Runners and workers that die, hang or cannot load: clients see a slower answer, or an error of that model only."""

import os
import signal
import time

import graphs
import pytest
from harness import DIGITS, EXAMPLE, Daemon, Host, Load, four_processes, is_right, turns_for, until

RECOVERY = 1.0
"""Seconds in which at least one client has an answer, whatever dies."""

SPIN = "/api/v1/inference/spin"


def leased(daemon: Daemon, model: str) -> int:
    return sum(queue["leased"] for queue in daemon.get("/api/v1/status")["queues"] if queue["model"] == model)


def push_digits(daemon: Daemon) -> None:
    daemon.ctl("models", "push", str(DIGITS))


def serves_digits(daemon: Daemon) -> bool:
    return is_right(daemon.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def put_out_of_its_misery(daemon: Daemon, model: str) -> str:
    """Kill the runner of a model that executes something, and return which it was."""
    until(lambda: leased(daemon, model), f"{model} executes", pause=0.005)
    # A runner takes work a moment before its worker has reported it.
    (runner,) = daemon.wait_runners(model, 1)
    os.kill(runner["pid"], signal.SIGKILL)
    return str(runner["runner"])


@pytest.fixture(scope="module")
def pair(shared_host: Host) -> Daemon:
    """A daemon that holds each model twice."""
    daemon = shared_host.daemon(name="pair", worker={"runners": 2}, orchestrator={"execution_timeout": "3s"})
    daemon.start().wait_ready()
    push_digits(daemon)
    assert serves_digits(daemon)
    return daemon


def test_one_of_two_runners_is_killed_under_load(pair: Daemon) -> None:
    turns = turns_for(pair, 0.005)
    for _ in range(2):
        runners = pair.wait_runners("spin", 2)
        load = Load(pair, SPIN, {"inputs": {"turns": turns}}, clients=16, requests=40)
        load.wait_answered(160)
        os.kill(runners[0]["pid"], signal.SIGKILL)
        assert load.failed() == []
        assert load.longest_gap() < RECOVERY
    pair.wait_runners("spin", 2)


def test_one_of_two_runners_is_killed_under_load_of_batches(pair: Daemon) -> None:
    runners = pair.wait_runners("digits", 2)
    load = Load(pair, "/api/v1/inference/digits", {"inputs": EXAMPLE["inputs"]}, clients=16, requests=100)
    load.wait_answered(400)
    os.kill(runners[1]["pid"], signal.SIGKILL)
    assert load.failed() == []
    assert load.longest_gap() < RECOVERY
    pair.wait_runners("digits", 2)


def test_a_runner_that_stands_still_loses_its_work_and_is_replaced(pair: Daemon) -> None:
    turns = turns_for(pair, 0.005)
    runners = pair.wait_runners("spin", 2)
    load = Load(pair, SPIN, {"inputs": {"turns": turns}}, clients=8, requests=100)
    load.wait_answered(100)
    os.kill(runners[0]["pid"], signal.SIGSTOP)
    assert load.failed() == []
    # Two slots of the runner that stands still held one request each; everyone else goes on meanwhile.
    assert load.longest_gap() < RECOVERY
    assert max(one.took for one in load.outcomes) < 10
    replaced = until(
        lambda: len(now := pair.runners("spin")) == 2 and runners[0]["pid"] not in {one["pid"] for one in now},
        "it is replaced",
        patience=15,
    )
    assert replaced


def test_the_only_runner_is_killed_and_requests_wait_for_the_next(host: Host) -> None:
    daemon = host.daemon().start().wait_ready()
    turns = turns_for(daemon, 0.005)
    for _ in range(2):
        runner = daemon.wait_runners("spin", 1)[0]
        load = Load(daemon, SPIN, {"inputs": {"turns": turns}}, clients=16, requests=25)
        load.wait_answered(100)
        os.kill(runner["pid"], signal.SIGKILL)
        assert load.failed() == []
        assert load.longest_gap() < 3 * RECOVERY
    daemon.wait_runners("spin", 1)


def nodes_that_serve(gateway: Daemon, model: str) -> set[str]:
    return {str(one["runner"]).rpartition("-")[0] for one in gateway.runners(model)}


def test_a_worker_is_killed_while_another_has_the_model(host: Host) -> None:
    cluster = four_processes(host, workers=2, worker={"preload": ["spin"]})
    gateway = cluster.gateway
    turns = turns_for(gateway, 0.005)
    until(lambda: nodes_that_serve(gateway, "spin") == {"worker0", "worker1"}, "both hold the model")
    for killed in cluster.workers:
        load = Load(gateway, SPIN, {"inputs": {"turns": turns}}, clients=16, requests=40)
        load.wait_answered(160)
        killed.kill()
        assert load.failed() == []
        assert load.longest_gap() < RECOVERY
        until(lambda killed=killed: not killed.remember(), "the runners of the dead worker end", patience=10)
        killed.start()
        until(lambda: nodes_that_serve(gateway, "spin") == {"worker0", "worker1"}, "both hold the model again")


def test_a_worker_is_killed_and_another_loads_the_model(host: Host) -> None:
    cluster = four_processes(host, workers=2)
    gateway = cluster.gateway
    turns = turns_for(gateway, 0.005)
    (name,) = until(lambda: nodes_that_serve(gateway, "spin"), "a worker loads it")
    load = Load(gateway, SPIN, {"inputs": {"turns": turns}}, clients=16, requests=40)
    load.wait_answered(160)
    next(worker for worker in cluster.workers if worker.name == name).kill()
    assert load.failed() == []
    assert load.longest_gap() < 3 * RECOVERY
    assert nodes_that_serve(gateway, "spin") == {"worker0", "worker1"} - {name}


def test_an_input_that_kills_its_runners_fails_after_three_of_them(host: Host) -> None:
    daemon = host.daemon().start().wait_ready()
    push_digits(daemon)
    turns = turns_for(daemon, 20)
    poison = Load(daemon, SPIN, {"inputs": {"turns": turns}}, clients=1, requests=1)
    others = Load(daemon, "/api/v1/inference/digits", {"inputs": EXAMPLE["inputs"]}, clients=2, requests=100)
    for _ in range(3):
        put_out_of_its_misery(daemon, "spin")
        until(lambda: not leased(daemon, "spin"), "the orchestrator notices", pause=0.005)
    (outcome,) = poison.finish()
    assert outcome.status == 503
    assert b"RUNNER_LOST" in outcome.body
    assert others.failed() == []
    assert daemon.infer("spin", {"turns": 1}).status == 200


def test_a_model_whose_runners_keep_dying_is_given_up_with_a_reason(host: Host) -> None:
    daemon = host.daemon().start().wait_ready()
    push_digits(daemon)
    daemon.push("spin", graphs.spin())
    daemon.infer("spin", {"turns": 1}).ok()
    for _ in range(5):
        (runner,) = daemon.wait_runners("spin", 1)
        os.kill(runner["pid"], signal.SIGKILL)
        until(lambda pid=runner["pid"]: all(one["pid"] != pid for one in daemon.runners("spin")), "it is seen to die")
    shown = until(lambda: (one := daemon.get("/api/v1/models/spin"))["state"] == "FAILED" and one, "it is given up")
    assert "died 5 times" in shown["reason"]
    index = {one["name"]: one for one in daemon.call("POST", "/v2/repository/index").ok()}
    assert index["spin"]["state"] == "UNAVAILABLE"
    assert "died 5 times" in index["spin"]["reason"]
    assert index["digits"]["state"] == "READY"
    assert daemon.infer("spin", {"turns": 1}).status == 503
    assert serves_digits(daemon)
    daemon.ctl("models", "load", "spin")
    assert daemon.infer("spin", {"turns": 1}).status == 200


@pytest.fixture(scope="module")
def small(shared_host: Host) -> Daemon:
    """A daemon whose executions and loads may not take long, nor use much memory."""
    daemon = shared_host.daemon(
        name="small",
        orchestrator={"execution_timeout": "2s"},
        worker={"memory_limit": "1GiB", "load_timeout": "20s"},
    )
    daemon.start().wait_ready()
    push_digits(daemon)
    assert serves_digits(daemon)
    return daemon


def test_an_allocation_beyond_all_bounds_is_an_error_of_that_request(small: Daemon) -> None:
    small.push("bomb", graphs.bomb())
    assert small.infer("bomb", {"shape": [4]}).ok()["outputs"] == {"y": 0.0}
    for elements in (2 * 10**9, 2 * 10**11, 2**60):
        reply = small.infer("bomb", {"shape": [elements]})
        assert reply.status in (500, 503), reply.body
        assert reply.json()["code"] in ("EXECUTION_FAILED", "RUNNER_LOST")
        assert serves_digits(small)
    assert small.infer("bomb", {"shape": [4]}).ok()["outputs"] == {"y": 0.0}


def test_an_endless_loop_is_ended_and_others_are_served_meanwhile(small: Daemon) -> None:
    small.push("spin", graphs.spin())
    small.infer("spin", {"turns": 1}).ok()
    began = time.monotonic()
    endless = Load(small, SPIN, {"inputs": {"turns": 2**62}}, clients=1, requests=1)
    others = Load(small, "/api/v1/inference/digits", {"inputs": EXAMPLE["inputs"]}, clients=2, requests=200)
    (outcome,) = endless.finish()
    assert outcome.status in (503, 504), outcome.body
    # Three attempts of 2 s each, and what ending a runner takes.
    assert time.monotonic() - began < 15
    assert others.failed() == []
    assert others.longest_gap() < RECOVERY
    assert small.infer("spin", {"turns": 1}).status == 200


def test_an_endless_loop_ends_at_the_deadline_of_its_request(small: Daemon) -> None:
    small.push("spin", graphs.spin())
    small.infer("spin", {"turns": 1}).ok()
    began = time.monotonic()
    inputs = [{"name": "turns", "shape": [], "datatype": "INT64", "data": [2**62]}]
    reply = small.call("POST", "/v2/models/spin/infer", {"inputs": inputs, "parameters": {"timeout": 500_000}})
    assert reply.status == 503
    assert "Request timeout expired" in reply.json()["error"]
    assert time.monotonic() - began < 2
    assert small.infer("spin", {"turns": 1}).status == 200


def test_a_model_that_cannot_be_loaded_says_why_and_harms_no_other(small: Daemon) -> None:
    pushed = small.call(
        "PUT", "/api/v1/models/odd", graphs.unloadable(), headers={"Content-Type": "application/octet-stream"}
    )
    assert pushed.status in (201, 422), pushed.body
    if pushed.status == 201:
        reply = small.infer("odd", {"x": [1.0]})
        assert reply.status == 503
        assert "example.nowhere" in reply.json()["error"]
        assert "example.nowhere" in small.get("/api/v1/models/odd")["reason"]
    assert serves_digits(small)
