"""Which manager fetches which version from whom, so that every version is held often enough.

A copy counts while its holder is heard of, and for a grace period after that: a manager that comes and goes starts no
transfer. A version's places are the same for everybody who asks: by a hash of version and manager, as even as it gets.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from tetherd.types import Digest, Seconds

COPIES: Final = 3
ALIVE: Final[Seconds] = 6.0
"""A manager is alive when it was heard of within this time."""

GRACE: Final[Seconds] = 30.0
"""A manager that was not heard of for this long is lost, and so are its copies."""

AT_ONCE: Final = 4
"""Versions that one manager is told to fetch at a time."""


class Manager(NamedTuple):
    """What is known of one manager: what it holds, fetches and could not fetch, and when it was last heard of."""

    node: str
    held: frozenset[Digest]
    seen: Seconds
    fetching: frozenset[Digest] = frozenset()
    failing: frozenset[Digest] = frozenset()

    def alive(self, now: Seconds) -> bool:
        """Tell whether it can be fetched from, and be told to fetch."""
        return now - self.seen <= ALIVE

    def lost(self, now: Seconds) -> bool:
        """Tell whether it is given up."""
        return now - self.seen > GRACE


class Order(NamedTuple):
    """A version to fetch, and the nodes to fetch it from."""

    version: Digest
    sources: tuple[str, ...]


def wanted(managers: Sequence[Manager], now: Seconds, copies: int = COPIES) -> int:
    """Return how many copies of a version there are to be: ``copies``, or as many as there are managers."""
    return min(copies, sum(not manager.lost(now) for manager in managers))


def holders(version: Digest, managers: Sequence[Manager], now: Seconds) -> list[Manager]:
    """Return the managers whose copy of a version counts."""
    return [manager for manager in managers if version in manager.held and not manager.lost(now)]


def plan(
    versions: Sequence[Digest], managers: Sequence[Manager], now: Seconds, copies: int = COPIES
) -> dict[str, list[Order]]:
    """Return what each manager is to fetch now; what is nearest to being lost comes first.

    The same world gives the same orders, and a fetch under way stays where it is.
    """
    target = wanted(managers, now, copies)
    orders: dict[str, list[Order]] = {}
    for version in sorted(versions, key=lambda version: len(holders(version, managers, now))):
        counted = holders(version, managers, now)
        sources = [manager.node for manager in counted if manager.alive(now)]
        chosen = _places(version, managers, now)[: max(0, target - len(counted))]
        for node in chosen if sources else ():
            mine = orders.setdefault(node, [])
            if len(mine) < AT_ONCE:
                mine.append(Order(version, (*sources, *(other for other in chosen if other != node))))
    return orders


def lacking(versions: Sequence[Digest], keeper: Manager, managers: Sequence[Manager], now: Seconds) -> list[Order]:
    """Return what the primary fetches for itself now: it is to hold every version, however many copies there are."""
    orders = []
    for version in versions:
        sources = tuple(each.node for each in holders(version, managers, now) if each.alive(now))
        if version not in keeper.held and sources:
            orders.append(Order(version, sources))
    return sorted(orders, key=lambda order: order.version in keeper.failing)[:AT_ONCE]


def _places(version: Digest, managers: Sequence[Manager], now: Seconds) -> list[str]:
    """Return who could fetch a version, the best place first: who is at it, then by hash, last who just failed to."""
    able = [manager for manager in managers if manager.alive(now) and version not in manager.held]

    def place(manager: Manager) -> tuple[bool, bool, bytes]:
        return version not in manager.fetching, version in manager.failing, _rank(version, manager.node)

    able.sort(key=place)
    return [manager.node for manager in able]


def _rank(version: Digest, node: str) -> bytes:
    return hashlib.sha256(f"{version} {node}".encode()).digest()
