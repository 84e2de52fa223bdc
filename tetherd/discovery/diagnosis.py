"""What is said of a host's health in its network: pure judgements on counts and measurements, each with a reason."""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from tetherd.discovery.claims import Seen
from tetherd.discovery.peers import Peer
from tetherd.types import Finding, Seconds

State: TypeAlias = Literal["ok", "warn", "fail", "skip"]

MIN_FREE: Final = 1 << 30
LOW_FREE: Final = 0.10
MIN_FILES: Final = 4096
MAX_SKEW: Final[Seconds] = 2.0
BROKEN_SKEW: Final[Seconds] = 60.0
RENEWAL_LATE: Final[Seconds] = 3 * 86400.0
SETTLED: Final[Seconds] = 5.0
"""How long after its start a source may have heard nothing yet."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. ``fix`` says what to do about a warning or a failure.

    ``sent``, ``heard`` and ``dropped`` (by reason) are counts since the start, where the matter has them.
    """

    name: str
    state: State
    detail: str
    fix: str = ""
    sent: int | None = None
    heard: int | None = None
    dropped: dict[str, int] = {}


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """One source of discovery in numbers. ``known``: nodes it speaks of now. ``fault``: why it does not work.

    ``asked``: how often others were asked something. ``echo``: whether what it sent came back, where that is known.
    ``age``: seconds since it started.
    """

    sent: int = 0
    heard: int = 0
    known: int = 0
    asked: int = 0
    dropped: dict[str, int] = {}
    fault: str = ""
    echo: bool | None = None
    age: Seconds = 0.0


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """This host in numbers. ``disk``: the directory, of those that are written to, with the least room.
    ``certificate``: seconds that this node's own is still valid; None = it has none.

    ``synchronised``: whether the kernel believes that its clock is kept right; None = it does not say.
    """

    disk: str
    disk_free: int
    disk_total: int
    files_open: int
    files_limit: int
    certificate: Seconds | None = None
    synchronised: bool | None = None


_NO_HANDSHAKE: Final = ("address", "refused", "unreachable", "silent", "closed", "mtu")
"""Causes that say nothing of certificates."""

OUTSIDE: Final = "this host is in no network"


def seeds(waiting: Sequence[Seen], peers: Sequence[Peer], *, member: bool) -> Check:
    """Judge the seeds. ``waiting``: those of which nobody knows yet who is there."""
    if not member:
        return Check(name="seeds", state="skip", detail=OUTSIDE)
    known = sum("seed" in peer.sources for peer in peers)
    failing = [seen for seen in waiting if seen.failures]
    if failing:
        detail = f"{known} of {known + len(waiting)} seeds are known; {failing[0].address}: {failing[0].failure}"
        return Check(name="seeds", state="warn", detail=detail, fix=f"tetherctl doctor peer {failing[0].address}")
    detail = f"{known} known, {len(waiting)} not asked yet" if known or waiting else "none are configured"
    return Check(name="seeds", state="ok", detail=detail)


def multicast(counts: Counts | None, *, member: bool) -> Check:
    """Judge discovery on the local network. ``counts`` None: it is switched off."""
    if counts is None:
        why = "switched off by cluster.mdns" if member else OUTSIDE
        return Check(name="multicast", state="skip", detail=why)
    state: State = "ok"
    detail, fix = f"{_nodes(counts.known)} heard of", ""
    if counts.fault:
        state, detail = "warn", counts.fault
        fix = "seeds work without multicast: name nodes in cluster.seeds; or switch it off with cluster.mdns = false"
    elif counts.echo is False and counts.age > SETTLED:
        state, detail = "warn", "what this host sends by multicast does not even come back to it"
        fix = "let UDP port 5353 through the firewall; containers and clouds often have no multicast, so name seeds"
    elif not counts.known and counts.age > SETTLED:
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.dropped.items()))
        detail = (
            "this host hears itself and nobody else of its network: none is near, or no multicast gets through "
            f"({dropped or 'nothing was dropped'})"
        )
    return _counted("multicast", state, detail, fix, counts)


