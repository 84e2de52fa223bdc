"""What routers make of this host's address, and whether others could dial it: judged by what others see of it.

Others may lie or be mistaken; a verdict takes several of them, and is used to explain, never to decide.
"""

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from tetherd.discovery import contacts
from tetherd.discovery.addresses import Address, plain
from tetherd.discovery.diagnosis import OUTSIDE, Check, State
from tetherd.discovery.mapping import Mapped, Report
from tetherd.discovery.peers import Peer

ENOUGH: Final = 3
"""Hosts that must have observed this one: two can agree by chance."""

Kind: TypeAlias = Literal["open", "consistent", "random", "unknown"]
"""``open``: no router changes the address. ``consistent`` (a "cone"): one changes it, and to everybody it is the same.
``random`` ("symmetric"): to everybody it is another one."""

_WORDS: Final = {"open": "open", "consistent": 'consistent ("cone")', "random": 'random ("symmetric")'}
_FAMILIES: Final = {4: "IPv4", 6: "IPv6"}
_BY_HAND: Final = "forward cluster.listen by hand and name it in cluster.advertise; or add a relay"


class View(msgspec.Struct, frozen=True, kw_only=True):
    """How others see this host. ``address``: where from, without a port if that differs; empty = nobody said.

    ``family``: ``IPv4`` or ``IPv6``. ``observers``: hosts that said so.
    """

    family: str
    kind: Kind
    detail: str
    address: str = ""
    observers: int = 0


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """How this host appears. ``dialable``: it listens for others; ``relays``: those that lead to it, by name.

    ``mapping``: what the router in front of it was asked for.
    """

    views: tuple[View, ...]
    dialable: bool
    relays: Sequence[str]
    mapping: Report = Report(off="nothing is asked of it")


def judge(
    observed: Iterable[tuple[contacts.Address, contacts.Address]], own: Collection[str], silence: str
) -> tuple[View, ...]:
    """Return how others see this host, whose own addresses are ``own``, for each family that anybody spoke of.

    ``observed``: the address of each observer, and the one that it heard this host from; whoever names one of the
    host's own is on its side of every router, or there is none. ``silence``: why nobody might have spoken.
    """
    latest = {}
    for (observer, _), (host, port) in observed:
        place = Address(plain(host), port)
        latest[plain(observer), _version(place)] = place
    if not latest:
        return (View(family=_FAMILIES[4], kind="unknown", detail=f"unknown: {silence}"),)
    versions = sorted({version for _, version in latest})
    return tuple(
        _judge(_FAMILIES[version], [place for (_, each), place in latest.items() if each == version], own)
        for version in versions
    )


def dial_in(sight: Sight, peers: Sequence[Peer], *, member: bool) -> Check:
    """Judge whether others could connect to this host: that some did proves it, a router in between hinders it."""
    if not member:
        return Check(name="dial-in", state="skip", detail=OUTSIDE)
    if not sight.dialable:
        return Check(name="dial-in", state="skip", detail="this host only dials, so that nobody needs to reach it")
    far = sum(peer.arrival == "direct" for peer in peers)
    near = sum(peer.arrival in ("local", "lan") for peer in peers)
    if far:
        return Check(
            name="dial-in", state="ok", detail=f"yes: {_hosts(far)} beyond the local network did, {near} in it"
        )
    if let_in := [each for each in sight.mapping.mapped if each.want.service == "rpc" and not each.obstacle]:
        detail = f"the router leads others here from {let_in[0].outside}; none has come from beyond the local network"
        return Check(name="dial-in", state="ok", detail=detail)
    routed = any(view.kind in ("consistent", "random") for view in sight.views)
    if routed:
        detail = "from the local network only: a router changes this host's address, and lets nobody in by itself"
        fix = f"set cluster.port_mapping; or {_BY_HAND}"
        state: State = "ok" if sight.relays else "warn"
        if sight.relays:
            detail, fix = f"{detail}; others come by the relay {', '.join(sight.relays)}", ""
        return Check(name="dial-in", state=state, detail=detail, fix=fix)
    if near:
        return Check(name="dial-in", state="ok", detail=f"yes: {_hosts(near)} of the local network did, none beyond it")
    if any(view.kind == "open" for view in sight.views):
        return Check(
            name="dial-in", state="ok", detail="nothing is known that keeps others out, and nobody has come yet"
        )
    return Check(
        name="dial-in", state="skip", detail="unknown: nobody has come yet, and too few have said what they see"
    )


