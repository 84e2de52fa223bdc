"""A network in which both sides are behind symmetric routers: real daemons serve by way of relays, whatever breaks."""

import dataclasses
from collections.abc import Iterator
from typing import Final

import pytest
from fleet import Fleet, Resident, new_fleet
from harness import DIGITS, EXAMPLE, is_right
from lab import Host, Lab, Site
from namespaces import reason_missing
from network import answer, peer, ready, shown, wait

NOTICED: Final = 10.0
"""Seconds within which there is another path where one breaks."""

LOOKED: Final = 90.0
"""Seconds within which a relayed path is asked for a direct one: it is every 60, by a tenth more or less."""

RELAY: Final = 7446
"""The port where relays carry."""


@dataclasses.dataclass
class Hidden:
    """``desk``, an orchestrator and gateway, and the workers are behind a router each; relays and manager are not."""

    lab: Lab
    fleet: Fleet
    relays: dict[str, Resident]
    office: Site
    home: Site
    desk: Resident
    workers: list[Resident]

    def wait_serving(self) -> None:
        names = {worker.name for worker in self.workers}
        wait(lambda: ready(answer(self.desk, "status")) == names, f"{sorted(names)} serve", 40)

    def path(self, worker: Resident) -> str:
        """Return how a worker reaches the desk."""
        return str(peer(worker, "desk").get("path", ""))

    def wait_path(self, worker: Resident, *relays: str) -> None:
        wanted = {f"relay:{relay}" for relay in relays}
        wait(lambda: self.path(worker) in wanted, f"{worker.name} reaches the desk by way of {relays}", 2 * NOTICED)


def hide(lab: Lab, fleet: Fleet, workers: int) -> Hidden:
    founder = fleet.found(lab.host("founder"), "manager", "relay")
    other = fleet.join(lab.host("other"), "relay")
    office, home = lab.site("office", "symmetric"), lab.site("home", "symmetric")
    desk = fleet.join(office.host("desk"), "orchestrator", "gateway")
    desk.ctl("models", "push", str(DIGITS))
    settings = {"preload": ["digits"], "spare": False}
    found = [fleet.join(home.host(f"worker{number}"), "worker", worker=settings) for number in range(workers)]
    hidden = Hidden(lab, fleet, {"founder": founder, "other": other}, office, home, desk, found)
    hidden.wait_serving()
    return hidden


def serve(hidden: Hidden) -> None:
    """Clients are answered, and operators see by which way."""
    with hidden.desk.traffic() as traffic:
        traffic.wait()
    assert traffic.errors() == []
    for worker in hidden.workers:
        hidden.wait_path(worker, *hidden.relays)
        seen = lambda worker=worker: str(peer(hidden.desk, worker.name).get("path")).startswith("relay:")  # noqa: E731
        wait(seen, f"the desk sees {worker.name} come by way of a relay")
        pinged = shown(worker, "ping", "desk")
        assert pinged["answers"]
        assert pinged["path"].startswith("relay:")
    assert is_right(hidden.desk.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def forget_mappings(hidden: Hidden) -> None:
    """Either router forgets what it has mapped, in the middle of it all, and its next mappings are others."""
    for site in (hidden.home, hidden.office):
        with hidden.desk.traffic() as traffic:
            traffic.wait()
            site.rebind()
            traffic.wait()
        assert traffic.errors() == []
        assert traffic.longest_gap() < NOTICED


def lose_the_relay(hidden: Hidden) -> None:
    """The relay that carries everything is killed, and comes back."""
    used = hidden.path(hidden.workers[0]).removeprefix("relay:")
    (left,) = hidden.relays.keys() - {used}
    with hidden.desk.traffic() as traffic:
        traffic.wait()
        hidden.relays[used].kill()
        traffic.wait()
        for worker in hidden.workers:
            hidden.wait_path(worker, left)
        hidden.relays[used].start()
        hidden.wait_serving()
        traffic.wait()
    assert traffic.errors() == []
    assert traffic.longest_gap() < NOTICED


@pytest.fixture(scope="module")
def small() -> Iterator[Hidden]:
    """One worker; each test leaves it as it found it."""
    if reason := reason_missing():
        pytest.skip(reason)
    with Lab() as lab, new_fleet() as fleet:
        yield hide(lab, fleet, workers=1)


def test_hosts_behind_two_symmetric_routers_serve_by_way_of_a_relay(small: Hidden) -> None:
    serve(small)


def test_routers_that_forget_interrupt_it_for_seconds(small: Hidden) -> None:
    forget_mappings(small)


def test_when_a_relay_dies_another_takes_over(small: Hidden) -> None:
    lose_the_relay(small)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_four_workers_behind_one_router_and_a_desk_behind_another(lab: Lab, fleet: Fleet) -> None:
    hidden = hide(lab, fleet, workers=4)
    serve(hidden)
    for _ in range(2):
        forget_mappings(hidden)
        lose_the_relay(hidden)


def carried(host: Host) -> list[str]:
    """Return from where on a host there are connections to relays."""
    lines = [line.split() for line in host.space.run("ss", "-Htn", "state", "established").splitlines()]
    return [line[2] for line in lines if line[3].endswith(f":{RELAY}")]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_when_a_firewall_opens_everything_moves_to_the_direct_path(lab: Lab, fleet: Fleet) -> None:
    there, here = lab.host("desk"), lab.host("far")
    firewall = lab.partition([there], [here])
    fleet.found(lab.host("founder"), "manager", "relay")
    fleet.join(there, "orchestrator")
    far = fleet.join(here, "gateway", "worker", worker={"preload": ["digits"], "spare": False})
    far.ctl("models", "push", str(DIGITS))
    wait(lambda: ready(answer(far, "status")) == {"far"}, "far serves")
    with far.traffic() as traffic:
        traffic.wait()
        assert shown(far, "ping", "desk")["path"] == "relay:founder"
        assert carried(here)
        firewall.heal()
        wait(lambda: peer(far, "desk").get("path") == "direct", "the path is direct", LOOKED)
        wait(lambda: not carried(here), "nothing goes by way of the relay any more", NOTICED)
        traffic.wait()
    assert traffic.errors() == []
    assert traffic.longest_gap() < 1
