from typing import Any

import pytest

from tetherd.discovery import diagnosis
from tetherd.discovery.claims import Seen
from tetherd.discovery.diagnosis import Check, Counts, Vitals
from tetherd.discovery.hints import Drop
from tetherd.discovery.peers import Peer
from tetherd.types import Finding

GIB = 1 << 30
DAY = 86400.0


def vitals(**changes: Any) -> Vitals:
    usual = {
        "disk": "/var/lib/tether",
        "disk_free": 50 * GIB,
        "disk_total": 100 * GIB,
        "files_open": 40,
        "files_limit": 65536,
        "certificate": 5 * DAY,
    }
    return Vitals(**{**usual, **changes})


def seen(address: str = "10.0.0.1:7443", **changes: Any) -> Seen:
    return Seen(address, ("seed",), "lan", 1.0, **changes)


def peer(path: str = "", *, drops: tuple[Drop, ...] = (), **changes: Any) -> Peer:
    usual: dict[str, Any] = {
        "node": "a" * 64, "name": "box-a", "roles": ("manager",), "member": True, "revoked": False, "path": path,
        "rtt": 0.0, "dialled": "", "arrived": "", "arrival": "", "sources": ("seed",), "addresses": (seen(),),
        "ports": {}, "heard": 1.0, "conflict": False, "drops": drops,
    }  # fmt: skip
    return Peer(**{**usual, **changes})


WHOLE, CLOSED = Finding("none", ""), Finding("refused", "nothing listens")
FOREIGN = Finding("other-network", "it is of another network", "join both")
LOSSY = Finding("mtu", "large ones vanish", "use a smaller MTU")
DEAD = peer(addresses=(seen(failures=3, failure="connection refused"),))


