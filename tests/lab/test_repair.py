"""Copies that are lost with their host are made anew on another one, and hosts that come back start nothing.

All on one network of four managers, of which three hold each version.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import graphs
import pytest
from fleet import Fleet, Resident, new_fleet
from lab import Lab
from namespaces import reason_missing
from network import wait

SIZE: Final = 6
"""Megabytes of a model: it has more than one chunk."""

SOON: Final = 20.0
"""Seconds within which a copy is made that is known to be missing: fewer than it takes to give a manager up."""

GIVEN_UP: Final = 50.0
"""Seconds within which a silent manager is given up, and its copies are made anew."""


class Four:
    """A primary, and three managers that follow it."""

    def __init__(self, lab: Lab, fleet: Fleet) -> None:
        self.fleet = fleet
        self.primary = fleet.found(lab.host("primary"), "manager", "gateway")
        self.followers = {name: fleet.join(lab.host(name), "manager") for name in ("one", "two", "three")}

    def push(self, seed: int) -> "Copies":
        """Push a model, and return its copies once there are three."""
        self.primary.push(f"model{seed}", graphs.weights(SIZE, seed))
        copies = Copies(self, f"model{seed}")
        copies.wait(3, SOON)
        return copies


class Copies:
    """Who holds one model, as operators see it."""

    def __init__(self, network: Four, model: str) -> None:
        self.network = network
        self.model = model

    def shown(self) -> tuple[dict[str, bool], dict[str, int]]:
        """Return who holds it and whether each of them is heard of, and how many copies there are and are to be."""
        words = ("models", "show", self.model, "--where", "-o", "json")
        (version,) = json.loads(self.network.primary.ctl(*words).stdout)["versions"]
        return {holder["name"]: holder["alive"] for holder in version["holders"]}, version["copies"]

    def wait(self, count: int, patience: float) -> set[str]:
        """Wait until so many managers hold it and all of them are heard of; return them."""

        def met() -> Any:
            holders, copies = self.shown()
            return copies == {"held": count, "wanted": 3} and all(holders.values()) and set(holders)

        found: set[str] = wait(met, f"{count} living managers hold {self.model}", patience)
        return found

    def split(self) -> tuple[Resident, Resident]:
        """Return a follower that holds it, and the one that does not."""
        holders, _ = self.shown()
        (spare,) = (one for name, one in self.network.followers.items() if name not in holders)
        return next(one for name, one in self.network.followers.items() if name in holders), spare

    def check(self, manager: Resident) -> None:
        """Assert that a manager's files of it are those of the primary, byte by byte."""
        (version,) = json.loads(self.network.primary.ctl("models", "show", self.model, "-o", "json").stdout)["versions"]
        names = {
            one.removeprefix("sha256:") for one in (version["digest"], *(file["digest"] for file in version["files"]))
        }
        mine, theirs = files(self.network.primary), files(manager)
        assert {name: theirs.get(name) for name in names} == {name: mine[name] for name in names}


def files(manager: Resident) -> dict[str, bytes]:
    """Return the blobs on a manager's disk by name."""
    return {path.name: path.read_bytes() for path in (manager.folder / "state/blobs/sha256").iterdir()}


@pytest.fixture(scope="module")
def four() -> Iterator[Four]:
    if reason := reason_missing():
        pytest.skip(reason)
    with Lab() as lab, new_fleet() as fleet:
        yield Four(lab, fleet)


def test_a_manager_that_is_revoked_is_replaced_at_once(four: Four) -> None:
    copies = four.push(1)
    gone, spare = copies.split()
    four.primary.ctl("nodes", "revoke", gone.name, "--yes")
    assert copies.wait(3, SOON) == {"primary", *four.followers} - {gone.name}
    copies.check(spare)
    four.fleet.rejoin(gone, "manager")
    assert copies.wait(4, SOON) == {"primary", *four.followers}, "what it has counts again"


def test_a_primary_that_comes_back_has_nothing_copied(four: Four) -> None:
    copies = four.push(2)
    _, spare = copies.split()
    four.primary.kill()
    four.primary.start()
    four.push(3)
    copies.wait(3, SOON)
    assert spare.name not in copies.shown()[0]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_manager_that_is_killed_is_replaced_and_may_come_back(four: Four) -> None:
    copies = four.push(4)
    gone, spare = copies.split()
    gone.kill()
    wait(lambda: copies.shown()[0].get(gone.name) is False, "it is shown as silent")
    assert copies.wait(3, GIVEN_UP) == {"primary", *four.followers} - {gone.name}
    copies.check(spare)
    gone.start()
    assert copies.wait(4, SOON) == {"primary", *four.followers}, "what it has counts again"
    assert four.push(5).wait(3, SOON)