def udp(counts: Counts | None, *, member: bool) -> Check:
    """Judge the datagrams of the DHT. ``counts`` None: it is switched off."""
    if counts is None:
        return Check(name="udp", state="skip", detail="switched off by cluster.dht" if member else OUTSIDE)
    if counts.fault:
        return _counted("udp", "fail", counts.fault, "see cluster.udp, and who else uses that port", counts)
    if counts.asked and not counts.known and counts.age > SETTLED:
        detail = "no node answers any more" if counts.heard else "datagrams were sent and none was answered"
        return _counted("udp", "warn", detail, "let the UDP port of cluster.udp through the firewalls", counts)
    return _counted("udp", "ok", f"{_nodes(counts.known)} known", "", counts)


def tcp(peers: Sequence[Peer], *, member: bool) -> Check:
    """Judge whether the members that can be dialled are connected or at least answer."""
    if not member:
        return Check(name="tcp", state="skip", detail=OUTSIDE)
    known = [peer for peer in peers if peer.member and not peer.revoked and peer.addresses]
    live = [peer for peer in known if peer.path]
    silent = [peer for peer in known if not peer.path and all(seen.failures for seen in peer.addresses)]
    relayed = sum(peer.path.startswith("relay:") for peer in live)
    detail = f"{len(live)} of {_nodes(len(known))} connected, {relayed} through a relay"
    if not known:
        return Check(name="tcp", state="ok", detail="no other node is known that can be dialled")
    if not silent:
        return Check(name="tcp", state="ok", detail=detail)
    worst = silent[0]
    name, why = worst.name or worst.node[:16], worst.addresses[0].failure
    state: State = "fail" if len(silent) == len(known) else "warn"
    return Check(
        name="tcp",
        state=state,
        detail=f"{detail}; {len(silent)} do not answer: {name} at {worst.addresses[0].address}: {why}",
        fix=f"tetherctl ping {name}",
    )


def mtu(found: Sequence[tuple[str, Finding]], *, member: bool) -> Check:
    """Judge whether large packets reach the nodes that small ones reach: (name, what came of sending it both)."""
    if not member:
        return Check(name="mtu", state="skip", detail=OUTSIDE)
    if not found:
        return Check(name="mtu", state="skip", detail="this node has no connection to try large packets on")
    lost = [(name, finding) for name, finding in found if finding.cause == "mtu"]
    whole = sum(finding.cause == "none" for _, finding in found)
    if lost:
        name, finding = lost[0]
        detail = f"{len(lost)} of {_nodes(len(found))}: {finding.message}; {name} is there"
        return Check(name="mtu", state="fail", detail=detail, fix=finding.fix)
    detail = f"16 KiB came back whole from {whole} of {_nodes(len(found))}"
    return Check(name="mtu", state="ok", detail=detail)


