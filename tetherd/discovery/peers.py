"""The peer table: what static seeds, mDNS, the DHT and memory say of peers, merged, with the source of everything.

What is heard only ever adds addresses to try. Who a peer is, its handshake says; what it may do, the roster; whether it
is alive, its connection: a record that vanishes ends none. Everything here is bounded.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from tetherd.discovery.addresses import Address, parse, refusal, sift
from tetherd.discovery.claims import Claims, Seen
from tetherd.discovery.hints import Drop, Drops, Hint, Reason, Source
from tetherd.discovery.racing import Candidate, path_of, rank
from tetherd.errors import InvalidInput
from tetherd.types import RoleName, Seconds
from tetherd.wire.roster import Member, Roster

MAX_STRANGERS: Final = 256
"""Nodes that are heard of and in no roster; members beyond number are the roster's to bound."""

MAX_SEEDS: Final = 64
MAX_DROPS: Final = 128
MAX_NODE_DROPS: Final = 8
_HEALED: Final[tuple[Reason, ...]] = ("unreachable", "silent", "certificate")
"""What a handshake that shows the right key puts an end to."""


class Live(msgspec.Struct, frozen=True):
    """A connection that a peer proved its key on: ours to ``address``, or the peer's from there.

    ``rtt``: one round trip, in seconds; None where it is not known, as on the peer's own connections.
    """

    path: str
    address: str = ""
    rtt: Seconds | None = None
    since: Seconds = 0.0


