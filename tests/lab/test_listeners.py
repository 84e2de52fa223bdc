"""Who only dials offers others nothing to dial: all sockets on hosts of each kind that take what was not asked for."""

from typing import Final

from fleet import GATEWAY, Fleet, Resident
from harness import DIGITS, EXAMPLE, alive, is_right, until
from lab import Lab

MULTICAST: Final = 5353
CHOSEN: Final = range(32768, 61000)
"""Ports that the kernel gives to whoever names none: nobody can know them beforehand."""


def sockets(daemon: Resident, kind: str) -> list[tuple[str, int]]:
    """Return host and port of every socket on a daemon's host, by whatever process, that anybody may send to."""
    places = [line.split()[3].rsplit(":", 1) for line in daemon.host.space.run("ss", "-Hln", f"--{kind}").splitlines()]
    return sorted((host.partition("%")[0], int(port)) for host, port in places)


def diallers(lab: Lab, fleet: Fleet, **cluster: bool) -> tuple[Resident, Resident]:
    """Return a gateway, and a worker whose model serves in a process of its own; their founder can be dialled."""
    founder = fleet.found(lab.host("founder"), "orchestrator", "manager", cluster=cluster)
    gateway = fleet.join(lab.host("gateway"), "gateway", cluster=cluster)
    gateway.ctl("models", "push", str(DIGITS))
    worker = fleet.join(lab.host("worker"), "worker", cluster=cluster)
    assert is_right(gateway.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])
    (runner,) = gateway.runners("digits")
    assert runner["pid"] != worker.pid
    assert alive(runner["pid"])
    assert [port for _, port in sockets(founder, "tcp")] == [7443, 7444, 7445]
    return gateway, worker


def test_who_only_dials_listens_to_nobody(lab: Lab, fleet: Fleet) -> None:
    gateway, worker = diallers(lab, fleet, mdns=False, dht=False)
    alone = fleet.daemon(lab.host("alone")).start()
    host, _, port = GATEWAY.partition(":")
    applications = [(host, int(port))]
    for daemon, wanted in ((gateway, applications), (worker, []), (alone, applications)):
        assert (daemon.name, sockets(daemon, "tcp")) == (daemon.name, wanted)
        assert (daemon.name, sockets(daemon, "udp")) == (daemon.name, [])


def test_to_find_others_it_hears_multicast_and_answers_to_its_own_questions(lab: Lab, fleet: Fleet) -> None:
    for daemon in diallers(lab, fleet):
        until(lambda daemon=daemon: len(asks(daemon)) == 2 and hears(daemon), f"{daemon.name} looks for others")
        assert [host for host, _ in asks(daemon)] == ["0.0.0.0", "[::]"]
        assert all(port in CHOSEN for _, port in asks(daemon))
        assert {host for host, _ in sockets(daemon, "tcp")} <= {"127.0.0.1"}


def hears(daemon: Resident) -> bool:
    return any(port == MULTICAST for _, port in sockets(daemon, "udp"))


def asks(daemon: Resident) -> list[tuple[str, int]]:
    return [(host, port) for host, port in sockets(daemon, "udp") if port != MULTICAST]
