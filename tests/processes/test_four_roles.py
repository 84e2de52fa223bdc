"""The main job through four roles in four processes, and what happens when each of them stops or comes back."""

import json
import signal

import pytest
from harness import DIGITS, EXAMPLE, Cluster, Daemon, Host, Load, alive, four_processes, is_right, turns_for, until


def push_digits(gateway: Daemon) -> None:
    gateway.ctl("models", "push", str(DIGITS))


def infer_digits(gateway: Daemon) -> bool:
    done = gateway.ctl("infer", "digits", "-o", "json", stdin=(DIGITS / "example.json").read_bytes())
    return is_right(json.loads(done.stdout)["outputs"])


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_push_and_infer(host: Host, transport: str) -> None:
    gateway = four_processes(host, transport).gateway
    push_digits(gateway)
    assert infer_digits(gateway)
    status = json.loads(gateway.ctl("status", "-o", "json").stdout)
    assert status["ready"]
    assert [worker["node"] for worker in status["workers"]] == ["worker0"]
    assert [runner["state"] for runner in status["workers"][0]["runners"]] == ["READY"]


@pytest.fixture(scope="module")
def cluster(shared_host: Host) -> Cluster:
    """Four processes that the tests below share: each leaves them all running and serving."""
    cluster = four_processes(shared_host)
    push_digits(cluster.gateway)
    assert infer_digits(cluster.gateway)
    return cluster


def serves(cluster: Cluster) -> None:
    cluster.gateway.wait_ready()
    assert is_right(cluster.gateway.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def test_a_role_without_gateway_tells_its_state_on_its_control_socket(cluster: Cluster) -> None:
    for daemon in (cluster.manager, cluster.orchestrator, *cluster.workers):
        document = daemon.call("GET", "/api/v1/status", control=True).ok()
        assert document["roles"] == daemon.roles
        assert daemon.call("GET", "/api/v1/models", control=True).status == 404


@pytest.mark.parametrize("role", ["manager", "orchestrator", "worker", "gateway"])
def test_a_role_stops_when_asked_and_the_rest_serves_again_with_the_next(cluster: Cluster, role: str) -> None:
    daemon = cluster.workers[0] if role == "worker" else getattr(cluster, role)
    assert daemon.stop() == 0
    until(lambda: not daemon.remember(), "its runners end with it")
    daemon.start()
    serves(cluster)


@pytest.mark.parametrize("role", ["manager", "orchestrator", "worker"])
def test_a_role_is_killed_and_the_rest_serves_again_with_the_next(cluster: Cluster, role: str) -> None:
    daemon = cluster.workers[0] if role == "worker" else getattr(cluster, role)
    daemon.kill()
    daemon.start()
    serves(cluster)


def test_models_are_served_while_the_manager_is_away(cluster: Cluster) -> None:
    serves(cluster)
    cluster.manager.kill()
    assert is_right(cluster.gateway.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])
    cluster.manager.start()
    serves(cluster)


def test_the_gateway_answers_what_is_in_flight_before_it_stops(cluster: Cluster) -> None:
    turns = turns_for(cluster.gateway, 0.1)
    load = Load(cluster.gateway, "/api/v1/inference/spin", {"inputs": {"turns": turns}}, clients=8, requests=1)
    until(lambda: cluster.gateway.get("/api/v1/status")["queues"], "the requests are queued")
    until(lambda: any(queue["leased"] for queue in cluster.gateway.get("/api/v1/status")["queues"]), "one executes")
    assert cluster.gateway.stop() == 0
    assert load.failed() == []
    cluster.gateway.start()
    serves(cluster)


@pytest.mark.parametrize("role", ["worker", "orchestrator"])
def test_a_role_behind_the_gateway_stops_under_load_without_a_failed_request(cluster: Cluster, role: str) -> None:
    daemon = cluster.workers[0] if role == "worker" else cluster.orchestrator
    turns = turns_for(cluster.gateway, 0.02)
    load = Load(cluster.gateway, "/api/v1/inference/spin", {"inputs": {"turns": turns}}, clients=4, requests=25)
    load.wait_answered(10)
    assert daemon.stop() == 0
    daemon.start()
    assert load.failed() == []
    serves(cluster)


def test_a_second_signal_ends_at_once(cluster: Cluster) -> None:
    turns = turns_for(cluster.gateway, 5)
    slow = Load(cluster.gateway, "/api/v1/inference/spin", {"inputs": {"turns": turns}}, clients=1, requests=1)
    until(lambda: any(queue["leased"] for queue in cluster.gateway.get("/api/v1/status")["queues"]), "it executes")
    cluster.gateway.signal(signal.SIGTERM)
    until(lambda: "stopping" in cluster.gateway.logged().splitlines()[-1], "it is asked to stop")
    cluster.gateway.signal(signal.SIGTERM)
    assert cluster.gateway.wait_end(1.0) == 4
    assert [status for status, _ in slow.failed()] == [0]
    cluster.gateway.start()
    serves(cluster)


def test_no_runner_outlives_its_worker(host: Host) -> None:
    daemon = host.daemon().start().wait_ready()
    push_digits(daemon)
    assert infer_digits(daemon)
    runners = daemon.remember()
    assert runners
    daemon.kill()
    until(lambda: not any(alive(pid) for pid in runners), "the runners end", patience=10)
