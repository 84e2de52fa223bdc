"""doctor, netcheck and ping, run as processes against a daemon that answers what a test says."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

NODE = "a" * 64
ADDRESS = {
    "address": "10.0.0.1:7443", "sources": ["mdns"], "path": "lan", "proven": True, "failures": 0, "failure": "",
    "heard_ms_ago": 1500.0,
}  # fmt: skip
DROP = {
    "reason": "address", "detail": "loopback leads to this very host", "node": NODE, "address": "127.0.0.1:7443",
    "source": "mdns", "count": 3, "last_ms_ago": 2000.0,
}  # fmt: skip
PEER = {
    "node": NODE, "name": "box-a", "roles": ["manager"], "member": True, "revoked": False, "path": "lan",
    "rtt_ms": 0.42, "sources": ["dht", "mdns"], "heard_ms_ago": 1500.0, "conflict": False, "ports": {},
    "addresses": [ADDRESS], "dropped": [DROP], "dialled": "10.0.0.1:7443", "arrived": "",
}  # fmt: skip
PINGED = {
    **PEER, "answers": True, "round_trip_ms": 0.9, "clock_ahead_ms": 5.0, "version": "0.1.0", "failure": "",
    "best": {"address": "10.0.0.1:7443", "path": "lan", "rtt_ms": 0.4}, "missed": [],
    "large": "",
}  # fmt: skip
MISSED = {
    "address": "10.0.0.1:7443",
    "path": "lan",
    "reason": "unreachable",
    "detail": "connection refused",
    "found": "",
}
GUEST = {**PINGED, "rtt_ms": None, "round_trip_ms": None, "best": None, "addresses": [], "dialled": "",
         "arrived": "10.0.0.7"}  # fmt: skip
SILENT = {**PINGED, "answers": False, "path": "", "rtt_ms": None, "round_trip_ms": None, "clock_ahead_ms": None,
          "best": None, "missed": [MISSED]}  # fmt: skip


def check(name: str, state: str, detail: str, fix: str = "", **counts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "detail": detail,
        "fix": fix,
        "sent": None,
        "heard": None,
        "dropped": {},
        **counts,
    }


MULTICAST = check("multicast", "ok", "1 nodes heard of", sent=3, heard=2, dropped={"other-network": 4})
VIEW = {"family": "IPv4", "kind": "random", "detail": "random (\"symmetric\"): 3 hosts see it as 203.0.113.1",
        "address": "203.0.113.1", "observers": 3}  # fmt: skip
NETCHECK = {
    "in_network": True, "mechanisms": [MULTICAST, check("udp", "skip", "switched off by cluster.dht")],
    "nat": [VIEW], "dial_in": check("dial-in", "warn", "from the local network only", "forward the port"),
    "peers": [PEER], "seeds": [{**ADDRESS, "address": "10.0.0.9:7443", "failure": "connection refused"}],
    "dropped": [
        {**DROP, "reason": "other-network", "node": "", "address": "stranger", "detail": "another tag", "count": 1}
    ],
}  # fmt: skip


@pytest.fixture
def serve(daemon: Any) -> Callable[..., None]:
    def answers(path: str, *documents: dict[str, Any]) -> None:
        left = list(documents)

        def act(http: Any) -> bool:
            if http.path != path:
                return False
            http.reply(200, left.pop(0) if len(left) > 1 else left[0])
            return True

        daemon.rules.append(act)

    return answers


def doctored(*checks: dict[str, Any]) -> dict[str, Any]:
    return {"healthy": all(one["state"] != "fail" for one in checks), "checks": list(checks)}


def test_a_healthy_host(ctl: Any, serve: Any) -> None:
    serve("/api/v1/doctor", doctored(check("disk", "ok", "50 GiB free"), check("tls", "skip", "in no network")))
    done = ctl("doctor")
    assert done.returncode == 0
    assert " ok    disk       50 GiB free" in done.stdout
    assert "tetherd 0.1.0 answers in" in done.stdout
    assert done.stderr == "0 failed, 0 warnings, 3 ok, 1 skipped\n"


def test_the_doctor_says_what_was_sent_heard_and_dropped(ctl: Any, serve: Any) -> None:
    serve("/api/v1/doctor", doctored(MULTICAST))
    assert "1 nodes heard of; sent 3; heard 2; dropped 4 (other-network)\n" in ctl("doctor").stdout


def test_a_failed_check_is_never_0(ctl: Any, serve: Any) -> None:
    serve("/api/v1/doctor", doctored(check("disk", "fail", "0.0 GiB free", "remove versions")))
    done = ctl("doctor")
    assert done.returncode == 1
    assert " FAIL  disk " in done.stdout
    assert "fix: remove versions" in done.stdout
    machine = ctl("doctor", "-o", "json")
    assert machine.returncode == 1
    document = msgspec.json.decode(machine.stdout)
    assert (document["schema"], document["healthy"]) == ("tether.doctor/v1", False)
    assert [one["name"] for one in document["checks"]] == ["config", "socket", "disk"]


def test_a_warning_fails_only_when_it_should(ctl: Any, serve: Any) -> None:
    serve("/api/v1/doctor", doctored(check("clock", "warn", "3 s behind box-a", "set-ntp")))
    assert ctl("doctor").returncode == 0
    assert ctl("doctor", "--strict").returncode == 1


def test_without_a_daemon_the_doctor_says_so_and_fails(ctl: Any) -> None:
    done = ctl("doctor", "--json")
    assert done.returncode == 1
    found = {one["name"]: one for one in msgspec.json.decode(done.stdout)["checks"]}
    assert (found["config"]["state"], found["socket"]["state"]) == ("ok", "fail")
    assert found["socket"]["fix"]


def test_a_check_that_nobody_made_is_not_healthy(ctl: Any) -> None:
    done = ctl("doctor", "--only", "tls", "--json")
    assert done.returncode == 1
    document = msgspec.json.decode(done.stdout)
    assert not document["healthy"]
    assert [(one["name"], one["state"]) for one in document["checks"]] == [("socket", "fail")]
    assert ctl("doctor", "--only", "config").returncode == 0, "that needs no daemon"


def test_a_daemon_that_cannot_examine_is_told_once(ctl: Any, daemon: Any) -> None:
    document = msgspec.json.decode(ctl("doctor", "--json").stdout)  # it answers, and has no such path
    assert [(one["name"], one["state"]) for one in document["checks"]] == [("config", "ok"), ("socket", "fail")]


def test_only_some_checks(ctl: Any, serve: Any, daemon: Any) -> None:
    serve("/api/v1/doctor", doctored(check("disk", "fail", "full", "remove"), check("tcp", "ok", "2 of 2")))
    assert ctl("doctor", "--only", "tcp,config").returncode == 0
    assert ctl("doctor", "--only", "disk").returncode == 1
    done = ctl("doctor", "--only", "config")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    done = ctl("doctor", "--only", "gpu")
    assert (done.returncode, "the checks are config" in done.stderr) == (2, True)


def test_a_broken_configuration_fails(ctl: Any, serve: Any, place: Any) -> None:
    serve("/api/v1/doctor", doctored())
    done = ctl("doctor", TETHER__GATEWAY__LISTEN="nonsense")
    assert (done.returncode, " FAIL  config" in done.stdout) == (1, True)


def test_netcheck_shows_sources_nodes_and_reasons(ctl: Any, serve: Any) -> None:
    serve("/api/v1/netcheck", NETCHECK)
    done = ctl("netcheck")
    assert done.returncode == 0
    assert "sent 3; heard 2; dropped 4 (other-network)" in done.stdout
    assert "box-a  manager  lan   0.42 ms  dht,mdns  2 s ago  10.0.0.1:7443" in done.stdout
    assert "box-a 127.0.0.1:7443: loopback leads to this very host (address, 3 times, 2 s ago)" in done.stdout
    assert 'nat        IPv4  random ("symmetric"): 3 hosts see it as 203.0.113.1\n' in done.stdout
    assert "dial-in    warn  from the local network only\n" in done.stdout
    assert "fix: forward the port" in done.stdout
    assert "stranger: another tag (other-network, 2 s ago)" in done.stdout
    assert "seed 10.0.0.9:7443: connection refused" in done.stdout
    document = msgspec.json.decode(ctl("netcheck", "--json").stdout)
    assert document == {"schema": "tether.netcheck/v1", **NETCHECK}


def test_large_packets_that_vanish_are_told(ctl: Any, serve: Any) -> None:
    serve("/api/v1/ping/box-a", {**PINGED, "large": "small packets reach 10.0.0.1:7443 and large ones vanish"})
    assert "\n  small packets reach 10.0.0.1:7443 and large ones vanish\n" in ctl("ping", "box-a").stdout


def test_who_only_dials_is_shown_by_its_connection(ctl: Any, serve: Any) -> None:
    serve("/api/v1/netcheck", {**NETCHECK, "peers": [GUEST]})
    (row,) = [line for line in ctl("netcheck").stdout.splitlines() if line.startswith("box-a  ")]
    assert row.split() == ["box-a", "manager", "lan", "dht,mdns", "2", "s", "ago", "from", "10.0.0.7"]
    serve("/api/v1/ping/box-a", GUEST)
    done = ctl("ping", "box-a")
    assert (done.returncode, done.stdout) == (0, "box-a  lan  it is connected from 10.0.0.7, and only it can ask\n")


def test_netcheck_outside_of_a_network(ctl: Any, serve: Any) -> None:
    serve(
        "/api/v1/netcheck", {**NETCHECK, "in_network": False, "mechanisms": [], "peers": [], "seeds": [], "dropped": []}
    )
    assert ctl("netcheck").stdout == "this host is in no network\n"


def test_what_strangers_announce_reaches_no_terminal_as_it_is(ctl: Any, serve: Any) -> None:
    wicked = {**DROP, "node": "", "address": "\x1b[2J\u202eevil", "detail": "\x07"}
    serve("/api/v1/netcheck", {**NETCHECK, "dropped": [wicked]})
    assert not set(ctl("netcheck").stdout) & {"\x1b", "\u202e", "\x07"}


def test_ping_shows_path_and_round_trip(ctl: Any, serve: Any) -> None:
    serve("/api/v1/ping/box-a", PINGED)
    done = ctl("ping", "box-a")
    assert (done.returncode, done.stdout) == (0, "box-a  lan  0.90 ms  10.0.0.1:7443\n")
    document = msgspec.json.decode(ctl("ping", "box-a", "--json").stdout)
    assert (document["schema"], document["sent"], document["answered"]) == ("tether.ping/v1", 1, 1)
    assert document["pings"] == [{"answers": True, "path": "lan", "rtt_ms": 0.9}]
    assert ctl("ping", "box-a", "-o", "name").stdout == f"{NODE}\n"


def test_a_wrong_clock_is_mentioned(ctl: Any, serve: Any) -> None:
    serve("/api/v1/ping/box-a", {**PINGED, "clock_ahead_ms": -4000.0})
    assert ctl("ping", "box-a").stdout.endswith("clock 4 s behind\n")


def test_a_ping_without_an_answer_says_why(ctl: Any, serve: Any) -> None:
    serve("/api/v1/ping/box-a", SILENT)
    done = ctl("ping", "box-a")
    assert done.returncode == 6
    assert done.stdout.splitlines() == ["box-a  no answer", "  10.0.0.1:7443  lan  connection refused"]
    serve("/api/v1/ping/box-b", {**SILENT, "missed": []})
    assert "no address of it is known" in ctl("ping", "box-b").stdout
    assert ctl("ping", "box-a", "--json").returncode == 6


def test_ping_goes_on_until_the_path_is_direct(ctl: Any, serve: Any) -> None:
    serve("/api/v1/ping/box-a", {**PINGED, "path": "relay:r1"}, PINGED)
    done = ctl("ping", "box-a", "--until-direct")
    assert (done.returncode, [line.split()[1] for line in done.stdout.splitlines()]) == (0, ["relay:r1", "lan"])
    serve("/api/v1/ping/box-b", {**PINGED, "path": "relay:r1"})
    assert ctl("ping", "box-b", "--until-direct", "--for", "100ms").returncode == 6


def test_ping_several_times(ctl: Any, serve: Any) -> None:
    serve("/api/v1/ping/box-a", SILENT, PINGED)
    done = ctl("ping", "box-a", "--count", "2")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)


def test_ping_of_nobody(ctl: Any, daemon: Any) -> None:
    def unknown(http: Any) -> bool:
        http.fail(404, "NODE_NOT_FOUND", "no node is known as 'box-z'", "tetherctl netcheck lists the nodes that are")
        return True

    daemon.rules.append(unknown)
    assert ctl("ping", "box-z").returncode == 3
    assert ctl("ping").returncode == 2
    assert ctl("ping", "box-z", "--count", "0").returncode == 2
    assert ctl("ping", "box-z", "--for", "never").returncode == 2
