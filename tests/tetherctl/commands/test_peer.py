"""doctor peer, run as a process against a daemon that answers what a test says."""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest

GOOD = {
    "address": "10.0.0.1:7443", "reachable": True, "cause": "none", "message": "node aa answers", "fix": "",
    "node": "aa",
}  # fmt: skip
BAD = {
    "address": "10.0.0.1:7443", "reachable": False, "cause": "expired", "message": "its certificate expired 3 days ago",
    "fix": "check this host's clock", "node": "aa",
}  # fmt: skip


@pytest.fixture
def serve(daemon: Any) -> Callable[[dict[str, Any]], None]:
    def answers(document: dict[str, Any]) -> None:
        def act(http: Any) -> bool:
            if http.path != "/api/v1/doctor/peer/10.0.0.1%3A7443":
                return False
            http.reply(200, document)
            return True

        daemon.rules.append(act)

    return answers


def test_a_node_that_answers(ctl: Any, serve: Any) -> None:
    serve(GOOD)
    done = ctl("doctor", "peer", "10.0.0.1:7443")
    assert (done.returncode, done.stdout) == (0, "ok  10.0.0.1:7443  node aa answers\n")


def test_what_is_wrong_is_said_with_what_to_do(ctl: Any, serve: Any) -> None:
    serve(BAD)
    done = ctl("doctor", "peer", "10.0.0.1:7443")
    assert done.returncode == 1
    assert "FAIL  10.0.0.1:7443  its certificate expired 3 days ago" in done.stdout
    assert "check this host's clock" in done.stdout
    machine = ctl("doctor", "peer", "10.0.0.1:7443", "-o", "json")
    assert machine.returncode == 1
    document = msgspec.json.decode(machine.stdout)
    assert (document["schema"], document["cause"]) == ("tether.doctor.peer/v1", "expired")


def test_an_address_is_needed(ctl: Any) -> None:
    assert ctl("doctor", "peer").returncode == 2


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("10.0.0.1", "10.0.0.1:7443"),
        ("host.lan:99", "host.lan:99"),
        ("2001:db8::1", "[2001:db8::1]:7443"),
        ("[2001:db8::1]", "[2001:db8::1]:7443"),
        ("[2001:db8::1]:99", "[2001:db8::1]:99"),
    ],
)
def test_a_port_need_not_be_said(ctl: Any, daemon: Any, said: str, meant: str) -> None:
    asked: list[str] = []

    def act(http: Any) -> bool:
        asked.append(unquote(http.path.removeprefix("/api/v1/doctor/peer/")))
        http.reply(200, GOOD)
        return True

    daemon.rules.append(act)
    assert ctl("doctor", "peer", said).returncode == 0
    assert asked == [meant]
