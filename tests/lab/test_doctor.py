"""What the doctor says of networks that are broken in one way each, and that what it advises is the cure."""

import json
from typing import Any

from fleet import Fleet, Resident
from harness import until
from lab import Lab


def pair(lab: Lab, fleet: Fleet, **cluster: Any) -> tuple[Resident, Resident]:
    """Return the daemons of two public hosts that are one network: who founded it, and a worker."""
    one = fleet.found(lab.host("one"), "orchestrator", "manager", cluster=cluster, worker={"spare": False})
    two = fleet.join(lab.host("two"), "worker", cluster=cluster, worker={"spare": False})
    until(lambda: check(two, "tcp")["detail"].startswith("1 of 1 node connected"), "two is connected to one")
    return one, two


def check(daemon: Resident, name: str) -> dict[str, Any]:
    """Return what the doctor says of one matter."""
    (found,) = json.loads(daemon.ctl("doctor", "--only", name, "-o", "json", code=None).stdout)["checks"]
    assert isinstance(found, dict)
    return found


def test_a_link_that_carries_less_than_it_says(lab: Lab, fleet: Fleet) -> None:
    one, two = pair(lab, fleet)
    for host in (one.host, two.host):
        host.space.ip(f"link set dev {host.device} gso_max_segs 1")  # each segment is a packet of its own, as on a wire
    assert check(two, "mtu")["detail"] == "16 KiB came back whole from 1 of 1 node"
    with lab.fault(two.host.port, leaving=["meta length > 1400"], arriving=["meta length > 1400"]):
        found = check(two, "mtu")
        assert (found["state"], "large ones vanish" in found["detail"]) == ("fail", True)
        assert "large ones vanish" in two.ctl("ping", "one").stdout.decode()
        address = f"{one.host.address}:7443"
        assert json.loads(two.ctl("doctor", "peer", address, "-o", "json", code=1).stdout)["cause"] == "mtu"
        assert "mtu 1280" in found["fix"]
        two.host.space.ip(f"link set dev {two.host.device} mtu 1280")
        assert check(two, "mtu")["state"] == "ok"
