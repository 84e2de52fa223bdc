"""Networks of real daemons, broken and mended: what their clients see meanwhile, and that it comes right again."""

import time
from typing import Any

import pytest
from emulator import Conditions
from fleet import Fleet, Resident
from harness import DIGITS, EXAMPLE, is_right, until
from lab import Lab

SERVES = ("gateway", "orchestrator", "manager")

NOTICED = 6.0
"""Seconds within which a host that has fallen silent is done without."""


def push(founder: Resident) -> None:
    founder.ctl("models", "push", str(DIGITS))


def serves(gateway: Resident) -> bool:
    return is_right(gateway.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def hosts_that_serve(gateway: Resident) -> set[str]:
    """Return the names of the nodes that have a runner ready for the digits model."""
    return {worker["node"] for worker in workers(gateway) if any(one["state"] == "READY" for one in worker["runners"])}


def workers(gateway: Resident) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway.get("/api/v1/status")["workers"]
    return found


def wait_serving(gateway: Resident, *names: str, patience: float = 30) -> None:
    until(lambda: hosts_that_serve(gateway) == set(names), f"{names} serve", patience=patience)


@pytest.mark.parametrize("nat", ["cone", "symmetric"])
def test_a_worker_behind_nat_serves_what_is_pushed_on_the_founder(lab: Lab, fleet: Fleet, nat: Any) -> None:
    founder = fleet.found(lab.host("founder"), *SERVES)
    push(founder)
    home = lab.site("home", nat)
    began = time.monotonic()
    fleet.join(home.host("worker"), "worker")
    assert serves(founder)
    assert time.monotonic() - began < 5
    assert hosts_that_serve(founder) == {"worker"}


def test_nobody_notices_that_another_host_joins(lab: Lab, fleet: Fleet) -> None:
    founder = fleet.found(lab.host("founder"))
    push(founder)
    assert serves(founder)
    with founder.traffic() as traffic:
        traffic.wait()
        fleet.join(lab.site("home").host("worker"), "worker", worker={"preload": ["digits"]})
        wait_serving(founder, "founder", "worker")
        traffic.wait()
    assert traffic.errors() == []
    assert traffic.longest_gap() < 1


def test_a_whole_site_is_cut_off_and_requests_wait_until_it_is_back(lab: Lab, fleet: Fleet) -> None:
    founder = fleet.found(lab.host("founder"), *SERVES)
    push(founder)
    home = lab.site("home")
    fleet.join(home.host("worker"), "worker", worker={"preload": ["digits"]})
    wait_serving(founder, "worker")
    with founder.traffic() as traffic:
        traffic.wait()
        with lab.partition([home.router], [founder.host]):
            time.sleep(3)
        traffic.wait()
    assert traffic.errors() == []
    assert traffic.longest_gap() < 3 + NOTICED


def test_a_router_gets_another_address_and_forgets_its_connections(lab: Lab, fleet: Fleet) -> None:
    founder = fleet.found(lab.host("founder"), *SERVES)
    push(founder)
    home = lab.site("home")
    fleet.join(home.host("worker"), "worker", worker={"preload": ["digits"]})
    wait_serving(founder, "worker")
    with founder.traffic() as traffic:
        traffic.wait()
        lab.readdress(home.router)
        home.rebind()
        traffic.wait()
    assert traffic.errors() == []
    # Neither end is told: both find out by themselves that nothing comes any more, one after the other.
    assert traffic.longest_gap() < 2 * NOTICED


def test_the_founder_is_killed_and_comes_back(lab: Lab, fleet: Fleet) -> None:
    founder = fleet.found(lab.host("founder"), *SERVES)
    push(founder)
    fleet.join(lab.site("home").host("worker"), "worker", worker={"preload": ["digits"]})
    wait_serving(founder, "worker")
    founder.kill()
    founder.start()
    wait_serving(founder, "worker", patience=5)
    assert serves(founder)


@pytest.mark.usefixtures("tap")
def test_a_worker_far_away_on_a_bad_line_serves(lab: Lab, fleet: Fleet) -> None:
    founder = fleet.found(lab.host("founder"), *SERVES)
    push(founder)
    line = Conditions(delay=0.05, jitter=0.01, loss=0.01, duplicate=0.01, rate=2_000_000)
    fleet.join(lab.host("worker", line), "worker")
    with founder.traffic() as traffic:
        traffic.wait(100)
    assert traffic.errors() == []
