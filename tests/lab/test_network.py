"""A whole network under the load of a real client library, while things happen to it that happen to networks."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Self

import pytest
from fleet import new_fleet
from lab import Lab
from network import PORT, Network, connected_at, connections, grow, holders, shown, wait
from traffic import Traffic

NOTICED: Final = 6.0
"""Seconds within which a host that has fallen silent is done without."""

SMALL: Final = {"managers": 2, "workers": 2}
FULL: Final = {"managers": 3, "workers": 4}


def check(traffic: Traffic, gap: float) -> None:
    """Assert that no request failed and none waited too long."""
    assert traffic.errors() == []
    assert traffic.longest_gap() < gap


def the_seed_is_gone(network: Network) -> None:
    """The host that founded the network, which is all hosts' seed and its first manager, is away for a while."""
    others = [worker.name for worker in network.workers[1:]]
    with network.entry.traffic() as traffic:
        traffic.wait()
        network.first.kill()
        traffic.wait()
        network.workers[0].kill()
        network.wait_offers(network.second, others)
        traffic.wait()
        assert [model["name"] for model in shown(network.entry, "models", "ls")["items"]] == ["digits"]
        refused = network.entry.ctl("models", "rm", "digits", "--yes", code=None)
        assert b"only the manager on first can do this" in refused.stderr
        # A worker that comes now finds everybody, and the files, without it.
        network.workers[0].start()
        network.wait_offers(network.second, network.names)
        traffic.wait()
        network.first.start()
        network.wait_whole()
        traffic.wait()
    check(traffic, NOTICED)


def an_orchestrator_comes_back_elsewhere(network: Network) -> None:
    """It is found at its new address, and all there is left when the other one goes."""
    with network.entry.traffic() as traffic:
        traffic.wait()
        network.second.kill()
        address = network.lab.readdress(network.second.host)
        network.second.start()
        for one in network.all:
            if one is not network.second:
                wait(lambda one=one: connected_at(one, "second", address), f"{one.name} finds it at {address}")
        network.wait_offers(network.second, network.names)
        listed = lambda: f"{address}:{PORT}" in shown(network.entry, "nodes", "show", "second")["addresses"]  # noqa: E731
        wait(listed, "it is listed at its new address")
        network.first.kill()
        traffic.wait()
        network.first.start()
        network.wait_whole()
        traffic.wait()
    check(traffic, NOTICED)


def it_is_parted_and_heals(network: Network) -> None:
    """An orchestrator, managers and workers on either side; the clients are on one of them."""
    home, office = network.sites
    here = [network.entry.host, network.second.host, office.router]
    there = [one.host for one in (network.first, network.third) if one] + [home.router]
    with network.entry.traffic() as traffic:
        traffic.wait()
        with network.lab.partition(here, there):
            network.wait_offers(network.second, {worker.name for worker in network.workers[1::2]})
            network.wait_offers(network.first, {worker.name for worker in network.workers[::2]})
            traffic.wait()
        network.wait_whole()
        traffic.wait()
    check(traffic, NOTICED)


def routers_forget_their_connections(network: Network) -> None:
    with network.entry.traffic() as traffic:
        traffic.wait()
        for site in network.sites:
            site.rebind()
        traffic.wait()
        network.wait_whole()
        traffic.wait()
    check(traffic, NOTICED)


def every_certificate_is_renewed_under_another_root(network: Network) -> None:
    before = shown(network.first, "cluster", "ca", "show")
    with network.entry.traffic() as traffic:
        traffic.wait()
        for _ in ("announced", "switched", "alone"):
            rotated = lambda: network.first.ctl("cluster", "ca", "rotate", "--yes", code=None).returncode == 0  # noqa: E731
            wait(rotated, "the members are ready for the next step")
        for one in network.all:
            met = lambda one=one: is_renewed(shown(one, "cluster", "ca", "show"), before)  # noqa: E731
            wait(met, f"{one.name} trusts and shows the new root alone")
        network.wait_whole()
        traffic.wait()
    check(traffic, 1.0)


def is_renewed(now: Any, before: Any) -> bool:
    """Tell whether a host trusts one root, a new one, and shows a certificate under it."""
    roots, old = [one["key"] for one in now["roots"]], {one["key"] for one in before["roots"]}
    issuing = {one["key"] for one in before["chain"] if one["kind"] == "issuing"}
    return len(roots) == 1 and not old & set(roots) and not issuing & {one["key"] for one in now["chain"]}


def a_worker_is_revoked_and_comes_back_with_a_new_token(network: Network) -> None:
    gone, others = network.workers[0], {worker.name for worker in network.workers[1:]}
    with network.entry.traffic() as traffic:
        traffic.wait()
        before = connections(gone.host)
        assert before
        began = time.monotonic()
        network.first.ctl("nodes", "revoke", gone.name, "--yes")
        # It dials again, and whoever it dials may keep such a connection, unheard, so that it dials less often.
        wait(lambda: not before & connections(gone.host), "its connections end")
        assert time.monotonic() - began < 5
        for orchestrator in (network.first, network.second):
            network.wait_offers(orchestrator, others)
        traffic.wait()
        states = {node["name"]: node["state"] for node in shown(network.first, "nodes", "ls")["items"]}
        assert states[gone.name] == "revoked"
        network.fleet.rejoin(gone, "worker")
        network.wait_whole()
        traffic.wait()
    check(traffic, 1.0)


HAPPENINGS: Final[list[Callable[[Network], None]]] = [
    an_orchestrator_comes_back_elsewhere,
    the_seed_is_gone,
    it_is_parted_and_heals,
    routers_forget_their_connections,
    every_certificate_is_renewed_under_another_root,
    a_worker_is_revoked_and_comes_back_with_a_new_token,
]
each = pytest.mark.parametrize("happens", HAPPENINGS, ids=lambda one: one.__name__)


class Nursery:
    """Keeps one network for as long as all that happens to it leaves it whole."""

    def __init__(self) -> None:
        self._network: Network | None = None
        self._end = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._network = None
        self._end.close()

    @contextmanager
    def lend(self) -> Iterator[Network]:
        """Lend it, and give it up where what is done with it fails."""
        with ExitStack() as failing:
            failing.push(self)
            if self._network is None:
                self._network = grow(self._end.enter_context(Lab()), self._end.enter_context(new_fleet()), **SMALL)
            yield self._network
            failing.pop_all()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


@each
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("possible")
def test_a_small_network_outlives_that(nursery: Nursery, happens: Callable[[Network], None]) -> None:
    with nursery.lend() as network:
        happens(network)
        network.check_serves()
        assert holders(network.entry) == network.managers


@each
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_network_outlives_that(lab: Lab, happens: Callable[[Network], None]) -> None:
    with new_fleet() as fleet:
        network = grow(lab, fleet, **FULL)
        happens(network)
        network.check_serves()
        assert holders(network.entry) == network.managers
