"""What the doctor says of networks that are broken in one way each, and that what it advises is the cure."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
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
    found = json.loads(daemon.ctl("doctor", "--only", name, "-o", "json", code=None).stdout)["checks"]
    return found[0] if found else {"state": "", "detail": "the daemon does not answer yet"}


@pytest.mark.slow
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


def test_multicast_that_does_not_get_through(lab: Lab, fleet: Fleet) -> None:
    home = lab.site("home")
    one = fleet.found(home.host("one"), "orchestrator", "manager", worker={"spare": False})
    two = fleet.join(home.host("two"), "worker", worker={"spare": False})
    until(lambda: check(two, "multicast")["detail"] == "1 node heard of", "two hears one")
    with lab.off([one.host, two.host], "multicast"):
        two.kill()
        two.start(wait=False)
        until(
            lambda: "hears itself and nobody else" in check(two, "multicast")["detail"], "it says that nobody is heard"
        )
        assert check(two, "multicast")["sent"] > 0


def test_datagrams_that_a_firewall_swallows(lab: Lab, fleet: Fleet) -> None:
    _, two = pair(lab, fleet)
    until(lambda: check(two, "udp")["detail"] == "1 node known", "two and one exchange datagrams")
    with lab.off([two.host], "udp"):
        until(lambda: check(two, "udp")["state"] == "warn", "it is noticed", patience=60)
        found = check(two, "udp")
        assert "no node answers any more" in found["detail"]
        assert "cluster.udp" in found["fix"]
        assert found["heard"]


def test_connections_that_a_firewall_swallows(lab: Lab, fleet: Fleet) -> None:
    _, two = pair(lab, fleet)
    with lab.off([two.host], "tcp"):
        until(lambda: check(two, "tcp")["state"] == "fail", "it is noticed", patience=60)
        found = check(two, "tcp")
        assert "one at " in found["detail"]
        assert "no answer within 5 s" in found["detail"]
        assert found["fix"] == "tetherctl ping one"


def test_a_disk_without_room_and_few_descriptors(lab: Lab, fleet: Fleet) -> None:
    host = lab.host("one")
    daemon = fleet.daemon(host, "orchestrator", "manager", worker={"spare": False})
    cache = daemon.folder / "cache"
    cache.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,mode=700", "tmpfs", cache], check=True)
    try:
        daemon.start(under=["prlimit", "--nofile=300:300"])
        assert (check(daemon, "disk")["state"], str(cache) in check(daemon, "disk")["detail"]) == ("warn", True)
        (cache / "ballast").write_bytes(bytes(70 << 20))
        assert check(daemon, "disk")["state"] == "fail"
        assert "0.0 GiB free" in check(daemon, "disk")["detail"]
        found = check(daemon, "files")
        assert found["state"] == "warn", found
        assert "of 300 file descriptors" in found["detail"]
        assert "LimitNOFILE" in found["fix"]
        daemon.kill()
    finally:
        subprocess.run(["umount", cache], check=True)


def test_a_clock_that_is_wrong(lab: Lab, fleet: Fleet, tmp_path: Path) -> None:
    _, two = pair(lab, fleet)
    assert check(two, "clock")["state"] == "ok"
    (tmp_path / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() + 30.0\n")
    two.kill()
    two.start(wait=False, under=["env", f"PYTHONPATH={tmp_path}:{os.environ.get('PYTHONPATH', '')}"])
    until(lambda: check(two, "clock")["detail"].startswith("30 s ahead of one"), "it is noticed")
    assert check(two, "clock")["state"] == "warn"