@pytest.mark.parametrize(
    ("check", "state", "word"),
    [
        (diagnosis.multicast(None, member=False), "skip", "no network"),
        (diagnosis.mtu([], member=False), "skip", "no network"),
        (diagnosis.mtu([], member=True), "skip", "no connection"),
        (diagnosis.mtu([("a", WHOLE), ("b", CLOSED)], member=True), "ok", "whole from 1 of 2 nodes"),
        (diagnosis.mtu([("a", WHOLE), ("b", LOSSY)], member=True), "fail", "1 of 2 nodes: large ones vanish; b is"),
        (diagnosis.multicast(None, member=True), "skip", "cluster.mdns"),
        (diagnosis.multicast(Counts(fault="no such device"), member=True), "warn", "no such device"),
        (diagnosis.multicast(Counts(sent=9, echo=False, age=60), member=True), "warn", "come back"),
        (diagnosis.multicast(Counts(sent=9, echo=False, age=1), member=True), "ok", "0 nodes"),
        (
            diagnosis.multicast(Counts(sent=9, echo=True, age=60, dropped={"other-network": 2}), member=True),
            "ok",
            "2 other-network",
        ),
        (diagnosis.multicast(Counts(sent=9, heard=4, known=2, echo=True, age=60), member=True), "ok", "2 nodes"),
        (diagnosis.udp(None, member=False), "skip", "no network"),
        (diagnosis.udp(None, member=True), "skip", "cluster.dht"),
        (diagnosis.udp(Counts(fault="in use"), member=True), "fail", "in use"),
        (diagnosis.udp(Counts(sent=5, asked=5, age=60), member=True), "warn", "none was answered"),
        (diagnosis.udp(Counts(sent=5, asked=5, heard=2, age=60), member=True), "warn", "no node answers any more"),
        (diagnosis.udp(Counts(sent=5, asked=5, heard=2, age=1), member=True), "ok", "0 nodes"),
        (diagnosis.udp(Counts(sent=5, heard=5, age=60), member=True), "ok", "0 nodes"),  # others only ask
        (diagnosis.udp(Counts(sent=5, heard=5, known=3, age=60), member=True), "ok", "3 nodes"),
        (diagnosis.seeds((), (), member=False), "skip", "no network"),
        (diagnosis.seeds((), (), member=True), "ok", "none"),
        (diagnosis.seeds((seen(),), (peer(),), member=True), "ok", "1 known, 1 not asked"),
        (diagnosis.seeds((seen(failures=1, failure="refused"),), (), member=True), "warn", "refused"),
        (diagnosis.tcp((), member=False), "skip", "no network"),
        (diagnosis.tcp((), member=True), "ok", "no other node"),
        (diagnosis.tcp((peer("lan"), peer("relay:r1")), member=True), "ok", "2 of 2 nodes connected, 1 through"),
        (diagnosis.tcp((peer(),), member=True), "ok", "0 of 1"),
        (diagnosis.tcp((peer("lan"), DEAD), member=True), "warn", "connection refused"),
        (diagnosis.tcp((DEAD,), member=True), "fail", "connection refused"),
        (diagnosis.tls(vitals(certificate=None), (), (), member=True), "skip", "no network"),
        (diagnosis.tls(vitals(), (), (), member=False), "skip", "no network"),
        (diagnosis.tls(vitals(), (), (), member=True), "ok", "5 d; 0 of 0 nodes"),
        (diagnosis.tls(vitals(), (), [("a", WHOLE), ("b", CLOSED)], member=True), "ok", "1 of 2 nodes that were asked"),
        (
            diagnosis.tls(vitals(), (), [("a", WHOLE), ("b", FOREIGN)], member=True),
            "warn",
            "b: it is of another network",
        ),
        (diagnosis.tls(vitals(certificate=DAY), (), (), member=True), "warn", "expires in 1 d"),
        (diagnosis.tls(vitals(certificate=-3600), (), (), member=True), "fail", "expired 1 h ago"),
        (
            diagnosis.tls(
                vitals(), (peer(drops=(Drop("other-network", "strange root", address="x:1"),)),), (), member=True
            ),
            "warn",
            "strange root",
        ),
        (diagnosis.clock(vitals(), [("box-a", 0.01), ("box-b", -0.5)]), "ok", "500 ms ahead of box-b, of 2"),
        (diagnosis.clock(vitals(), [("box-a", 3.0)]), "warn", "3 s behind box-a"),
        (diagnosis.clock(vitals(), [("box-a", -61.0)]), "fail", "1 min ahead of box-a"),
        (diagnosis.clock(vitals(synchronised=False), []), "warn", "kernel"),
        (diagnosis.clock(vitals(synchronised=True), []), "ok", "kernel"),
        (diagnosis.clock(vitals(), []), "skip", "no other node"),
        (diagnosis.disk(vitals()), "ok", "50.0 GiB free (50%) in /var/lib/tether"),
        (diagnosis.disk(vitals(disk_free=GIB // 2)), "warn", "0.5 GiB"),
        (diagnosis.disk(vitals(disk_free=5 * GIB)), "warn", "5%"),
        (diagnosis.disk(vitals(disk_free=0)), "fail", "0.0 GiB"),
        (diagnosis.disk(vitals(disk_free=0, disk_total=0)), "fail", "cannot be found out"),
        (diagnosis.files(vitals()), "ok", "40 of 65536"),
        (diagnosis.files(vitals(files_limit=1024)), "warn", "40 of 1024"),
        (diagnosis.files(vitals(files_open=60000)), "fail", "60000"),
    ],
)
def test_judgements(check: Check, state: str, word: str) -> None:
    assert (check.state, word in check.detail) == (state, True), check
    assert check.fix or state in ("ok", "skip"), "who is warned is told what to do"


def test_counts_are_shown_with_the_judgement() -> None:
    check = diagnosis.multicast(Counts(sent=3, heard=2, known=1, dropped={"malformed": 1}), member=True)
    assert (check.sent, check.heard, check.dropped) == (3, 2, {"malformed": 1})
