"""What ``doctor peer`` says of addresses that lead nowhere, to strangers, or to a member that is not the one meant."""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from fleet import Fleet, Resident, new_fleet
from harness import until
from lab import Host, Lab

DAY: Final = 86400


def examined(daemon: Resident, host: Host, port: int = 7443) -> dict[str, Any]:
    """Return what is found at a host's port: exit code 1 and what to do, or a node that hears this one."""
    done = daemon.ctl("doctor", "peer", f"{host.address}:{port}", "-o", "json", code=None)
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, bool(found["fix"])) == ((0, False) if found["cause"] == "none" else (1, True)), found
    return found


def says(daemon: Resident, cause: str, words: str, host: Host, port: int = 7443) -> None:
    found = examined(daemon, host, port)
    assert (found["cause"], words in found["message"]) == (cause, True), found


def pair(lab: Lab, fleet: Fleet) -> tuple[Resident, Resident]:
    """Return who founded a network, and a worker of it, which finds nothing wrong with the way there."""
    one = fleet.found(lab.host("one"), "orchestrator", "manager")
    two = fleet.join(lab.host("two"), "worker", worker={"spare": False})
    says(two, "none", "answers and hears this node", one.host)
    return one, two


def test_where_no_member_is(lab: Lab, fleet: Fleet) -> None:
    one, two = pair(lab, fleet)
    says(two, "refused", "nothing listens on that port", one.host, 7450)
    told = two.ctl("doctor", "peer", f"{one.host.address}:7450", code=1).stdout.decode()
    assert told.startswith("FAIL  ")
    assert "is tetherd running there" in told
    with lab.off([one.host], "tcp", 7443):
        says(two, "unreachable", "did not answer for 5 s", one.host)
    web = one.host.space.start(sys.executable, "-m", "http.server", "8080", "--bind", one.host.address)
    until(lambda: ":8080 " in one.host.space.run("ss", "-Hltn"), "something else listens there")
    says(two, "no-tls", "it speaks plain HTTP", one.host, 8080)
    web.kill()
    web.wait()
    with new_fleet() as others:
        says(two, "other-network", "belongs to another network", others.found(lab.host("far"), "manager").host)


def test_where_another_member_is_and_one_that_was_sent_away(lab: Lab, fleet: Fleet) -> None:
    one, two = pair(lab, fleet)
    three, four = (fleet.join(lab.host(name), "orchestrator") for name in ("three", "four"))
    says(two, "none", "answers and hears this node", three.host)
    place = three.host.addresses
    for daemon, addresses in ((three, lab.elsewhere()), (four, place)):
        daemon.kill()
        lab.readdress(daemon.host, addresses)
    with lab.partition(
        [one.host], [three.host, four.host]
    ):  # or they would tell where they are, and hear what they are
        three.start()
        four.start()
        says(two, "wrong-node", "is there, not the one that is meant", four.host)
        says(two, "none", "answers and hears this node", three.host)
        one.ctl("nodes", "revoke", "three", "--yes")
        until(lambda: examined(two, three.host)["cause"] == "not-a-member", "two hears of it")
        says(two, "not-a-member", "was revoked or forgotten", three.host)


@pytest.mark.parametrize(("days", "words"), [(10, "expired 3 days ago"), (-10, "is valid only from")])
def test_with_a_clock_that_is_wrong(lab: Lab, fleet: Fleet, tmp_path: Path, days: int, words: str) -> None:
    one, two = pair(lab, fleet)
    wrong = f"import time\nreal = time.time\ntime.time = lambda: real() + {days * DAY}\n"
    (tmp_path / "sitecustomize.py").write_text(wrong)
    two.kill()
    two.start(under=["env", f"PYTHONPATH={tmp_path}:{os.environ.get('PYTHONPATH', '')}"])
    says(two, "own-certificate", f"this node's own certificate {words}", one.host)
