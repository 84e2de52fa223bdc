"""A node that comes back elsewhere is found again, by multicast or by a seed, and its operator sees how."""

import json
from typing import Any

import pytest
from harness import Daemon, Host, free_port, until


def ports() -> dict[str, Any]:
    return {key: f"127.0.0.1:{free_port()}" for key in ("listen", "enrol", "bulk", "udp")}


def peers(daemon: Daemon) -> dict[str, dict[str, Any]]:
    found = json.loads(daemon.ctl("netcheck", "-o", "json").stdout)
    return {peer["name"]: peer for peer in found["peers"]}


def is_connected(daemon: Daemon, name: str, address: str) -> bool:
    peer = peers(daemon).get(name)
    places = [one["address"] for one in peer["addresses"] if one["proven"]] if peer and peer["path"] else []
    return address in places


@pytest.mark.parametrize("source", ["mdns", "seed"])
def test_a_node_that_comes_back_elsewhere_is_found(host: Host, source: str) -> None:
    before, after = ports(), ports()
    others: dict[str, Any] = {"mdns": source == "mdns", "dht": False}
    seeds = [after["listen"]] if source == "seed" else []
    one = host.daemon(name="one", cluster={**before, **others}, worker={"spare": False}).start()
    two = host.daemon(name="two", cluster={**ports(), **others, "seeds": seeds}, worker={"spare": False}).start()
    one.ctl("cluster", "init", "--name", "home")
    two.ctl("cluster", "join", stdin=one.ctl("cluster", "token", "--role", "worker").stdout)
    until(lambda: is_connected(two, "one", before["listen"]), "two is connected to one")
    until(lambda: peers(one)["two"]["path"] == "local", "one shows the connection that two made")
    assert (peers(one)["two"]["dialled"], peers(one)["two"]["arrived"]) == ("", "127.0.0.1")
    assert "  path       local\n" in one.ctl("nodes", "show", "two").stdout.decode()
    one.kill()
    moved = host.daemon(name="one", cluster={**after, **others}, worker={"spare": False}).start()
    until(lambda: is_connected(two, "one", after["listen"]), f"two finds one again by {source}")
    # The listener of the daemon that was killed may say goodbye after the new one said hello; it is asked once more.
    until(lambda: source in peers(two)["one"]["sources"], f"{source} speaks of one")
    pinged = json.loads(two.ctl("ping", "one", "-o", "json").stdout)
    assert pinged["answers"]
    assert (pinged["path"], pinged["best"]["address"]) == ("local", after["listen"])
    checks = {check["name"]: check["state"] for check in json.loads(two.ctl("doctor", "-o", "json").stdout)["checks"]}
    assert (checks["tcp"], checks["tls"]) == ("ok", "ok")
    moved.kill()
