"""A network with more than one node of each role: some of them die, and its clients hardly notice."""

import dataclasses
from typing import Any, Final

import pytest
from fleet import Fleet, Resident
from harness import DIGITS, EXAMPLE, is_right, until
from lab import Lab

AWAY: Final = 8.0
"""Seconds within which what was under way with a node that died is answered by another."""


@dataclasses.dataclass
class Big:
    """Two orchestrators, managers beside them, a gateway, and workers behind two routers."""

    fleet: Fleet
    first: Resident
    second: Resident
    gateway: Resident
    workers: list[str]

    def ready(self, gateway: Resident) -> set[str]:
        workers = gateway.get("/api/v1/status")["workers"]
        return {worker["node"] for worker in workers if any(one["state"] == "READY" for one in worker["runners"])}


def build(lab: Lab, fleet: Fleet, managers: int, workers: int) -> Big:
    """Build a network in which each daemon that matters has a host of its own."""
    first = fleet.found(lab.host("first"), "orchestrator", "manager", "gateway")
    first.ctl("models", "push", str(DIGITS))
    second = fleet.join(lab.host("second"), "orchestrator", "manager", "gateway")
    for number in range(2, managers):
        fleet.join(lab.host(f"copy{number}"), "manager")
    gateway = fleet.join(lab.host("entry"), "gateway")
    sites: list[Any] = [lab.site("home", "cone"), lab.site("office", "symmetric")]
    names = [f"worker{number}" for number in range(workers)]
    for number, name in enumerate(names):
        fleet.join(sites[number % 2].host(name), "worker", worker={"preload": ["digits"]})
    big = Big(fleet, first, second, gateway, names)
    for seen_by in (first, second, gateway):
        until(lambda seen_by=seen_by: big.ready(seen_by) == set(names), "all orchestrators know all workers")
    copied = {"first", "second", *(f"copy{number}" for number in range(2, managers))}
    until(lambda: holders(first) == copied, "every manager has a copy")
    return big


def holders(gateway: Resident) -> set[str]:
    (version,) = gateway.get("/api/v1/models/digits/holders")["versions"]
    return {holder["name"] for holder in version["holders"]}


def outlive(big: Big) -> None:
    """Kill the first orchestrator, which is the primary manager too, and one worker: work goes on."""
    with big.gateway.traffic() as traffic:
        traffic.wait()
        big.first.kill()
        traffic.wait()
        big.fleet.members[big.workers[0]].kill()
        until(lambda: big.ready(big.gateway) == set(big.workers[1:]), "the worker is done without")
        traffic.wait()
        assert [model["name"] for model in big.gateway.get("/api/v1/models")["models"]] == ["digits"]
        refused = big.gateway.ctl("models", "rm", "digits", "--yes", code=None)
        assert b"only the manager on first can do this" in refused.stderr
        # A worker that comes now finds the files at another manager.
        big.fleet.members[big.workers[0]].start()
        until(lambda: big.ready(big.gateway) == set(big.workers), "it serves again")
        traffic.wait()
        big.first.start()
        until(lambda: big.ready(big.first) == set(big.workers), "all of them are back")
        traffic.wait()
    assert traffic.errors() == []
    assert traffic.longest_gap() < AWAY
    assert is_right(big.gateway.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def test_an_orchestrator_and_the_primary_manager_die_and_work_goes_on(lab: Lab, fleet: Fleet) -> None:
    outlive(build(lab, fleet, managers=2, workers=2))


@pytest.mark.slow
def test_a_big_network_outlives_an_orchestrator_its_primary_manager_and_a_worker(lab: Lab, fleet: Fleet) -> None:
    outlive(build(lab, fleet, managers=3, workers=4))
