"""Whether a request is heard at all: how many an address may send, and that none is heard twice."""

from typing import Final

from tetherd.discovery.contacts import Address, same
from tetherd.types import Seconds

RATE: Final = 1000.0
BURST: Final = 2000.0
"""Requests per second of one address, and how many at once."""

HOST_FACTOR: Final = 8
"""How many addresses of one host may be busy at a time: nodes behind one NAT share a host."""

CLOCK: Final[Seconds] = 300.0
"""How far the clocks of two nodes may be apart."""

WINDOW: Final = 64
"""How far requests of one sender may overtake each other."""

MAX_SOURCES: Final = 2048
_MASK: Final = (1 << WINDOW) - 1


class _Source:
    """What is known of one address: its allowance, and which of its last requests were heard."""

    __slots__ = ("allowance", "at", "heard", "highest", "latest")

    def __init__(self, allowance: float, now: Seconds) -> None:
        self.allowance = allowance
        self.at = now
        self.highest = 0
        self.heard = 0
        self.latest = now

    def spend(self, cost: float, factor: float, now: Seconds) -> bool:
        self.allowance = min(BURST * factor, self.allowance + (now - self.at) * RATE * factor)
        self.at = now
        if self.allowance < cost:
            return False
        self.allowance -= cost
        return True

    def fresh(self, count: int, now: Seconds) -> bool:
        """Count a request; tell whether it is a new one. Counts only grow, so what is far behind was heard.

        After a silence in which every request heard before went stale, any count will do: a sender whose clock was
        set back counts from there.
        """
        if now - self.latest > 2 * CLOCK:
            self.highest = self.heard = 0
        ahead = count - self.highest
        self.latest = now
        if ahead > 0:
            self.heard = ((self.heard << ahead) | 1) & _MASK if ahead < WINDOW else 1
            self.highest = count
            return True
        bit = 1 << -ahead if -ahead < WINDOW else 0
        if not bit or self.heard & bit:
            return False
        self.heard |= bit
        return True


class Limits:
    """Decides about requests by the address they came from; remembers a bounded number of addresses."""

    def __init__(self) -> None:
        self._sources: dict[Address, _Source] = {}
        self._hosts: dict[str, _Source] = {}

    def refuse(self, source: Address, count: int, sent: Seconds, cost: float, clock: tuple[Seconds, Seconds]) -> str:
        """Return why a request is not heard, in one word; empty if it is.

        ``count`` and ``sent`` (seconds since the epoch) are what the request says, ``clock`` is monotonic time and
        seconds since the epoch here.
        """
        now, wall = clock
        known = self._sources.get(source)
        if known is None:
            _make_room(self._sources)
            source = same(source)
            known = self._sources[source] = _Source(BURST, now)
        host = self._hosts.get(source[0])
        if host is None:
            _make_room(self._hosts)
            host = self._hosts[source[0]] = _Source(BURST * HOST_FACTOR, now)
        if not known.spend(cost, 1, now) or not host.spend(cost, HOST_FACTOR, now):
            return "flood"
        if abs(sent - wall) > CLOCK:
            return "clock"
        return "" if known.fresh(count, now) else "replayed"


def _make_room(kept: dict[Address, _Source] | dict[str, _Source]) -> None:
    """Forget the address that was first heard longest ago."""
    if len(kept) >= MAX_SOURCES:
        del kept[next(iter(kept))]  # type: ignore[arg-type]
