"""Which connections a relay carries, for whom, how much and how long. Pure: time and tickets are arguments.

A session leads from the node that opened it to one that waits at the relay, never to an address. Both its tickets are
good once, each for its own side, for a few seconds. What a session carries is counted against whoever opened it: the
other side cannot help being asked.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from tetherd.errors import Forbidden, Unavailable
from tetherd.types import Seconds
from tetherd.wire.relay import Service, Summons

DAY: Final[Seconds] = 86400.0
PRESENT: Final[Seconds] = 2.0
"""How long a node that was answered may take to ask again before it counts as gone."""

_WORTHWHILE: Final = 0.01
"""The share of its daily bytes a node must have left to open a session; a session of less would be cut at once."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay gives: sessions at once, bytes of one session, and bytes that one node's sessions carry in a day."""

    sessions: int = 512
    sessions_per_node: int = 64
    session_bytes: int = 64 * 2**30
    node_bytes: int = 256 * 2**30
    idle: Seconds = 300.0
    ticket: Seconds = 10.0


class Session:
    """One connection through the relay, from ``dialer`` to a service of ``target``."""

    __slots__ = ("dialer", "id", "moved", "moved_at", "opened", "service", "target", "tickets")

    def __init__(self, number: int, dialer: str, target: str, service: Service, opened: Seconds) -> None:
        self.id = number
        self.dialer = dialer
        self.target = target
        self.service = service
        self.opened = opened
        self.moved = 0
        self.moved_at = opened
        self.tickets: set[bytes] = set()


class Relaying:
    """Decides for one relay. ``sessions`` holds those under way, by id, in the order they were opened."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._count = 0
        self._waiting: dict[str, int] = {}
        self._rested: dict[str, Seconds] = {}
        self._called: dict[str, list[tuple[Session, bytes]]] = {}
        self._owners: dict[bytes, Session] = {}
        self._used: dict[str, tuple[float, Seconds]] = {}
        self.sessions: dict[int, Session] = {}

    def arrive(self, node: str) -> None:
        """A node waits here (it may, more than once)."""
        self._waiting[node] = self._waiting.get(node, 0) + 1

    def leave(self, node: str, until: Seconds | None = None) -> None:
        """One wait of a node is over; it still counts as present ``until`` then, where it was answered."""
        self._waiting[node] -= 1
        if not self._waiting[node]:
            del self._waiting[node]
        if until is not None:
            self._rested[node] = until
        elif node not in self._waiting:
            self._rested.pop(node, None)

    def present(self, node: str, now: Seconds) -> bool:
        """Return whether a node can be reached through this relay."""
        return node in self._waiting or self._rested.get(node, now) > now

    def open(self, ends: tuple[str, str], service: Service, tickets: tuple[bytes, bytes], now: Seconds) -> Session:
        """Begin a session between ``ends``, a dialer and its target, whose fresh ``tickets`` are in the same order.

        Raises Unavailable where the target does not wait here or a limit is reached.
        """
        dialer, target = ends
        if not self.present(target, now):
            raise Unavailable(f"node {target[:16]} does not wait at this relay", retry_after=1.0)
        self._check(dialer, now)
        self._count += 1
        session = Session(self._count, dialer, target, service, now)
        session.tickets.update(tickets)
        self.sessions[session.id] = session
        self._owners.update(dict.fromkeys(tickets, session))
        self._called.setdefault(target, []).append((session, tickets[1]))
        return session

    def _check(self, dialer: str, now: Seconds) -> None:
        if len(self.sessions) >= self._limits.sessions:
            raise Unavailable("this relay carries as many connections as it may", retry_after=1.0)
        if sum(session.dialer == dialer for session in self.sessions.values()) >= self._limits.sessions_per_node:
            raise Unavailable(f"node {dialer[:16]} has all the connections it may through this relay", retry_after=1.0)
        missing = self._used_by(dialer, now) - self._limits.node_bytes * (1 - _WORTHWHILE)
        if missing > 0:
            raise Unavailable(
                f"node {dialer[:16]} has used up what this relay carries for one node in a day",
                fix="add a relay, or raise relay.daily_limit",
                retry_after=missing * DAY / self._limits.node_bytes,
            )

    def summons(self, node: str) -> list[Summons]:
        """Return who wants a node, each once."""
        called = self._called.pop(node, [])
        return [Summons(ticket, session.service) for session, ticket in called if ticket in self._owners]

    def claim(self, ticket: bytes, now: Seconds) -> int:
        """Take a ticket and return its session's id. Raises Forbidden for one that is used, too old or none of ours."""
        session = self._owners.pop(ticket, None)
        if session is None or now - session.opened > self._limits.ticket:
            raise Forbidden("this relay issued no such ticket, or it was used, or it is too old")
        session.tickets.discard(ticket)
        return session.id

    def moved(self, number: int, total: int, now: Seconds) -> None:
        """Count what a session has carried so far, both ways together."""
        session = self.sessions.get(number)
        if session is None or total <= session.moved:
            return
        used = self._used_by(session.dialer, now) + total - session.moved
        self._used[session.dialer] = (used, now)
        session.moved, session.moved_at = total, now

    def end(self, number: int) -> Session | None:
        """Forget a session; return it, or None where it is not known (any more)."""
        session = self.sessions.pop(number, None)
        if session is not None:
            for ticket in session.tickets:
                self._owners.pop(ticket, None)
        return session

    def overdue(self, now: Seconds, member: Callable[[str], bool]) -> list[tuple[int, str]]:
        """Return the sessions that must end now, and why. ``member`` tells whether a node may still take part."""
        self._forget(now)
        found = ((session.id, self._fault(session, now, member)) for session in self.sessions.values())
        return [(number, fault) for number, fault in found if fault]

    def _fault(self, session: Session, now: Seconds, member: Callable[[str], bool]) -> str:
        limits = self._limits
        if not (member(session.dialer) and member(session.target)):
            return "one end is no member of the network any more"
        if session.tickets and now - session.opened > limits.ticket:
            return "one end never came"
        if session.moved > limits.session_bytes:
            return "it carried as much as one connection may"
        if self._used_by(session.dialer, now) > limits.node_bytes:
            return "its opener used up what one node may in a day"
        return "nothing moved for too long" if now - session.moved_at > limits.idle else ""

    def _used_by(self, node: str, now: Seconds) -> float:
        """Return the bytes counted against a node; they are forgiven evenly over a day."""
        used, since = self._used.get(node, (0.0, now))
        return max(0.0, used - (now - since) * self._limits.node_bytes / DAY)

    def _forget(self, now: Seconds) -> None:
        """Drop what no longer makes a difference, so that nothing grows with the nodes that ever came."""
        self._used = {node: (used, now) for node in self._used if (used := self._used_by(node, now))}
        self._rested = {node: until for node, until in self._rested.items() if until > now}
        alive = ((node, [call for call in calls if call[1] in self._owners]) for node, calls in self._called.items())
        self._called = {node: calls for node, calls in alive if calls}
