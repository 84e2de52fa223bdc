"""Which chunk of a blob is asked of which source, and which sources are asked no more.

Sources take chunks as they get ready for them, so a fast one takes more. What only few others could give is asked
first, so that hosts that fetch the same blob at the same time soon have something for each other. When nothing else is
left, a source that is ready takes over what another has not brought for long.
"""

from collections.abc import Collection, Iterable
from typing import Final

from tetherd.types import Seconds

STRIKES: Final = 3
"""A source that fails this often in a row is asked no more."""

_PAUSE: Final[Seconds] = 0.25
_OVERDUE: Final = 2.0
"""A chunk is overdue when it takes this many times as long as chunks do."""

_LEAST_OVERDUE: Final[Seconds] = 0.5
_WEIGHT: Final = 0.2
"""What one more chunk counts for in how long chunks take."""


class Plan:
    """The chunks of one blob and those who have them. Sources are named by whatever tells them apart.

    ``have``: chunks that are here already. ``salt`` is what tells this host from others that fetch the same blob: they
    begin at different places and go on in different orders, so that they do not all ask for the same. With salt 0, and
    while nobody else fetches it, chunks come in order.
    """

    def __init__(self, count: int, *, have: Collection[int] = (), salt: int = 0) -> None:
        first = salt % count if count else 0
        order = [*range(first, count), *range(first)]
        self._salt = salt
        self.banned: dict[str, str] = {}
        self._left = count - len(have)
        self._waiting = {index: 0 for index in order if index not in have}  # in order; how many partial sources have it
        self._flying: dict[int, dict[str, Seconds]] = {}
        self._offers: dict[str, frozenset[int] | None] = {}
        self._strikes: dict[str, int] = {}
        self._usual: Seconds = 0.0
        self._shared = False  # whether others fetch it too

    @property
    def finished(self) -> bool:
        """Tell whether every chunk is here."""
        return self._left == 0

    @property
    def stuck(self) -> bool:
        """Tell whether nobody is left who could bring what is missing."""
        return not self.finished and not self._offers.keys() - self.banned.keys()

    def offer(self, source: str, have: Iterable[int] | None = None) -> bool:
        """Note that a source has these chunks, None = all of them; return whether that is news."""
        offered = None if have is None else frozenset(have)
        if source in self._offers and self._offers[source] == offered:
            return False
        self._offers[source] = offered
        partial = [offer for offer in self._offers.values() if offer]
        self._shared = bool(partial)
        for index in self._waiting:
            self._waiting[index] = sum(index in offer for offer in partial)
        return True

    def whole(self, source: str) -> bool:
        """Tell whether a source has every chunk."""
        return self._offers[source] is None

    def take(self, source: str, now: Seconds) -> int | None:
        """Return the chunk to ask of ``source`` now; None = nothing at this moment."""
        if source in self.banned:
            return None
        offer = self._offers[source]
        index = self._next(offer)
        if index is None:
            index = self._overdue(source, offer, now)
        if index is not None:
            self._waiting.pop(index, None)
            self._flying.setdefault(index, {})[source] = now
        return index

    def done(self, source: str, index: int, now: Seconds) -> bool:
        """Note that a source brought a chunk; return whether it was the first to."""
        self._strikes.pop(source, None)
        takers = self._flying.pop(index, None)
        if takers is None:
            return False
        took = now - takers.get(source, now)
        self._usual = took if not self._usual else self._usual + _WEIGHT * (took - self._usual)
        self._left -= 1
        return True

    def failed(self, source: str, index: int | None, reason: str, *, final: bool = False) -> Seconds:
        """Note that a source did not bring a chunk; return how long to leave it alone. ``final``: ask it no more."""
        takers = self._flying.get(index) if index is not None else None
        if takers is not None and index is not None:
            takers.pop(source, None)
            if not takers:
                del self._flying[index]
                self._waiting = {index: 0} | self._waiting  # it is late already: next, before all others
        strikes = self._strikes[source] = self._strikes.get(source, 0) + 1
        if final or strikes >= STRIKES:
            self.banned.setdefault(source, reason)
        return _PAUSE * float(4 ** (strikes - 1))

    def _next(self, offer: frozenset[int] | None) -> int | None:
        if self._shared:
            mine = (index for index in self._waiting if offer is None or index in offer)
            return min(mine, key=lambda index: (self._waiting[index], _mixed(index, self._salt)), default=None)
        if offer is None:
            return next(iter(self._waiting), None)
        return next((index for index in self._waiting if index in offer), None)

    def _overdue(self, source: str, offer: frozenset[int] | None, now: Seconds) -> int | None:
        """Return what another source has had the longest, if that is too long; nobody takes over twice."""
        before = now - max(_LEAST_OVERDUE, _OVERDUE * self._usual)
        late = [
            (began, index)
            for index, takers in self._flying.items()
            if len(takers) == 1 and source not in takers and (offer is None or index in offer)
            if (began := next(iter(takers.values()))) <= before
        ]
        return min(late)[1] if late else None


def _mixed(index: int, salt: int) -> int:
    """Return a number that sorts chunks into an order of this host's own."""
    mixed = ((index + 1) * 0x9E3779B1 ^ salt) & 0xFFFFFFFF
    return (mixed ^ mixed >> 15) * 0x85EBCA77 & 0xFFFFFFFF
