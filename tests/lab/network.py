"""A whole network on hosts of its own: managers, two orchestrators, a gateway, and workers behind two routers."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from fleet import Fleet, Resident
from harness import DIGITS, EXAMPLE, is_right, until
from lab import Host, Lab, Site

PORT: Final = 7443
SLOTS: Final = 2
"""Offers that a runner has parked at each orchestrator."""

LOOK: Final = 0.1
"""Seconds between two looks at a daemon: more often, and looking is what keeps two cores busy."""


@dataclasses.dataclass
class Network:
    """Every daemon has a host of its own, and asks ``entry``, a gateway that does nothing else.

    ``first`` founded the network; it and ``second`` are orchestrators and managers. ``third`` is a manager, where there
    is one. Workers live behind two routers in turn, of which the second one is symmetric.
    """

    lab: Lab
    fleet: Fleet
    first: Resident
    second: Resident
    entry: Resident
    sites: list[Site]
    workers: list[Resident]
    third: Resident | None = None

    @property
    def names(self) -> set[str]:
        return {worker.name for worker in self.workers}

    @property
    def managers(self) -> set[str]:
        return {one.name for one in (self.first, self.second, self.third) if one}

    @property
    def all(self) -> list[Resident]:
        return [one for one in (self.first, self.second, self.third, self.entry, *self.workers) if one]

    def wait_whole(self, patience: float = 40) -> None:
        """Wait until every worker offers to both orchestrators, and each manager has every model."""
        for orchestrator in (self.first, self.second):
            self.wait_offers(orchestrator, self.names, patience)
        wait(lambda: holders(self.entry) == self.managers, "every manager has a copy", patience)

    def wait_offers(self, orchestrator: Resident, names: Iterable[str], patience: float = 40) -> None:
        """Wait until these workers, and no others, serve by way of an orchestrator."""
        wanted = set(names)

        def met() -> bool:
            status = answer(orchestrator, "status")
            parked = [queue["parked"] + bool(queue["leased"]) for queue in status.get("queues", [])]
            return ready(status) == wanted and bool(parked) and parked[0] >= len(wanted)

        wait(met, f"{sorted(wanted)} take work from {orchestrator.name}", patience)

    def check_serves(self) -> None:
        """Ask once more as an application does, and as an operator looks at it."""
        assert is_right(self.entry.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])
        status = shown(self.entry, "status")
        assert status["ready"], status


def grow(lab: Lab, fleet: Fleet, *, managers: int, workers: int, cluster: Mapping[str, Any] | None = None) -> Network:
    """Build it: every host but the first joins with a token. ``cluster``: settings of all of them, that table only."""
    tables = {"cluster": dict(cluster or {})}
    first = fleet.found(lab.host("first"), "orchestrator", "manager", **tables)
    entry = fleet.join(lab.host("entry"), "gateway", **tables)
    entry.ctl("models", "push", str(DIGITS))
    second = fleet.join(lab.host("second"), "orchestrator", "manager", **tables)
    third = fleet.join(lab.host("third"), "manager", **tables) if managers > 2 else None
    sites = [lab.site("home", "cone"), lab.site("office", "symmetric")]
    hosts = [sites[number % 2].host(f"worker{number}") for number in range(workers)]
    tables |= {"worker": {"preload": ["digits"], "spare": False}}
    with ThreadPoolExecutor(2) as pool:  # as many as there are cores on a small machine
        found = list(pool.map(lambda host: fleet.join(host, "worker", **tables), hosts))
    network = Network(lab, fleet, first, second, entry, sites, found, third)
    network.wait_whole()
    return network


# --- what daemons say -------------------------------------------------------------------------------------------------


def wait(met: Callable[[], Any], what: str, patience: float = 30) -> Any:
    return until(met, what, patience=patience, pause=LOOK)


def answer(daemon: Resident, path: str) -> Any:
    """Return what a daemon says on its control socket; nothing while it cannot be asked."""
    try:
        reply = daemon.call("GET", f"/api/v1/{path}", control=True)
    except OSError:
        return {}
    return reply.json() if reply.status < 300 else {}


def shown(daemon: Resident, *words: str) -> Any:
    """Return the document that an operator on its host gets from ``tetherctl``."""
    return json.loads(daemon.ctl(*words, "-o", "json").stdout)


def ready(status: Mapping[str, Any]) -> set[str]:
    """Return the nodes that a status shows a runner of that is ready."""
    found = status.get("workers", [])
    return {worker["node"] for worker in found if any(one["state"] == "READY" for one in worker["runners"])}


def holders(daemon: Resident) -> set[str]:
    """Return the managers that have the model, as ``models show --where`` does."""
    document = answer(daemon, "models/digits/holders")
    return {holder["name"] for version in document.get("versions", []) for holder in version["holders"]}


def peer(daemon: Resident, name: str) -> Mapping[str, Any]:
    """Return what a daemon knows of another one."""
    found: list[dict[str, Any]] = answer(daemon, "netcheck").get("peers", [])
    return next((one for one in found if one["name"] == name), {})


def connected_at(daemon: Resident, name: str, address: str) -> bool:
    """Tell whether a daemon is connected to another one that proved itself at an address."""
    found = peer(daemon, name)
    places = [one["address"] for one in found.get("addresses", []) if one["proven"]] if found.get("path") else []
    return f"{address}:{PORT}" in places


def connections(host: Host) -> set[tuple[str, str]]:
    """Return both ends of each established connection of a host to the port of other nodes."""
    lines = [line.split() for line in host.space.run("ss", "-Htn", "state", "established").splitlines()]
    return {(line[2], line[3]) for line in lines if line[3].endswith(f":{PORT}")}
