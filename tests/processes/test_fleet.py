"""Two hosts become one network: found, invite, join, serve over mutual TLS, send away, come back."""

import json
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import DIGITS, EXAMPLE, PATIENCE, Host, free_port, is_right, new_host, until
from members import answers, ask, member, restart, workers

AUTHORITY = ("root.key", "issuing.key", "authority.db")


class Pair:
    """A founder without a worker, and a host whose worker joins it."""

    def __init__(self, host: Host) -> None:
        self.a = member(host, "a", "gateway", "orchestrator", "manager").start()
        self.b = member(host, "b").start()
        self.a.ctl("cluster", "init", "--name", "home")

    def invite(self, *words: str) -> bytes:
        return self.a.ctl("cluster", "token", "--role", "worker", *words).stdout

    def join(self) -> None:
        self.b.ctl("cluster", "join", stdin=self.invite())
        self.wait_worker()

    def wait_worker(self) -> None:
        until(lambda: workers(self.a) == {"b"}, "the worker of b is known to a")

    def infer(self) -> None:
        assert is_right(self.a.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


@pytest.fixture
def pair(host: Host) -> Pair:
    return Pair(host)


@pytest.fixture(scope="module")
def joined() -> Iterator[Pair]:
    """A pair that joined and serves, which tests leave as they found it."""
    with new_host() as host:
        pair = Pair(host)
        pair.join()
        pair.a.ctl("models", "push", str(DIGITS))
        pair.infer()
        yield pair


def test_a_worker_that_joined_serves_what_was_pushed_elsewhere(pair: Pair) -> None:
    pair.a.ctl("models", "push", str(DIGITS))
    assert pair.a.infer("digits", EXAMPLE["inputs"]).status == 503
    pair.join()
    pair.infer()
    assert ask(pair.b, "status")["roles"] == ["worker"]
    (runner,) = pair.a.runners("digits")
    assert runner["runner"].startswith("b-")


def test_both_come_back_after_they_were_killed(pair: Pair) -> None:
    pair.a.ctl("models", "push", str(DIGITS))
    pair.join()
    for daemon in (pair.b, pair.a):
        restart(daemon)
        pair.wait_worker()
        until(lambda: pair.a.infer("digits", EXAMPLE["inputs"]).status == 200, "digits is served again")


def test_what_both_know_of_the_network(joined: Pair) -> None:
    on_a, on_b = (
        json.loads(daemon.ctl("nodes", "ls", "-o", "json").stdout)["items"] for daemon in (joined.a, joined.b)
    )
    assert [(node["name"], node["roles"]) for node in on_a] == [(node["name"], node["roles"]) for node in on_b]
    assert {node["name"]: node["state"] for node in on_a} == {"a": "this host", "b": "connected"}
    assert {node["name"]: bool(node["addresses"]) for node in on_a} == {"a": True, "b": False}
    ca = [json.loads(daemon.ctl("cluster", "ca", "show", "-o", "json").stdout) for daemon in (joined.a, joined.b)]
    assert ca[0]["roots"] == ca[1]["roots"]


def test_a_label_arrives_everywhere(joined: Pair) -> None:
    joined.a.ctl("nodes", "label", "b", "rack=7", "gpu=none")
    joined.a.ctl("nodes", "label", "b", "gpu-")
    until(lambda: ask(joined.b, "nodes/b")["labels"] == {"rack": "7"}, "b knows its label")


def test_what_is_refused_and_why(joined: Pair) -> None:
    for daemon, words, code, says in (
        (joined.a, ("cluster", "init"), 7, "is in the network home"),
        (joined.b, ("cluster", "token"), 7, "does not hold the authority"),
        (joined.a, ("cluster", "token", "--role", "king"), 2, "there is no role"),
        (joined.a, ("cluster", "token", "--ttl", "2d"), 2, "24 hours"),
        (joined.a, ("nodes", "show", "nobody"), 3, "no node"),
        (joined.a, ("nodes", "revoke", "a", "-y"), 7, "itself"),
        (joined.a, ("nodes", "forget", "b", "-y"), 7, "is connected"),
        (joined.a, ("cluster", "leave", "-y"), 7, "authority"),
        (joined.a, ("nodes", "label", "b", "x"), 2, "no label"),
    ):
        refused = daemon.ctl(*words, code=code)
        assert says in refused.stderr.decode(), words
        assert b"fix:" in refused.stderr
    refused = joined.b.ctl("cluster", "join", stdin=joined.invite(), code=7)
    assert "is in the network home" in refused.stderr.decode()
    assert joined.b.ctl("cluster", "join", stdin=b"tthj1.abc", code=2)
    assert joined.a.call("GET", "/api/v1/cluster").status == 403, "the network is nobody's business but the host's"


def test_a_founder_that_could_not_listen_founds_nothing(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        a = host.daemon("manager", cluster={"listen": f"127.0.0.1:{port}", "enrol": f"127.0.0.1:{free_port()}"}).start()
        refused = a.ctl("cluster", "init", code=7)
    assert "cluster.listen" in refused.stderr.decode()
    assert ask(a, "cluster")["member"] is False
    a.ctl("cluster", "init")


def test_a_token_comes_from_a_file_or_the_environment_too(joined: Pair, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(joined.invite("--role", "gateway", "--ttl", "1h", "--name", "c"))
    refused = joined.b.ctl("cluster", "join", "--token-file", str(tmp_path / "token"), code=7)
    assert "is in the network home" in refused.stderr.decode()
    joined.b.ctl("cluster", "join", "--token-file", str(tmp_path / "nothing"), code=1)
    joined.b.ctl("cluster", "join", "a-token", code=2)


def test_a_token_is_good_for_one_host(joined: Pair, host: Host) -> None:
    token = joined.invite()
    c, d = (member(host, name).start() for name in ("c", "d"))
    c.ctl("cluster", "join", stdin=token)
    refused = d.ctl("cluster", "join", stdin=token, code=7)
    assert "another host" in refused.stderr.decode()
    until(lambda: "c" in workers(joined.a), "the worker of c is known")
    c.ctl("cluster", "leave", "-y")
    until(lambda: workers(joined.a) == {"b"}, "only b's worker is left")
    assert ask(c, "cluster")["member"] is False
    assert ask(c, "status")["roles"] == ["gateway", "orchestrator", "worker", "manager"]
    assert {node["name"] for node in ask(joined.a, "nodes")["nodes"]} == {"a", "b"}


def test_a_gateway_that_joined_answers_clients_where_it_is(joined: Pair, host: Host) -> None:
    gateway = member(host, "g").start()
    gateway.ctl("cluster", "join", stdin=joined.a.ctl("cluster", "token", "--role", "gateway").stdout)
    until(lambda: answers(gateway) and ask(gateway, "status").get("models") == 1, "the gateway knows the models")
    assert is_right(gateway.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])
    assert ask(gateway, "status")["roles"] == ["gateway"]
    gateway.ctl("models", "promote", "digits@1")
    gateway.ctl("cluster", "leave", "-y")
    assert joined.a.ctl("nodes", "show", "g", code=3)


def test_a_node_that_was_revoked_is_gone_within_seconds(pair: Pair) -> None:
    pair.join()
    pair.a.ctl("nodes", "revoke", "b", "-y")
    until(lambda: not workers(pair.a), "the worker of b is gone", patience=5)
    until(lambda: not ask(pair.b, "cluster")["member"], "b knows", patience=5)
    restart(pair.b)
    assert not workers(pair.a)
    pair.a.ctl("nodes", "forget", "b", "-y")
    pair.b.ctl("cluster", "leave", "--force", "-y")
    pair.join()


def test_another_root_takes_over_and_all_that_joined_go_on(pair: Pair) -> None:
    pair.a.ctl("models", "push", str(DIGITS))
    pair.join()
    pair.infer()
    before = ask(pair.b, "cluster/ca")["roots"]
    for _ in range(3):
        until(lambda: pair.a.ctl("cluster", "ca", "rotate", "-y", code=None).returncode == 0, "the next step is taken")
        until(lambda: pair.a.infer("digits", EXAMPLE["inputs"]).status == 200, "digits is served again")
    after = ask(pair.a, "cluster/ca")["roots"]
    assert not {root["key"] for root in after} & {root["key"] for root in before}
    until(lambda: ask(pair.b, "cluster/ca")["roots"] == after, "b trusts the new root alone")
    restart(pair.b)
    pair.wait_worker()
    until(lambda: pair.a.infer("digits", EXAMPLE["inputs"]).status == 200, "digits is served again")
    pair.b.ctl("cluster", "leave", "-y")
    pair.join()


def test_no_request_fails_while_the_root_changes(pair: Pair) -> None:
    pair.a.ctl("models", "push", str(DIGITS))
    pair.join()
    pair.infer()
    answered: list[int] = []
    failed: list[bytes] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            answer = pair.a.infer("digits", EXAMPLE["inputs"])
            answered.append(answer.status)
            if answer.status != 200:
                failed.append(answer.body)

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        for _ in range(3):
            until(
                lambda: pair.a.ctl("cluster", "ca", "rotate", "-y", code=None).returncode == 0, "the next step is taken"
            )
            answered.clear()
            until(lambda: len(answered) > 100, "requests are answered")
    finally:
        ended.set()
        for client in clients:
            client.join()
    assert failed == []


def test_a_key_that_others_can_read_stops_the_daemon(pair: Pair, host: Host) -> None:
    pair.join()
    pair.b.stop()
    key = Path(host.folder / "b" / "state" / "identity" / "key.pem")
    key.chmod(0o644)
    pair.b.start(wait=False)
    assert pair.b.wait_end(PATIENCE) == 1
    assert "other users can read it" in pair.b.logged()


def test_what_is_secret_is_for_its_owner_alone(pair: Pair, host: Host) -> None:
    pair.join()
    for name in ("a", "b"):
        home = host.folder / name
        folders = [home / each for each in ("state", "state/identity", "run")]
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
        kept = [path for path in (home / "state").rglob("*") if path.is_file() and path.suffix != ".lock"]
        secrets = [path for path in kept if path.parent.name in ("identity", "authority")]
        assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
        sockets = [path for path in (home / "run").iterdir() if path.is_socket()]
        assert {stat.S_IMODE(path.stat().st_mode) & 0o022 for path in sockets} == {0}
    pair.a.stop()
    for name in ("identity/key.pem", "identity/network.json", *(f"authority/{each}" for each in AUTHORITY)):
        path = host.folder / "a" / "state" / name
        path.chmod(0o640)
        pair.a.start(wait=False)
        assert pair.a.wait_end() == 1, name
        assert f"{path} holds a secret key" in pair.a.logged()
        path.chmod(0o600)
    pair.a.start()
