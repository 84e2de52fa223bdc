"""Daemons on hosts of their own: each serves its own host, and no other's."""

import json

from fleet import Fleet
from harness import DIGITS, EXAMPLE, is_right
from lab import Lab


def test_two_hosts_serve_themselves_and_not_each_other(lab: Lab, fleet: Fleet) -> None:
    office = lab.host("office")
    home = lab.site("site").host("home")
    daemons = [fleet.daemon(host).start(wait=False) for host in (office, home)]
    for daemon in daemons:
        daemon.wait_ready()
    fleet.ctl(office, "models", "push", str(DIGITS))
    assert is_right(daemons[0].infer("digits", EXAMPLE["inputs"]).ok()["outputs"])
    assert daemons[1].infer("digits", EXAMPLE["inputs"]).status == 404
    assert json.loads(fleet.ctl(home, "models", "ls", "-o", "json"))["items"] == []
    with daemons[0].traffic() as traffic:
        traffic.wait(100)
    assert traffic.errors() == []
    assert daemons[0].stop() == 0
    assert daemons[1].infer("digits", EXAMPLE["inputs"]).status == 404, "it lives on"
