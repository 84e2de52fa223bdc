"""Hosts of the local network that lie by multicast: nobody is led astray, and operators are told."""

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from typing import Any

from fleet import Fleet, Resident
from harness import until
from lab import Host, Lab
from test_multicast import Speaker

from tetherd.discovery.announcement import Orders, network_tag

METADATA = "169.254.169.254"


def peers(daemon: Resident) -> dict[str, dict[str, Any]]:
    """Return the peers that a daemon shows, by name."""
    return {peer["name"]: peer for peer in netcheck(daemon)["peers"]}


def netcheck(daemon: Resident) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.ctl("netcheck", "-o", "json").stdout)
    return found


def said(daemon: Resident, host: Host, node: str, *addresses: str, port: int = 7443) -> Speaker:
    """Announce a node of a daemon's network at addresses of the liar's choice."""
    network = daemon.call("GET", "/api/v1/cluster", control=True).ok()["network"]
    orders = Orders(network_tag(network), node, {"rpc": port}, addresses=addresses)
    return Speaker(host, node, orders=orders)


@contextlib.contextmanager
def trap(host: Host, place: str, port: int) -> Iterator[socket.socket]:
    """Listen at an address that nobody must dial."""
    with host.space.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((place, port))
        made.listen()
        yield made


def test_addresses_that_lead_elsewhere_are_never_dialled(lab: Lab, fleet: Fleet) -> None:
    home, cluster = lab.site("home"), {"dht": False}
    one = fleet.found(home.host("one"), "orchestrator", "manager", cluster=cluster)
    two = fleet.join(home.host("two"), "worker", cluster=cluster, worker={"spare": False})
    liar, node = home.host("liar"), "b" * 64
    until(lambda: peers(two)["one"]["path"] == "lan", "two is connected to one")
    liar.space.ip(f"addr add {METADATA}/16 dev {liar.device}")
    two.host.space.ip(f"route add {METADATA}/32 dev {two.host.device}")
    real = peers(two)["one"]["node"]
    with contextlib.ExitStack() as stack:
        traps = [
            stack.enter_context(trap(two.host, "127.0.0.1", 7000)),
            stack.enter_context(trap(liar, METADATA, 7000)),
            stack.enter_context(trap(liar, liar.address, 22)),
        ]
        stack.enter_context(said(one, liar, node, "127.0.0.1", METADATA, port=7000))
        stack.enter_context(said(one, home.host("other"), real, "127.0.0.1", METADATA, port=7000))
        stack.enter_context(said(one, home.host("third"), "c" * 64, liar.address, port=22))

        def reasons() -> set[str]:
            found = netcheck(two)
            drops = [*found["dropped"], *(drop for peer in found["peers"] for drop in peer["dropped"])]
            return {drop["detail"] for drop in drops if drop["source"] == "mdns"}

        until(lambda: any("loopback leads to this very host" in why for why in reasons()), "loopback is refused")
        until(lambda: any("metadata services" in why for why in reasons()), "the metadata service is refused")
        until(lambda: any("is not a port from 1024" in why for why in reasons()), "the port is refused")
        one.kill()  # now two looks for it everywhere
        until(lambda: peers(two)["one"]["path"] == "", "two has lost one")
        two.ctl("ping", "one", code=6)
        two.ctl("ping", node[:16], code=None)
        assert not select.select(traps, [], [], 3.0)[0], "one of the traps was dialled"


def test_of_two_that_claim_one_id_the_one_with_its_key_wins(lab: Lab, fleet: Fleet) -> None:
    home, cluster = lab.site("home"), {"dht": False}
    one = fleet.found(home.host("one"), "orchestrator", "manager", cluster=cluster)
    two = fleet.join(home.host("two"), "worker", cluster=cluster, worker={"spare": False})
    three = fleet.join(home.host("three"), "manager", cluster=cluster)
    until(lambda: peers(two)["one"]["path"] == "lan", "two is connected to one")
    node = peers(two)["one"]["node"]
    with said(one, home.host("liar"), node, three.host.address):
        until(lambda: any(each["reason"] == "conflict" for each in netcheck(one)["dropped"]), "one hears its own id")
        (alarm,) = (each for each in netcheck(one)["dropped"] if each["reason"] == "conflict")
        assert three.host.address in alarm["detail"]
        lie = f"{three.host.address}:7443"
        until(lambda: lie in [each["address"] for each in peers(two)["one"]["addresses"]], "two hears the lie")
        assert json.loads(two.ctl("ping", "one", "-o", "json").stdout)["best"]["address"] == f"{one.host.address}:7443"
        one.kill()  # now two tries the lie
        until(lambda: any(each["reason"] == "conflict" for each in peers(two)["one"]["dropped"]), "two says so")
        assert peers(two)["one"]["path"] == ""
        one.start()
        until(lambda: peers(two)["one"]["dialled"] == f"{one.host.address}:7443", "two is connected to one again")
    assert "two hosts claim one node id" in one.logged()
