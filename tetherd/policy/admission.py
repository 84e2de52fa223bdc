"""Decides which nodes are heard: those of the network that behave. Knows no sockets; time is an argument."""

from collections import deque
from collections.abc import Callable, Collection
from typing import Final, TypeAlias

from tetherd.errors import PermissionDenied, QueueFull
from tetherd.types import RoleName, Seconds

Roster: TypeAlias = Callable[[str], Collection[RoleName] | None]
"""Gives the roles of a node of the network by its id; None for any other, revoked ones among them."""

REJECTS: Final = 5
"""A node that was turned away this often within a minute is not heard for the next, and its connections are kept."""

_MEMORY: Final[Seconds] = 60.0
_REMEMBERED: Final = 4096

RATE: Final = 20_000.0
BURST: Final = 40_000.0
"""Messages that a node may send in a second, on average and at once."""


class Admission:
    """Judges nodes by the roster and by their conduct. ``refusal`` may be asked from any thread."""

    def __init__(self, roster: Roster, rate: float = RATE, burst: float = BURST) -> None:
        self._roster = roster
        self._rate = rate
        self._burst = burst
        self._rejects: dict[str, deque[Seconds]] = {}
        self._levels: dict[str, tuple[float, Seconds]] = {}

    def refusal(self, node: str, now: Seconds) -> PermissionDenied | None:
        """Return why a node is not heard; None if it is."""
        if self._roster(node) is None:
            fix = "it may have been revoked, or belong to another network: tetherctl cluster members"
            return PermissionDenied(f"node {node[:12]} is no member of this network", fix=fix, retry_after=_MEMORY)
        if self.is_quarantined(node, now):
            return PermissionDenied(f"node {node[:12]} was turned away too often", retry_after=_MEMORY)
        return None

    def is_quarantined(self, node: str, now: Seconds) -> bool:
        """Tell whether a node was turned away so often that its next attempts are not worth an answer."""
        times = self._rejects.get(node)
        return (
            times is not None and len(times) == REJECTS and now - times[0] <= 2 * _MEMORY and now - times[-1] <= _MEMORY
        )

    def reject(self, node: str, now: Seconds) -> None:
        """Note that a node was turned away."""
        times = self._rejects.pop(node, None) or deque(maxlen=REJECTS)
        times.append(now)
        self._rejects[node] = times  # the last one: the first is the one to forget
        if len(self._rejects) > _REMEMBERED:
            del self._rejects[next(iter(self._rejects))]

    def spend(self, node: str, now: Seconds) -> None:
        """Account for one message of a node. Raises QueueFull when it sends more than its share."""
        level, then = self._levels.get(node, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        if level < 1:
            self._levels[node] = (level, now)
            raise QueueFull(f"node {node[:12]} sends more than {self._rate:.0f} messages a second", retry_after=1.0)
        self._levels[node] = (level - 1, now)
        if len(self._levels) > _REMEMBERED:
            del self._levels[next(iter(self._levels))]

    def permit(self, node: str, method: str, roles: Collection[RoleName]) -> None:
        """Raise PermissionDenied unless a node has one of the roles that may call a method."""
        mine = self._roster(node)
        if mine is None or not set(mine) & set(roles):
            has = f"has {', '.join(sorted(mine))}" if mine else "has no role"
            needs = ", ".join(sorted(roles)) or "no other host's"
            raise PermissionDenied(
                f"method {method!r} is for nodes with a role of: {needs}; node {node[:12]} {has}",
                fix="give the node the role it needs, or call from one that has it",
            )
