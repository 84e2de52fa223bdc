"""The claims about one node: who says that it is where, what trying showed, and what is thus worth trying next."""

from collections.abc import Iterable
from typing import Final

import msgspec

from tetherd.discovery.addresses import MAX_PER_NODE, Address
from tetherd.discovery.hints import MAX_TEXT, Hint, Source
from tetherd.discovery.racing import Candidate, path_of
from tetherd.types import Seconds

MAX_ORIGINS: Final = 3
"""Speakers of one source that are listened to about one node. A node has one; more are a conflict."""

MAX_TTL: Final[Seconds] = 86400.0
_TRUSTED: Final = frozenset({"seed", "memory"})
_PROVEN: Final[tuple[Source, str]] = ("memory", "proven")
_EARLIER: Final[tuple[Source, str]] = ("memory", "earlier")
_WRONG_KEY: Final = "another node's key was shown there"


class Claim(msgspec.Struct, frozen=True):
    """What one origin said last. ``until``: when it holds no longer; None = until it is taken back."""

    source: Source
    origin: str
    addresses: tuple[Address, ...]
    ports: dict[str, int]
    heard: Seconds
    until: Seconds | None = None


class Tried(msgspec.Struct, frozen=True):
    """What trying an address showed: whether the key was proven there last, and failures since."""

    proven: bool = False
    failures: int = 0
    failure: str = ""


class Seen(msgspec.Struct, frozen=True):
    """One address as it is shown. ``heard`` is when a source last spoke of it."""

    address: str
    sources: tuple[Source, ...]
    path: str
    heard: Seconds
    proven: bool = False
    failures: int = 0
    failure: str = ""


_UNTRIED: Final = Tried()