def tls(vitals: Vitals, peers: Sequence[Peer], found: Sequence[tuple[str, Finding]], *, member: bool) -> Check:
    """Judge this node's own certificate, and what handshakes with others showed; ``found`` is as for ``mtu``."""
    if not member or vitals.certificate is None:
        return Check(name="tls", state="skip", detail=OUTSIDE)
    left = vitals.certificate
    if left <= 0:
        return Check(
            name="tls",
            state="fail",
            detail=f"this node's certificate expired {_span(-left)} ago",
            fix="see to it that the host with the authority can be reached; it renews within 30 days",
        )
    refused = [
        drop for peer in peers for drop in peer.drops if drop.reason in ("certificate", "other-network", "clock")
    ]
    if left < RENEWAL_LATE:
        fix = "the host that founded the network renews it: is it reachable? tetherctl cluster members"
        return Check(name="tls", state="warn", detail=f"this node's certificate expires in {_span(left)}", fix=fix)
    if refused:
        last = max(refused, key=lambda drop: drop.last)
        detail = f"{len(refused)} addresses showed a wrong certificate; the last, {last.address}: {last.detail}"
        return Check(name="tls", state="warn", detail=detail, fix=f"tetherctl doctor peer {last.address}")
    doubtful = [(name, finding) for name, finding in found if finding.cause not in ("none", *_NO_HANDSHAKE)]
    if doubtful:
        name, finding = doubtful[0]
        detail = (
            f"{len(doubtful)} of {_nodes(len(found))} and this one do not trust each other; {name}: {finding.message}"
        )
        return Check(name="tls", state="warn", detail=detail, fix=finding.fix)
    taken = sum(finding.cause in ("none", "mtu") for _, finding in found)
    detail = (
        f"this node's certificate is valid for {_span(left)}; {taken} of {_nodes(len(found))} that were asked took it"
    )
    return Check(name="tls", state="ok", detail=detail)


def clock(vitals: Vitals, skews: Sequence[tuple[str, Seconds]]) -> Check:
    """Judge this host's clock by those of its peers: (name, seconds they are ahead)."""
    fix = "let the system keep its clock: timedatectl set-ntp true"
    if skews:
        name, worst = max(skews, key=lambda skew: abs(skew[1]))
        detail = f"{_span(abs(worst))} {'behind' if worst > 0 else 'ahead of'} {name}, of {_nodes(len(skews))} asked"
        if abs(worst) > BROKEN_SKEW:
            return Check(name="clock", state="fail", detail=detail, fix=fix)
        if abs(worst) > MAX_SKEW:
            return Check(name="clock", state="warn", detail=detail, fix=fix)
        return Check(name="clock", state="ok", detail=detail)
    if vitals.synchronised is False:
        return Check(name="clock", state="warn", detail="the kernel says that nothing keeps its clock right", fix=fix)
    known = "the kernel says that it is kept right" if vitals.synchronised else "no other node to compare with"
    return Check(name="clock", state="ok" if vitals.synchronised else "skip", detail=known)


def disk(vitals: Vitals) -> Check:
    """Judge the room left where models and identity are kept."""
    share = vitals.disk_free / max(vitals.disk_total, 1)
    detail = f"{vitals.disk_free / (1 << 30):.1f} GiB free ({share:.0%}) in {vitals.disk}"
    if not vitals.disk_total:
        detail = f"how much is free in {vitals.disk} cannot be found out"
    fix = "remove versions that are not needed (tetherctl models rm), or move node.state_dir or node.cache_dir"
    if vitals.disk_free < MIN_FREE // 16:
        return Check(name="disk", state="fail", detail=detail, fix=fix)
    if vitals.disk_free < MIN_FREE or share < LOW_FREE:
        return Check(name="disk", state="warn", detail=detail, fix=fix)
    return Check(name="disk", state="ok", detail=detail)


def files(vitals: Vitals) -> Check:
    """Judge the file descriptors: every connection takes one, and without one nothing works."""
    detail = f"{vitals.files_open} of {vitals.files_limit} file descriptors open"
    fix = "raise LimitNOFILE of the service (or ulimit -n) to 65536"
    if vitals.files_open > 0.9 * vitals.files_limit:
        return Check(name="files", state="fail", detail=detail, fix=fix)
    low = vitals.files_limit < MIN_FILES or vitals.files_open > 0.7 * vitals.files_limit
    return Check(name="files", state="warn" if low else "ok", detail=detail, fix=fix if low else "")


def _counted(name: str, state: State, detail: str, fix: str, counts: Counts) -> Check:
    return Check(
        name=name, state=state, detail=detail, fix=fix, sent=counts.sent, heard=counts.heard, dropped=counts.dropped
    )


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _span(seconds: Seconds) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds * 1000:.0f} ms"
