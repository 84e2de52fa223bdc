"""What a daemon says about its host and its network when something does not work: netcheck, ping and doctor.

Served on the control socket alone: it tells where all the nodes are. Changes nothing. A host in no network is examined
too, as far as that goes.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from tetherd.discovery import diagnosis
from tetherd.discovery.claims import Seen
from tetherd.discovery.diagnosis import Check, Counts
from tetherd.discovery.hints import Drop
from tetherd.discovery.nat import Sight, dial_in, mapping
from tetherd.discovery.peers import Peer
from tetherd.discovery.racing import Missed, Reached
from tetherd.errors import NotInNetwork
from tetherd.ports import Clock, Host
from tetherd.roles.gateway.exchange import Answer, Exchange, document
from tetherd.roles.gateway.routing import Route
from tetherd.roles.peering import Peering, Pinged
from tetherd.types import Finding, Seconds

_LOCAL: Final = "the network is examined"
MAX_ASKED: Final = 32
"""Nodes that are asked for their time; more would say no more."""

MAX_EXAMINED: Final = 8
EXAMINED: Final[Seconds] = 16.0
"""So many ways to other nodes are examined by the doctor, and for so long together."""


class Senses(NamedTuple):
    """What this host hears of others: the counts of mDNS and of the DHT, None where off, and how it appears to them."""

    multicast: Callable[[], Counts | None]
    datagrams: Callable[[], Counts | None]
    sight: Callable[[], Sight]


class Diagnosis:
    """The routes. ``peering`` is None on a host that is in no network.

    ``examine`` says, blocking, what is wrong with the way to HOST:PORT.
    """

    def __init__(
        self,
        *,
        peering: Peering | None,
        host: Host,
        clock: Clock,
        senses: Senses,
        examine: Callable[[str], Finding],
    ) -> None:
        self._peering = peering
        self._host = host
        self._clock = clock
        self._senses = senses
        self._examine = examine

    def routes(self) -> list[Route]:
        """Return the paths."""
        return [
            Route(
                "GET",
                "/api/v1/netcheck",
                self._netcheck,
                "How this host finds others, and what was dropped why",
                errors=(403,),
            ),
            Route(
                "GET", "/api/v1/ping/{node}", self._ping, "Whether a node answers, and where", errors=(400, 404, 409)
            ),
            Route("GET", "/api/v1/doctor", self._doctor, "What is wrong with this host and its network", errors=(403,)),
        ]

    async def _netcheck(self, exchange: Exchange) -> Answer:
        exchange.check_local(_LOCAL)
        now, table = self._clock.monotonic(), self._peering.table if self._peering else None
        sight, peers = self._senses.sight(), table.peers() if table else []
        return document(
            {
                "in_network": table is not None,
                "mechanisms": [_check(check) for check in self._sources()],
                "nat": [msgspec.to_builtins(view) for view in sight.views],
                "dial_in": _check(dial_in(sight, peers, member=table is not None)),
                "peers": [_peer(peer, now) for peer in peers],
                "seeds": [_address(seen, now) for seen in table.seeds()] if table else [],
                "dropped": [_drop(drop, now) for drop in table.drops()] if table else [],
            }
        )

    async def _ping(self, exchange: Exchange) -> Answer:
        exchange.check_local(_LOCAL)
        if self._peering is None:
            raise NotInNetwork.outside()
        pinged = await self._peering.ping(self._peering.find(exchange.params["node"]))
        found = _pinged(pinged, self._clock.monotonic())
        mute = [missed.address for missed in pinged.missed if missed.reason == "silent"]
        place = pinged.best.address if pinged.best else next(iter(mute), "")
        way = await asyncio.to_thread(self._examine, place) if place else None
        return document({**found, "large": way.message if way and way.cause == "mtu" else ""})

    async def _doctor(self, exchange: Exchange) -> Answer:
        exchange.check_local(_LOCAL)
        vitals = await asyncio.to_thread(self._host.measure)
        peers = self._peering.table.peers() if self._peering else []
        member = self._peering is not None
        examined = await self._examined(peers)
        checks = [
            *self._sources(),
            diagnosis.tcp(peers, member=member),
            diagnosis.mtu(examined, member=member),
            diagnosis.tls(vitals, peers, examined, member=member),
            diagnosis.clock(vitals, await self._skews(peers)),
            diagnosis.disk(vitals),
            diagnosis.files(vitals),
        ]
        failed = any(check.state == "fail" for check in checks)
        return document({"healthy": not failed, "checks": [_check(check) for check in checks]})

    def _sources(self) -> list[Check]:
        member = self._peering is not None
        table = self._peering.table if self._peering else None
        seeds, peers = (table.seeds(), table.peers()) if table else ((), [])
        return [
            diagnosis.seeds(seeds, peers, member=member),
            diagnosis.multicast(self._senses.multicast(), member=member),
            diagnosis.udp(self._senses.datagrams(), member=member),
            mapping(self._senses.sight().mapping, member=member),
        ]

    async def _examined(self, peers: list[Peer]) -> list[tuple[str, Finding]]:
        """Examine the ways to connected nodes, as many as there is time for."""
        tried = [peer for peer in peers if peer.dialled][:MAX_EXAMINED]
        found: list[tuple[str, Finding]] = []

        async def examine(peer: Peer) -> None:
            found.append((peer.name or peer.node[:16], await asyncio.to_thread(self._examine, peer.dialled)))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXAMINED), asyncio.TaskGroup() as group:
                for peer in tried:
                    group.create_task(examine(peer))
        return found

    async def _skews(self, peers: list[Peer]) -> list[tuple[str, Seconds]]:
        """Ask connected nodes for their time."""
        if self._peering is None:
            return []
        asked = [peer for peer in peers if peer.path][:MAX_ASKED]
        answers = await asyncio.gather(*(self._peering.ask(peer) for peer in asked))
        return [(one.peer.name or one.peer.node[:16], one.skew) for one in answers if one.skew is not None]


def _check(check: Check) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(check)
    return found


def _peer(peer: Peer, now: Seconds) -> dict[str, Any]:
    return {
        "node": peer.node,
        "name": peer.name,
        "roles": peer.roles,
        "member": peer.member,
        "revoked": peer.revoked,
        "path": peer.path,
        "rtt_ms": None if peer.rtt is None else _ms(peer.rtt),
        "dialled": peer.dialled,
        "arrived": peer.arrived,
        "sources": peer.sources,
        "heard_ms_ago": None if peer.heard is None else _ms(now - peer.heard),
        "conflict": peer.conflict,
        "ports": peer.ports,
        "addresses": [_address(seen, now) for seen in peer.addresses],
        "dropped": [_drop(drop, now) for drop in peer.drops],
    }


def _address(seen: Seen, now: Seconds) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(seen)
    found["heard_ms_ago"] = _ms(now - found.pop("heard"))
    return found


def _drop(drop: Drop, now: Seconds) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(drop)
    found["last_ms_ago"] = _ms(now - found.pop("last"))
    return found


def _pinged(pinged: Pinged, now: Seconds) -> dict[str, Any]:
    return {
        **_peer(pinged.peer, now),
        "answers": pinged.rtt is not None or pinged.best is not None or bool(pinged.peer.arrived),
        "round_trip_ms": None if pinged.rtt is None else _ms(pinged.rtt),
        "clock_ahead_ms": None if pinged.skew is None else _ms(pinged.skew),
        "version": pinged.version,
        "failure": pinged.failure,
        "best": _reached(pinged.best) if pinged.best else None,
        "missed": [_missed(missed) for missed in pinged.missed],
    }


def _reached(reached: Reached) -> dict[str, Any]:
    return {"address": reached.address, "path": reached.path, "rtt_ms": _ms(reached.rtt)}


def _missed(missed: Missed) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(missed)
    return found


def _ms(seconds: Seconds) -> float:
    return round(seconds * 1000, 3)
