"""When to try what may come about later: at once, then less and less often, and often again when there is news."""

from collections.abc import Callable, Collection, Hashable
from typing import Final, Generic, TypeVar

from tetherd.types import Seconds

K = TypeVar("K", bound=Hashable)

PERIOD: Final[tuple[Seconds, Seconds]] = (1.0, 60.0)
"""From one attempt to the next."""

JITTER: Final = 0.1
HEED: Final[Seconds] = 10.0
"""So long after news there is no other: attempts are frequent still, and who makes news all the time gains nothing."""


class Attempts(Generic[K]):
    """The attempts at several things, by their keys. ``chance`` gives a number from 0 to 1."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._next: dict[K, tuple[Seconds, Seconds]] = {}  # when, and the pause after that
        self._heeded = float("-inf")

    def due(self, wanted: Collection[K], now: Seconds, most: int) -> list[K]:
        """Return what is to be tried now, at most so many; what is not wanted any more is forgotten."""
        self._next = {key: self._next.get(key, (now, PERIOD[0])) for key in wanted}
        found = [key for key, (when, _) in self._next.items() if when <= now][:most]
        for key in found:
            pause = self._next[key][1]
            again = now + pause * (1 + JITTER * (2 * self._chance() - 1))
            self._next[key] = (again, min(2 * pause, PERIOD[1]))
        return found

    def hurry(self, now: Seconds) -> None:
        """Begin anew with everything: there is news."""
        if now - self._heeded >= HEED:
            self._heeded = now
            self._next.clear()