def mapping(report: Report, *, member: bool) -> Check:
    """Judge what the router in front of this host was asked for, and what it gave."""
    if not member or report.off:
        return Check(name="mapping", state="skip", detail=report.off if member else OUTSIDE)
    state, detail, fix = _granted(report)
    sent, heard, dropped = report.sent, report.heard, report.dropped
    return Check(name="mapping", state=state, detail=detail, fix=fix, sent=sent, heard=heard, dropped=dropped)


def _granted(report: Report) -> tuple[State, str, str]:
    why = "; ".join(f"{name}: {why}" for name, why in report.refused.items())
    if report.fault:
        return "warn", report.fault, "switch cluster.port_mapping off where there is no router"
    if not report.mapped:
        extra = "" if "upnp" in report.refused else " (by UPnP only with the extra upnp)"
        state: State = "warn" if why else "ok"
        detail = (
            f"the router {report.router} maps nothing: {why}" if why else f"the router {report.router} is being asked"
        )
        return state, detail, f"let it map ports{extra}; or {_BY_HAND}" if why else ""
    detail = f"the router {report.router} maps by {report.method}: {', '.join(map(_mapped, report.mapped))}"
    if obstacle := next((each.obstacle for each in report.mapped if each.obstacle), ""):
        return "warn", f"{detail}; of no use: {obstacle}", _BY_HAND
    return ("warn", f"{detail}; but not {why}", _BY_HAND) if why else ("ok", detail, "")


def _judge(family: str, seen: list[Address], own: Collection[str]) -> View:
    outside = [place for place in seen if place.host not in own]
    if not outside:
        return _open(family, seen)
    (place, alike), count = Counter(outside).most_common(1)[0], len(outside)
    hosts = Counter(one.host for one in outside)
    host, there = hosts.most_common(1)[0]
    if count < ENOUGH:
        return _unknown(family, place, f"{_hosts(count)} beyond its own network", count)
    if alike >= ENOUGH:
        detail = f"{_WORDS['consistent']}: {alike} of {_hosts(count)} see it as {place}"
        return View(family=family, kind="consistent", address=str(place), observers=count, detail=detail)
    where = f"as {host}, each at another port" if there == count else f"at {len(hosts)} addresses, {host} one of them"
    detail = f"{_WORDS['random']}: {_hosts(count)} see it {where}"
    return View(family=family, kind="random", address=host, observers=count, detail=detail)


def _open(family: str, seen: list[Address]) -> View:
    (place, _), count = Counter(seen).most_common(1)[0], len(seen)
    if count < ENOUGH:
        return _unknown(family, place, _hosts(count), count)
    near = "" if ipaddress.ip_address(place.host).is_global else ", which is not an address of the public internet"
    detail = f"{_WORDS['open']}: {_hosts(count)} see it at its own address {place}{near}"
    return View(family=family, kind="open", address=str(place), observers=count, detail=detail)


def _unknown(family: str, place: Address, who: str, count: int) -> View:
    detail = f"unknown: {who} saw it, as {place}, and it takes {ENOUGH} to tell"
    return View(family=family, kind="unknown", address=str(place), observers=count, detail=detail)


def _version(place: Address) -> int:
    return ipaddress.ip_address(place.host).version


def _mapped(each: Mapped) -> str:
    kind = "/udp" if each.want.transport == "udp" else ""
    return f"{each.want.service} {each.want.port}{kind} to {each.outside} for {each.left / 60:.0f} min"


def _hosts(count: int) -> str:
    return "1 host" if count == 1 else f"{count} hosts"