class Arrival(msgspec.Struct, frozen=True):
    """Connections that a peer made to this node: from which host, or by which relay (its name)."""

    node: str
    host: str
    relay: str = ""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A peer as it is shown. ``path``: ``local``, ``lan``, ``direct``, ``relay:NAME``; empty without a connection.

    ``dialled``: where our connection to it leads; ``arrived``: from where its own comes, by the path ``arrival``.
    ``heard``: when anything last spoke of it, its own connection included; None = never. ``conflict``: several origins
    claim its id, so that at most one of them has its key.
    """

    node: str
    name: str
    roles: tuple[RoleName, ...]
    member: bool
    revoked: bool
    path: str
    rtt: Seconds | None
    dialled: str
    arrived: str
    arrival: str
    sources: tuple[Source, ...]
    addresses: tuple[Seen, ...]
    ports: dict[str, int]
    heard: Seconds | None
    conflict: bool
    drops: tuple[Drop, ...]


class Remembered(msgspec.Struct, frozen=True):
    """What is kept of a peer over a restart: the addresses where it proved its key."""

    node: str
    addresses: tuple[str, ...]
    ports: dict[str, int]


class _Entry:
    """One node."""

    __slots__ = ("arrived", "claims", "drops", "live", "member")

    def __init__(self) -> None:
        self.claims = Claims()
        self.drops = Drops(MAX_NODE_DROPS)
        self.member: Member | None = None
        self.live: Live | None = None
        self.arrived: Live | None = None

    @property
    def connected(self) -> bool:
        return self.live is not None or self.arrived is not None

    @property
    def revoked(self) -> bool:
        return bool(self.member and self.member.revoked)


class PeerTable:
    """The peers of the node ``me``. Times are on one monotonic clock.

    Sources call ``hear`` and ``vanish``, membership ``follow``, whoever dials ``candidates``, ``proved`` and
    ``failed``, whoever holds connections ``connected`` and ``disconnected``. ``expire`` is due once in a while.
    """

    def __init__(self, me: str, *, loopback: bool = False) -> None:
        """``loopback``: this node listens on loopback only, and so do its peers: several daemons on one host."""
        self._me = me
        self._loopback = loopback
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # those heard of longest ago first
        self._seeds = Claims(MAX_SEEDS)  # of nodes that are not known yet
        self._drops = Drops(MAX_DROPS)

    # What sources say

    def hear(self, hint: Hint, now: Seconds) -> bool:
        """Take in what a source says; return whether there is an address that was not known before."""
        if hint.node == self._me:
            return False
        trusted = hint.source in ("seed", "memory")
        sifted = sift(hint.addresses, trusted=trusted, loopback=self._loopback)
        for refused in sifted.refused:
            self._note("address", refused.reason, node=hint.node, address=refused.text, source=hint.source, now=now)
        if not sifted.accepted:
            return False
        if not hint.node:
            return self._seeds.add(hint, sifted.accepted, now)
        entry = self._entries.get(hint.node) or self._enter(hint.node)
        self._entries.move_to_end(hint.node)
        if entry.revoked:
            self._note("revoked", "the network's authority took its membership away", node=hint.node, now=now)
        elif entry.member is None:
            self._note("not-a-member", "the roster that this node has does not name it", node=hint.node, now=now)
        new = entry.claims.add(hint, sifted.accepted, now)
        if entry.claims.conflict:
            detail = f"several hosts claim this node id over {hint.source}; only its key decides"
            self._note("conflict", detail, node=hint.node, source=hint.source, now=now)
        return new

    def vanish(self, source: Source, origin: str, node: str) -> None:
        """Take note that a source no longer speaks of a node; its connection and proven addresses stay."""
        entry = self._entries.get(node)
        if entry:
            entry.claims.vanish(source, origin)
            self._tidy(node)

    def drop(self, drop: Drop) -> None:
        """Note something that a source or a handshake turned down before it came here: another network, a version."""
        entry = self._entries.get(drop.node)
        (entry.drops if entry else self._drops).add(drop)

    # What the roster says

    def follow(self, roster: Roster, now: Seconds) -> None:
        """Follow a new roster: who is a member with which roles, and where each said that it listens."""
        members = {member.node: member for member in roster.members if member.node != self._me}
        for node in members.keys() - self._entries.keys():
            self._entries[node] = _Entry()
            self._entries.move_to_end(node, last=False)
        for node, entry in list(self._entries.items()):
            entry.member = members.get(node)
            if entry.member is not None:
                entry.drops.forget("not-a-member", node)
                self._place(entry.member, now)
            if not entry.revoked:
                entry.drops.forget("revoked", node)
            self._tidy(node)

    # What handshakes and connections say

    def proved(self, node: str, address: str, now: Seconds) -> None:
        """Take note that a handshake at ``address`` showed the key of ``node``: whoever claimed it wrongly has lost.

        An address that is no ``host:port`` (a socket of this host) is known by its connection alone.
        """
        place = _place(address)
        if node == self._me or place is None:
            return
        entry = self._entries.get(node) or self._enter(node)
        if (seed := self._seeds.take(place)) is not None:
            entry.claims.add(msgspec.structs.replace(seed, node=node), (place,), now)
        entry.claims.proved(place, now)
        for reason in _HEALED:
            entry.drops.forget(reason, node, address)
        for other, wrong in self._entries.items():
            if other != node and wrong.claims.refuted(place):
                detail = f"the key of node {node[:16]} was shown there"
                self._note("conflict", detail, node=other, address=address, now=now)

    def failed(self, drop: Drop) -> None:
        """Take note that ``drop.address`` did not lead to ``drop.node`` (empty for a seed), and why."""
        place, entry = _place(drop.address), self._entries.get(drop.node)
        if place is not None:
            (entry.claims if entry else self._seeds).failed(place, drop.detail)
        self.drop(drop)

    def connected(self, node: str, live: Live) -> None:
        """Take note of a connection on which ``node`` proved its key; the latest one counts."""
        if node != self._me:
            entry = self._entries.get(node) or self._enter(node)
            entry.live = live

    def disconnected(self, node: str) -> None:
        """Take note that its connection is gone."""
        entry = self._entries.get(node)
        if entry:
            entry.live = None
            self._tidy(node)

    def arrived(self, arrivals: Iterable[Arrival], now: Seconds) -> None:
        """Take note of all connections that peers have made to this node: of each one's, the best path is shown."""
        best: dict[str, Live] = {}
        for one in arrivals:
            path = f"relay:{one.relay}" if one.relay else self.path(one.node, one.host)
            live = Live(path, one.host, since=now)
            if one.node != self._me and (one.node not in best or rank(live.path) < rank(best[one.node].path)):
                best[one.node] = live
        for node, live in best.items():
            entry = self._entries.get(node) or self._enter(node)
            before = entry.arrived
            if before is None or (before.path, before.address) != (live.path, live.address):
                entry.arrived = live
        for node in [node for node, entry in self._entries.items() if entry.arrived and node not in best]:
            self._entries[node].arrived = None
            self._tidy(node)

    def path(self, node: str, host: str) -> str:
        """Return the path of a connection between this host and ``host``, where ``node`` is.

        What was heard by multicast is on the same local network, whatever its address looks like.
        """
        lan = any(one.address.host == host and one.path == "lan" for one in self.candidates(node))
        return path_of(host, lan=lan)

    def expire(self, now: Seconds) -> None:
        """Forget what nobody has confirmed within its time to live."""
        for node in list(self._entries):
            self._entries[node].claims.expire(now)
            self._tidy(node)

    # What the table knows

    def candidates(self, node: str) -> list[Candidate]:
        """Return the addresses to try for ``node``; none if it was revoked. ``racing.order`` says in which order."""
        entry = self._entries.get(node)
        return entry.claims.candidates() if entry and not entry.revoked else []

    def refusal(self, node: str, address: Address) -> str:
        """Return why ``node`` is not dialled at an address that anybody may have made up; empty if it may be.

        A name is looked up if the roster has the node under it.
        """
        entry = self._entries.get(node)
        told = entry.member.addresses if entry and entry.member else ()
        names = {place.host for place in sift(told, trusted=True).accepted}
        return refusal(address, loopback=self._loopback, names=names)

    def unidentified(self) -> list[Candidate]:
        """Return the seeds of which no handshake has shown yet who is there."""
        return self._seeds.candidates()

    def live(self, node: str) -> Live | None:
        """Return the connection to ``node``, if there is one."""
        entry = self._entries.get(node)
        return entry.live if entry else None

    def peer(self, node: str) -> Peer | None:
        """Return what is known of one peer."""
        entry = self._entries.get(node)
        return _show(node, entry) if entry else None

    def peers(self) -> list[Peer]:
        """Return every peer, members first, then by name and id."""
        shown = [_show(node, entry) for node, entry in self._entries.items()]
        return sorted(shown, key=lambda peer: (not peer.member, peer.name, peer.node))

    def seeds(self) -> tuple[Seen, ...]:
        """Return the seeds that are not known to be a peer's, as they are shown."""
        return self._seeds.seen()

    def drops(self) -> tuple[Drop, ...]:
        """Return what was dropped without belonging to a peer in the table."""
        return self._drops.all()

    def remembered(self) -> list[Remembered]:
        """Return what to keep over a restart; give it back as hints of the source ``memory``."""
        kept = []
        for node, entry in self._entries.items():
            proven = tuple(str(address) for address in entry.claims.remembered())
            if proven and entry.member and not entry.revoked:
                kept.append(Remembered(node, proven, entry.claims.ports()))
        return kept

    def _enter(self, node: str) -> _Entry:
        strangers = [name for name, entry in self._entries.items() if entry.member is None and not entry.connected]
        if len(strangers) >= MAX_STRANGERS:
            del self._entries[strangers[0]]
            self._drops.add(Drop("full", f"more than {MAX_STRANGERS} nodes were heard of that are in no roster"))
        entry = self._entries[node] = _Entry()
        return entry

    def _place(self, member: Member, now: Seconds) -> None:
        if member.addresses and not member.revoked:
            self.hear(Hint(source="roster", node=member.node, addresses=member.addresses), now)
        else:
            self.vanish("roster", "", member.node)

    def _tidy(self, node: str) -> None:
        """Forget a node of which nothing is left but its name."""
        entry = self._entries[node]
        if not entry.connected and entry.member is None and not entry.claims:
            del self._entries[node]

    def _note(
        self, reason: Reason, detail: str, *, now: Seconds, node: str = "", address: str = "", source: str = ""
    ) -> None:
        self.drop(Drop(reason, detail, node, address, source, last=now))


def _place(text: str) -> Address | None:
    try:
        address = parse(text)
    except InvalidInput:
        return None
    return None if refusal(address, trusted=True) else address


def _show(node: str, entry: _Entry) -> Peer:
    claims, live, arrived = entry.claims, entry.live, entry.arrived
    way = live or arrived
    moments = [*(seen.heard for seen in claims.seen()), *(each.since for each in (live, arrived) if each)]
    return Peer(
        node=node,
        name=entry.member.name if entry.member else "",
        roles=entry.member.roles if entry.member else (),
        member=entry.member is not None,
        revoked=entry.revoked,
        path=way.path if way else "",
        rtt=way.rtt if way else None,
        dialled=live.address if live else "",
        arrived=arrived.address if arrived else "",
        arrival=arrived.path if arrived else "",
        sources=claims.sources(),
        addresses=claims.seen(),
        ports=claims.ports(),
        heard=max(moments, default=None),
        conflict=claims.conflict,
        drops=entry.drops.all(),
    )
