"""Hosts with IPv6 alone, with IPv4 alone and with both in one network."""

import json
from typing import Any

from fleet import Fleet, Resident
from harness import until
from lab import Host, Lab


def only(host: Host, family: int) -> Host:
    """Leave a host one of its addresses."""
    gone = host.addresses.pop(0 if family == 6 else 1)
    host.space.ip(f"addr del {gone}/{24 if family == 6 else 64} dev {host.device}")
    return host


def seen(daemon: Resident, name: str) -> dict[str, Any]:
    """Return how a daemon shows a peer."""
    peers = json.loads(daemon.ctl("netcheck", "-o", "json").stdout)["peers"]
    return next(peer for peer in peers if peer["name"] == name)


def test_a_host_of_ipv6_alone_joins_is_found_and_reached(lab: Lab, fleet: Fleet) -> None:
    cluster = {"mdns": False}
    first = fleet.found(lab.host("first"), "orchestrator", "manager", cluster=cluster)
    six = fleet.join(only(lab.host("six"), 6), "orchestrator", cluster=cluster)
    worker = fleet.join(lab.host("worker"), "worker", cluster=cluster, worker={"spare": False})
    fleet.join(only(lab.host("four"), 4), "worker", cluster=cluster, worker={"spare": False})
    place = f"[{six.host.addresses[0]}]:7443"
    for daemon in (first, worker):
        until(lambda daemon=daemon: seen(daemon, "six")["dialled"] == place, "six is reached over IPv6")
        assert seen(daemon, "six")["path"] == "direct"
    until(lambda: seen(six, "first")["dialled"].startswith("["), "six reaches the first over IPv6")
    until(lambda: "four" in [peer["name"] for peer in peers(first) if peer["arrived"]], "four came over IPv4")
    assert "." in seen(first, "four")["arrived"]
    assert ":" in seen(first, "six")["arrived"]
    checks = {one["name"]: one["state"] for one in json.loads(worker.ctl("doctor", "-o", "json").stdout)["checks"]}
    assert (checks["tcp"], checks["udp"], checks["mtu"]) == ("ok", "ok", "ok")


def peers(daemon: Resident) -> list[dict[str, Any]]:
    """Return all peers that a daemon shows."""
    found: list[dict[str, Any]] = json.loads(daemon.ctl("netcheck", "-o", "json").stdout)["peers"]
    return found