class Claims:
    """Claims about one node, or about nodes not known yet; at most ``origins`` speakers of each source."""

    def __init__(self, origins: int = MAX_ORIGINS) -> None:
        self._origins = origins
        self._claims: dict[tuple[Source, str], Claim] = {}
        self._tried: dict[Address, Tried] = {}

    def __bool__(self) -> bool:
        return bool(self._claims)

    def add(self, hint: Hint, addresses: tuple[Address, ...], now: Seconds) -> bool:
        """Take in the accepted ``addresses`` of a hint; return whether one of them is new."""
        key = _EARLIER if hint.source == "memory" else (hint.source, hint.origin[:MAX_TEXT])
        known = {address for claim in self._claims.values() for address in claim.addresses}
        if key not in self._claims:
            self._make_room(hint.source)
        until = now + min(hint.ttl, MAX_TTL) if hint.ttl > 0 else None
        self._claims[key] = Claim(*key, addresses, hint.ports, now, until)
        self._prune()
        return not known.issuperset(addresses)

    def vanish(self, source: Source, origin: str) -> None:
        """Forget what one origin said; what was proven is remembered apart from it."""
        self._claims.pop((source, origin[:MAX_TEXT]), None)
        self._prune()

    def take(self, address: Address) -> Hint | None:
        """Take an address out of the claim that holds it and return it as a hint of its own, if there is one."""
        for key, claim in self._claims.items():
            if address in claim.addresses:
                rest = tuple(other for other in claim.addresses if other != address)
                if rest:
                    self._claims[key] = msgspec.structs.replace(claim, addresses=rest)
                else:
                    del self._claims[key]
                self._prune()
                return Hint(source=claim.source, origin=str(address), addresses=(str(address),), ports=claim.ports)
        return None

    def proved(self, address: Address, now: Seconds) -> None:
        """Take note that the node showed its key at ``address``: it is remembered until newer ones take its place."""
        before = self._claims.get(_PROVEN)
        others = tuple(other for other in before.addresses if other != address) if before else ()
        ports = self._ports_at(address) or (before.ports if before else {})
        self._claims[_PROVEN] = Claim(*_PROVEN, (address, *others)[:MAX_PER_NODE], ports, now)
        self._tried[address] = Tried(proven=True)
        self._prune()

    def failed(self, address: Address, why: str) -> None:
        """Take note that the node was not reached at ``address``."""
        if self._claimed(address):
            before = self._tried.get(address, _UNTRIED)
            self._tried[address] = Tried(before.proven, before.failures + 1, why[:MAX_TEXT])

    def refuted(self, address: Address) -> bool:
        """Take note that another node has its place there; return whether this one was claimed to be there."""
        claimed = self._claimed(address)
        if claimed:
            self._tried[address] = Tried(failures=self._tried.get(address, _UNTRIED).failures + 1, failure=_WRONG_KEY)
        return claimed

    def expire(self, now: Seconds) -> None:
        """Forget what was not said again in time."""
        self._claims = {key: claim for key, claim in self._claims.items() if claim.until is None or now < claim.until}
        self._prune()

    @property
    def conflict(self) -> bool:
        """Whether speakers of one source place the node on different hosts, or a claim turned out to be wrong."""
        claims = list(self._claims.values())
        pairs = ((a, b) for i, a in enumerate(claims) for b in claims[i + 1 :] if a.source == b.source not in _TRUSTED)
        disagree = any(not _hosts(a.addresses) & _hosts(b.addresses) for a, b in pairs)
        return disagree or any(tried.failure == _WRONG_KEY for tried in self._tried.values())

    def candidates(self) -> list[Candidate]:
        """Return every claimed address with what trying it showed; in no order yet."""
        found = []
        for address, claims in self._by_address().items():
            tried, sources = self._tried.get(address, _UNTRIED), {claim.source for claim in claims}
            path = path_of(address.host, lan="mdns" in sources)
            found.append(Candidate(address, path, tried.proven, tried.failures, trusted=bool(sources & _TRUSTED)))
        return found

    def seen(self) -> tuple[Seen, ...]:
        """Return every claimed address as it is shown."""
        shown = []
        for address, claims in self._by_address().items():
            tried = self._tried.get(address, _UNTRIED)
            path, sources = path_of(address.host, lan=any(c.source == "mdns" for c in claims)), _sources(claims)
            heard = max(claim.heard for claim in claims)
            shown.append(Seen(str(address), sources, path, heard, tried.proven, tried.failures, tried.failure))
        return tuple(shown)

    def sources(self) -> tuple[Source, ...]:
        """Return who speaks of the node."""
        return _sources(self._claims.values())

    def remembered(self) -> tuple[Address, ...]:
        """Return the addresses worth keeping over a restart, the latest proven first."""
        claims = [self._claims[key] for key in (_PROVEN, _EARLIER) if key in self._claims]
        return tuple(dict.fromkeys(address for claim in claims for address in claim.addresses))[:MAX_PER_NODE]

    def ports(self) -> dict[str, int]:
        """Return the node's other listeners: as said where it proved its key, else as last heard."""
        claims = sorted(self._claims.values(), key=lambda claim: (claim.source == "memory", claim.heard))
        return next((claim.ports for claim in reversed(claims) if claim.ports), {})

    def _by_address(self) -> dict[Address, list[Claim]]:
        found: dict[Address, list[Claim]] = {}
        for claim in self._claims.values():
            for address in claim.addresses:
                found.setdefault(address, []).append(claim)
        return found

    def _ports_at(self, address: Address) -> dict[str, int]:
        return next((claim.ports for claim in self._claims.values() if address in claim.addresses and claim.ports), {})

    def _claimed(self, address: Address) -> bool:
        return any(address in claim.addresses for claim in self._claims.values())

    def _make_room(self, source: Source) -> None:
        """Let go of another speaker of this source: one whose addresses failed, else the one silent longest."""
        same = [(key, claim) for key, claim in self._claims.items() if claim.source == source]
        if len(same) >= self._origins:
            key, _ = min(same, key=lambda item: (self._standing(item[1]), item[1].heard))
            del self._claims[key]

    def _standing(self, claim: Claim) -> int:
        tried = [self._tried.get(address, _UNTRIED) for address in claim.addresses]
        if any(one.proven for one in tried):
            return 2
        return 0 if all(one.failures for one in tried) else 1

    def _prune(self) -> None:
        if self._tried:
            claimed = {address for claim in self._claims.values() for address in claim.addresses}
            self._tried = {address: tried for address, tried in self._tried.items() if address in claimed}


def _sources(claims: Iterable[Claim]) -> tuple[Source, ...]:
    return tuple(sorted({claim.source for claim in claims}))


def _hosts(addresses: tuple[Address, ...]) -> set[str]:
    return {address.host for address in addresses}
