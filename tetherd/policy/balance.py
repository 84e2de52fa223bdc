"""Which of the runners that wait for the same model gets the next batch.

A strategy is an object with ``decide(offers) -> index``. To add one: write the class, add it to STRATEGIES, add its
cases to tests/policy/test_balance.py.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol


class Offer(Protocol):
    """A parked take, as far as balancing looks at it: its runner, the rows that it holds and its worker's batches."""

    @property
    def runner(self) -> str:
        """Return which runner offers."""
        ...

    @property
    def runner_busy(self) -> int:
        """Return how many rows the runner holds."""
        ...

    @property
    def worker_busy(self) -> int:
        """Return how many batches the runners of its worker hold."""
        ...


class Strategy(Protocol):
    """Picks one of several offers."""

    def decide(self, offers: Sequence[Offer]) -> int:
        """Return the index of the offer to answer; there is at least one."""
        ...


class RoundRobin:
    """Each runner in turn: the one whose last turn is longest ago."""

    def __init__(self) -> None:
        self._turn = 0
        self._last: dict[str, int] = {}

    def decide(self, offers: Sequence[Offer]) -> int:
        """Return the index of the offer to answer."""
        chosen = min(range(len(offers)), key=lambda index: self._last.get(offers[index].runner, -1))
        self._turn += 1
        present = {offer.runner for offer in offers}
        if len(self._last) > 2 * len(present) + 64:  # forget runners that are gone
            self._last = {runner: turn for runner, turn in self._last.items() if runner in present}
        self._last[offers[chosen].runner] = self._turn
        return chosen


class LeastBusy:
    """The runner that holds the fewest rows, then the one on the worker that holds the fewest batches."""

    def decide(self, offers: Sequence[Offer]) -> int:
        """Return the index of the offer to answer."""
        return min(range(len(offers)), key=lambda index: (offers[index].runner_busy, offers[index].worker_busy))


STRATEGIES: Final[dict[str, Callable[[], Strategy]]] = {"round-robin": RoundRobin, "least-busy": LeastBusy}
