"""Hosts find each other by any one source of discovery, with any one of them switched off, and while clients ask."""

from collections.abc import Collection
from typing import Any, Final

import pytest
from fleet import Fleet
from lab import Lab
from network import PORT, Network, connected_at, grow, holders, peer, shown, wait

ALL: Final = frozenset({"seed", "mdns", "dht"})
FOUND: Final = 20.0
"""Seconds within which whoever came back elsewhere is connected to all others."""


def build(lab: Lab, fleet: Fleet, sources: Collection[str], **size: int) -> tuple[Network, list[str]]:
    """Return a network with these sources only, and where its founder will be."""
    lab.neighbours()
    later = lab.elsewhere()
    cluster: dict[str, Any] = {"mdns": "mdns" in sources, "dht": "dht" in sources}
    if "seed" in sources:
        cluster["seeds"] = [f"{later[0]}:{PORT}"]
    return grow(lab, fleet, cluster=cluster, **size), later


def find_the_founder(network: Network, later: list[str], sources: Collection[str]) -> None:
    """The founder, of whose move it alone could tell the others, comes back elsewhere: they find it, and it lets in."""
    others = [one for one in network.all if one is not network.first]
    with network.entry.traffic() as traffic:
        traffic.wait()
        network.first.kill()
        address = network.lab.readdress(network.first.host, later)
        network.first.start()
        for one in others:
            met = lambda one=one: connected_at(one, "first", address)  # noqa: E731
            wait(met, f"{one.name} finds the founder at {address}", FOUND)
        network.wait_whole()
        traffic.wait()
    assert traffic.errors() == []
    heard = {source for one in others for source in peer(one, "first")["sources"]} & ALL
    assert heard, "somebody told them"
    assert heard <= set(sources)
    for one in network.all:
        states = {check["name"]: check["state"] for check in shown(one, "netcheck")["mechanisms"]}
        assert states["multicast"] == ("skip" if "mdns" not in sources else states["multicast"])
        assert states["udp"] == ("skip" if "dht" not in sources else states["udp"])
    late = network.fleet.join(network.sites[0].host("late"), "worker", worker={"preload": ["digits"]})
    network.workers.append(late)
    network.wait_whole()
    network.check_serves()
    assert holders(network.entry) == network.managers


@pytest.mark.timeout(120)
@pytest.mark.parametrize("source", sorted(ALL))
def test_a_small_network_finds_its_founder_by_one_source(lab: Lab, fleet: Fleet, source: str) -> None:
    network, later = build(lab, fleet, {source}, managers=2, workers=1)
    find_the_founder(network, later, {source})


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("off", sorted(ALL))
def test_a_network_finds_its_founder_without_one_source(lab: Lab, fleet: Fleet, off: str) -> None:
    network, later = build(lab, fleet, ALL - {off}, managers=3, workers=4)
    find_the_founder(network, later, ALL - {off})


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("source", sorted(ALL))
def test_a_network_finds_its_founder_by_one_source(lab: Lab, fleet: Fleet, source: str) -> None:
    network, later = build(lab, fleet, {source}, managers=3, workers=4)
    find_the_founder(network, later, {source})
