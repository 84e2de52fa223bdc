"""Models from managers that are hard to reach: their first address is dead, only a relay leads to them, they move."""

import json
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from stat import S_ISREG

import graphs
import pytest
from fleet import Fleet, Resident
from harness import DIGITS, EXAMPLE, is_right, until
from lab import Lab

from tetherd.wire.chunks import CHUNK

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


@pytest.mark.slow
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


def test_three_managers_of_which_one_dies_and_one_is_slow(lab: Lab, fleet: Fleet) -> None:
    founder = fleet.found(lab.host("founder"), "orchestrator", "gateway")
    stores = [fleet.join(lab.host(f"store{number}"), "manager") for number in range(3)]
    model = graphs.weights(40)
    founder.push("big", model)
    held = lambda: len(founder.get("/api/v1/models/big/holders")["versions"][0]["holders"]) == 3  # noqa: E731
    until(held, "all three have it")
    fast, dying, slow = stores
    for store, bits in ((fast, 100_000_000), (dying, 100_000_000), (slow, 4_000_000)):
        lab.rate(store.host, bits)
    worker = fleet.join(lab.host("worker"), "worker")
    before, drafts = received(worker), worker.folder / "cache" / "versions"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(founder.infer, "big", {"at": [0]})
        until(lambda: arrived(drafts) > 12 << 20, "a part has arrived")
        dying.kill()
        assert arrived(drafts) < len(model), "it was all there before one died"
        assert answer.result().ok()
    # Of each connection that died or was too slow, what it was bringing came once more, from another source.
    assert received(worker) - before < 1.05 * (len(model) + 4 * CHUNK)
    (there,) = drafts.rglob("*.onnx")
    assert there.read_bytes() == model


def received(daemon: Resident) -> int:
    """Return how many bytes a daemon's host has received."""
    (shown,) = json.loads(daemon.host.space.run("ip", "-j", "-s", "link", "show", "dev", daemon.host.device))
    return int(shown["stats64"]["rx"]["bytes"])


def arrived(folder: Path) -> int:
    """Return how many bytes lie below a folder."""
    return sum(found.st_blocks * 512 for path in folder.rglob("*") if S_ISREG((found := path.stat()).st_mode))
