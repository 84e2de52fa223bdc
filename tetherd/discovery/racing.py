"""Which of a peer's addresses is tried when, and which of those that answer is used. Time is an argument throughout.

Tried in the order local, lan, direct, relay, each a little after the one before: a working address of a better kind
wins, and a dead one costs a moment instead of a time-out.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from tetherd.discovery.addresses import Address
from tetherd.discovery.hints import Reason
from tetherd.types import Seconds

STAGGER: Final[Seconds] = 0.15
"""From one attempt to the next, while the earlier ones are silent."""

HOLD: Final[Seconds] = 0.3
"""How long an answer over a worse kind of path waits for a better one that is under way."""

REPROBE: Final[Seconds] = 60.0
JITTER: Final = 0.1
"""A relayed path is asked for a direct one so often, a tenth earlier or later."""

MAX_ATTEMPTS: Final = 16

_RANKS: Final = {"local": 0, "lan": 1, "direct": 2, "relay": 3}
_PRIVATE: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


class Candidate(msgspec.Struct, frozen=True):
    """An address of a peer: which kind of path it makes, whether the peer proved itself there, failures since then."""

    address: Address
    path: str
    proven: bool = False
    failures: int = 0
    trusted: bool = False


class Relay(msgspec.Struct, frozen=True):
    """A way through a relay: its name, the address to dial for it, and the round trip to it (0 = not known)."""

    name: str
    address: str
    rtt: Seconds = 0.0


class Attempt(msgspec.Struct, frozen=True):
    """One address to try: ``host:port`` or ``ipc:///path``, and the path it makes.

    ``free``: proven, or given by the operator; it does not count against the dials that discovery may cause.
    """

    address: str
    path: str
    free: bool = True


class Reached(msgspec.Struct, frozen=True):
    """A node that showed its key at an address. ``rtt``: one round trip, in seconds."""

    address: str
    path: str
    rtt: Seconds
    node: str


class Missed(msgspec.Struct, frozen=True):
    """An attempt that did not lead to the node, and why. ``found``: the node whose key was shown instead, if any."""

    address: str
    path: str
    reason: Reason
    detail: str
    found: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What came of one race: the best address that answered, and every attempt that failed meanwhile."""

    best: Reached | None = None
    missed: tuple[Missed, ...] = ()


def rank(path: str) -> int:
    """Return how good a kind of path is, the best 0: ``local``, ``lan``, ``direct``, ``relay:NAME``."""
    return _RANKS[path.partition(":")[0]]


def is_relayed(path: str) -> bool:
    """Return whether a path leads through a relay."""
    return rank(path) == _RANKS["relay"]


def path_of(host: str, *, lan: bool) -> str:
    """Return the path that a connection with ``host`` makes. ``lan``: it was heard by multicast, so it is near."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return "lan" if lan else "direct"
    if ip.is_loopback:
        return "local"
    near = lan or ip.is_link_local or any(ip in network for network in _PRIVATE)
    return "lan" if near else "direct"


def order(candidates: Iterable[Candidate], *, ipc: str = "", relays: Sequence[Relay] = ()) -> list[Attempt]:
    """Return what to try, the best first: by kind, then proven addresses, then those that failed least.

    ``ipc``: the socket of a peer on this very host. Relays come last, the nearest first.
    """
    best = sorted(candidates, key=lambda one: (rank(one.path), not one.proven, one.failures))
    dials = [Attempt(str(one.address), one.path, one.proven or one.trusted) for one in best]
    near = sorted(relays, key=lambda relay: (relay.rtt <= 0, relay.rtt, relay.name))
    ways = [Attempt(relay.address, f"relay:{relay.name}") for relay in near[: MAX_ATTEMPTS // 2]]
    local = [Attempt(ipc, "local")] if ipc else []
    return [*local, *dials[: MAX_ATTEMPTS - len(local) - len(ways)], *ways]


def reprobe_after(path: str, random: float) -> Seconds | None:
    """Return when to look for a better path than ``path``; None if it is direct. ``random``: 0 to 1."""
    return REPROBE * (1 + JITTER * (2 * random - 1)) if is_relayed(path) else None


def is_better(new: str, path: str) -> bool:
    """Return whether a connection over ``path`` should move to ``new``: only a better kind is worth moving for."""
    return rank(new) < rank(path)


class Race:
    """One run over the attempts for one peer.

    Begin what ``start`` returns, report each end with ``succeeded`` or ``failed``, call again whenever something ended
    or ``wake`` has come, until ``over``.
    """

    def __init__(self, attempts: Sequence[Attempt], now: Seconds) -> None:
        self._waiting = list(dict.fromkeys(attempts))
        self._running: dict[Attempt, Seconds] = {}
        self._reached: list[Reached] = []
        self._next = now
        self._first = now

    def start(self, now: Seconds) -> list[Attempt]:
        """Return the attempts to begin now, in order."""
        if not self._waiting or self._reached or now < self._next:
            return []
        attempt = self._waiting.pop(0)
        self._running[attempt] = now
        self._next = now + STAGGER
        return [attempt]

    def succeeded(self, attempt: Attempt, reached: Reached, now: Seconds) -> None:
        """Take note that an attempt reached the peer."""
        if self._running.pop(attempt, None) is not None:
            self._first = self._first if self._reached else now
            self._reached.append(reached)

    def failed(self, attempt: Attempt, now: Seconds) -> None:
        """Take note that it did not: the next one need not wait any longer."""
        if self._running.pop(attempt, None) is not None:
            self._next = now

    @property
    def best(self) -> Reached | None:
        """Return the best success so far: of the best kind, and of those the fastest."""
        return min(self._reached, key=lambda reached: (rank(reached.path), reached.rtt), default=None)

    def over(self, now: Seconds) -> bool:
        """Return whether nothing better can come, or is not worth waiting for."""
        best = self.best
        if best is None:
            return not self._waiting and not self._running
        better = any(is_better(attempt.path, best.path) for attempt in self._running)
        return not better or now >= self._first + HOLD

    def wake(self, now: Seconds) -> Seconds | None:
        """Return in how long to look again even if nothing ends; None = only when something ends."""
        if self._reached:
            return max(0.0, self._first + HOLD - now)
        return max(0.0, self._next - now) if self._waiting else None
