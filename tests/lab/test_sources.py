"""Models from managers that are hard to reach: their first address is dead, only a relay leads to them, they move."""

from http.client import HTTPException
from pathlib import Path
from stat import S_ISREG

import graphs
from fleet import Fleet, Resident
from harness import DIGITS, EXAMPLE, is_right, until
from lab import Lab

DEAD = "11.1.0.250"
"""An address on the wide area that nobody has: what is sent there gets no answer."""


def loaded(gateway: Resident, patience: float = 60) -> None:
    """Wait until the worker has a runner ready, while those who are called come and go."""

    def met() -> bool:
        try:
            found = gateway.call("GET", "/api/v1/status").json()["workers"]
        except (OSError, HTTPException):
            return False
        return any(one["state"] == "READY" for worker in found for one in worker["runners"])

    until(met, "the worker has it loaded", patience=patience)


def test_a_manager_whose_first_address_is_dead(lab: Lab, fleet: Fleet) -> None:
    founder = fleet.found(lab.host("founder"), "orchestrator", "gateway")
    host = lab.host("store")
    store = fleet.join(host, "manager", "gateway", cluster={"advertise": [DEAD, host.address]})
    fleet.join(lab.site("home").host("worker"), "worker")
    store.ctl("models", "push", str(DIGITS))
    until(lambda: founder.infer("digits", EXAMPLE["inputs"]).status == 200, "the founder has found the manager")
    assert is_right(founder.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def test_a_manager_that_only_a_relay_leads_to(lab: Lab, fleet: Fleet) -> None:
    founder = fleet.found(lab.host("founder"), "orchestrator", "gateway")
    fleet.join(lab.host("relay"), "relay")
    store = fleet.join(lab.site("works", "symmetric").host("store"), "manager", "gateway")
    fleet.join(lab.site("office", "symmetric").host("worker"), "worker", worker={"preload": ["digits"]})
    store.ctl("models", "push", str(DIGITS))
    loaded(founder)
    assert is_right(founder.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def test_a_manager_that_moves_in_the_middle_of_a_file(lab: Lab, fleet: Fleet) -> None:
    founder = fleet.found(lab.host("founder"), "orchestrator", "gateway")
    host = lab.host("store")
    store = fleet.join(host, "manager", "gateway")
    worker = fleet.join(lab.site("home").host("worker"), "worker", worker={"preload": ["big"], "load_timeout": "60s"})
    with lab.rate(host, 40_000_000):
        store.push("big", graphs.weights(24))
        drafts = worker.folder / "cache" / "versions"
        until(lambda: arrived(drafts) > 6 << 20, "a part has arrived")
        store.kill()
        lab.readdress(host)
        before = arrived(drafts)
        store.start()
        loaded(founder, patience=40)
    assert before < 20 << 20, "it was all there before the manager moved"


def arrived(folder: Path) -> int:
    """Return how many bytes lie below a folder."""
    return sum(found.st_blocks * 512 for path in folder.rglob("*") if S_ISREG((found := path.stat()).st_mode))
