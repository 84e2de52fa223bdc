"""Hosts behind a router that maps ports when it is asked: dialled from outside if they ask, and not if they do not."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, Resident
from harness import DIGITS, EXAMPLE, is_right, until
from lab import LAN, Host, Lab, Site
from router import MappingRouter, reason_no_daemon

from tetherd.discovery.mapping import Report, Want
from tetherd.drivers.discovery.mapping import PortMapping
from tetherd.drivers.host.clock import SystemClock
from tetherd.wire.portmapping import Method

SERVES = ("gateway", "orchestrator", "manager")
ALSO: dict[str, Any] = {"cluster": {"mdns": False}}
ROUTER = LAN.format(1, 1)
MAPS: dict[str, Any] = {"cluster": {"mdns": False, "port_mapping": True}}


@pytest.fixture(autouse=True)
def _possible(possible: None) -> None:
    if reason := reason_no_daemon():
        pytest.skip(reason)


@pytest.fixture
def home(lab: Lab) -> Site:
    return lab.site("home")


Route = Callable[..., MappingRouter]


@pytest.fixture
def route(home: Site, tmp_path: Path) -> Iterator[Route]:
    """Have the router at home map ports, by what it is said to speak."""
    with contextlib.ExitStack() as end:

        def make(**speaks: bool) -> MappingRouter:
            made = MappingRouter(home, tmp_path, **speaks)
            end.callback(made.end)
            return made

        yield make


# --- the driver against the real thing --------------------------------------------------------------------------------


def talk(inside: Host, outside: Host, router: Host) -> None:
    """Reach both mapped ports of a host behind the router from outside."""
    with inside.space.socket() as listener, outside.space.socket() as link:
        listener.bind(("", 7443))
        listener.listen()
        link.connect((router.address, 7443))
        listener.accept()[0].close()
    with inside.space.socket(socket.SOCK_DGRAM) as receiver, outside.space.socket(socket.SOCK_DGRAM) as sender:
        receiver.bind(("", 7443))
        sender.sendto(b"hello", (router.address, 7443))
        assert receiver.recv(64) == b"hello"


async def mapped(method: Method, during: Callable[[Report], None]) -> None:
    """Have both ports mapped, call ``during`` with the report, and have the mappings ended."""
    there = asyncio.Event()
    wants = (Want("rpc", "tcp", 7443), Want("dht", "udp", 7443))
    # Which router there is, the kernel tells a whole process only, and not the thread that is inside.
    driver = PortMapping(wants, SystemClock(), changed=there.set, methods=(method,), router=lambda: ROUTER)
    task = asyncio.create_task(driver.run(lambda: None))
    await asyncio.wait_for(there.wait(), 20)
    await asyncio.to_thread(during, driver.report())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("method", ["pcp", "nat-pmp", "upnp"])
def test_a_real_router_maps_ports_and_ends_the_mappings(lab: Lab, home: Site, route: Route, method: Method) -> None:
    if method == "upnp":
        pytest.importorskip("async_upnp_client", reason="the extra upnp is not installed")
    router = route(pmp=method != "upnp", upnp=method == "upnp")
    inside, outside = home.host("inside"), lab.host("outside")
    reports: list[Report] = []

    def during(report: Report) -> None:
        reports.append(report)
        assert len(router.mappings()) == 2
        talk(inside, outside, home.router)

    assert router.mappings() == []
    inside.space.call(lambda: asyncio.run(mapped(method, during)))
    assert router.mappings() == []
    (report,) = reports
    assert (report.router, report.method, report.refused) == (ROUTER, method, {})
    assert {str(each.outside) for each in report.mapped} == {f"{home.router.address}:7443"}
    assert not any(each.obstacle for each in report.mapped)


# --- a fleet ----------------------------------------------------------------------------------------------------------


def peer(member: Resident, name: str) -> dict[str, Any]:
    """Return what a node knows of another one."""
    known = json.loads(member.ctl("netcheck", "-o", "json").stdout)["peers"]
    return next((one for one in known if one["name"] == name), {})


def dialled(member: Resident, name: str) -> str:
    """Wait until a node has a connection to another one, and return where that leads."""
    found: str = until(lambda: peer(member, name).get("dialled"), f"{name} is dialled", patience=60)
    return found


def check(member: Resident) -> dict[str, Any]:
    """Return what a node says of its router."""
    (found,) = json.loads(member.ctl("doctor", "--only", "mapping", "-o", "json").stdout)["checks"]
    return dict(found)


@pytest.mark.parametrize("speaks", ["pcp", "upnp"])
def test_a_node_behind_nat_that_has_its_ports_mapped_is_dialled_from_outside(
    lab: Lab, fleet: Fleet, home: Site, route: Route, speaks: str
) -> None:
    if speaks == "upnp":
        pytest.importorskip("async_upnp_client", reason="the extra upnp is not installed")
    router = route(pmp=speaks == "pcp", upnp=speaks == "upnp")
    fleet.found(lab.host("founder"), *SERVES, **ALSO)
    inside = fleet.join(home.host("inside"), "orchestrator", **MAPS)
    outside = fleet.join(lab.host("outside"), "worker", **ALSO)
    assert dialled(outside, "inside") == f"{home.router.address}:7443"
    assert peer(outside, "inside")["path"] == "direct"
    said = check(inside)
    assert said["state"] == "ok"
    assert f"{ROUTER} maps by {speaks}: rpc 7443 to {home.router.address}:7443" in said["detail"]
    assert len(router.mappings()) == 2
    inside.stop()
    assert router.mappings() == []


@pytest.mark.slow
def test_a_founder_behind_nat_lets_in_who_comes_from_outside(lab: Lab, fleet: Fleet, home: Site, route: Route) -> None:
    """The token names the router's address, and so does the list of members; nothing else could lead here."""
    router = route()
    alone: dict[str, Any] = {"cluster": {"mdns": False, "dht": False}}
    founder = fleet.found(home.host("founder"), *SERVES, cluster={**alone["cluster"], "port_mapping": True})
    place = f"{home.router.address}:7444"
    until(lambda: place in founder.ctl("cluster", "token").stdout.decode(), "tokens say where to come to")
    assert len(router.mappings()) == 3
    founder.ctl("models", "push", str(DIGITS))
    outside = fleet.join(lab.host("outside"), "worker", **alone)
    assert dialled(outside, "founder") == f"{home.router.address}:7443"
    assert is_right(founder.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def test_two_nodes_behind_one_router_are_each_dialled_at_a_port_of_their_own(
    lab: Lab, fleet: Fleet, home: Site, route: Route
) -> None:
    route()
    fleet.found(lab.host("founder"), *SERVES, **ALSO)
    for name in ("one", "two"):
        fleet.join(home.host(name), "orchestrator", **MAPS)
    outside = fleet.join(lab.host("outside"), "worker", **ALSO)
    places = [dialled(outside, name) for name in ("one", "two")]
    assert {place.rpartition(":")[0] for place in places} == {home.router.address}
    assert len(set(places)) == 2


def test_a_node_that_does_not_ask_is_not_let_in(lab: Lab, fleet: Fleet, home: Site, route: Route) -> None:
    router = route(upnp=True)
    fleet.found(lab.host("founder"), *SERVES, **ALSO)
    inside = fleet.join(home.host("inside"), "orchestrator", **ALSO)
    outside = fleet.join(lab.host("outside"), "worker", **ALSO)
    # It is looked for, in vain.
    until(lambda: any(one["failures"] for one in peer(outside, "inside").get("addresses", ())), "it was tried")
    assert peer(outside, "inside")["dialled"] == ""
    assert router.mappings() == []
    assert (check(inside)["state"], check(inside)["detail"]) == ("skip", "switched off by cluster.port_mapping")
