"""Decides about this host's place in its network: when to renew, what it does, whom it dials, whom a word means."""

from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from tetherd.errors import InvalidInput, NodeNotFound
from tetherd.types import Credentials, RoleName, Seconds
from tetherd.wire.roster import Member, Roster, SignedRoster

JITTER: Final = 0.1
RETRY: Final[Seconds] = 3600.0
SPREAD: Final[Seconds] = 10.0
"""Within how long the members of a network come for certificates under its next root."""

PAUSE: Final[Seconds] = 5.0
"""After a renewal the next one waits at least so long, whatever the certificate says that came."""

FIRST_RETRY: Final[Seconds] = 15.0
WARN: Final[Seconds] = 48 * 3600.0
ALARM: Final[Seconds] = 12 * 3600.0
SHORTEST: Final = 4
"""Digits of an id that name a node, if no other's begins with them."""

CALLED: Final[tuple[RoleName, ...]] = ("orchestrator", "manager")
"""Roles that others call."""

DIALABLE: Final[frozenset[RoleName]] = frozenset({"orchestrator", "manager", "relay"})
"""Roles that others dial; a host without one listens for nobody."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """This host as a node of its network.

    ``signed`` is ``roster`` as it came. ``issued`` and ``expires``: of this node's certificate, seconds since the
    epoch; ``outdated``: it is under a root that another one replaces. ``keys``: what members share, by epoch.
    ``founder``: the network's authority is on this host. ``here``: HOST:PORT where it takes connections now, if it
    takes any: the roster may still say where it was.
    """

    network: str
    node: str
    roster: Roster
    signed: SignedRoster
    credentials: Credentials
    issued: Seconds
    expires: Seconds
    outdated: bool = False
    keys: dict[int, bytes] = {}
    founder: bool = False
    here: tuple[str, ...] = ()

    @property
    def me(self) -> Member | None:
        """Return this node as the roster has it, None when it was sent away."""
        return self.roster.member(self.node)

    @property
    def moved(self) -> bool:
        """Whether the roster says that others dial this node where it is not any more."""
        return self.me is not None and bool(self.me.addresses) and set(self.me.addresses) != set(self.here)


def renewal(issued: Seconds, expires: Seconds, chance: float) -> Seconds:
    """Return when to renew: at half life, up to a tenth earlier or later by ``chance`` (0 to 1).

    So do nodes that joined together not all come together.
    """
    return issued + (expires - issued) * (0.5 + JITTER * (chance - 0.5))


def retry(attempts: int, chance: float) -> Seconds:
    """Return how long to wait after so many failed renewals: soon, then less and less often, then hourly."""
    return float(min(RETRY, FIRST_RETRY * 2 ** min(attempts, 16)) * (1 - JITTER * chance))


def urgency(expires: Seconds, now: Seconds) -> str:
    """Return ``warn`` or ``error`` when a certificate that should have been renewed long ago runs out soon."""
    left = expires - now
    return "error" if left < ALARM else "warn" if left < WARN else ""


def duties(configured: Collection[RoleName], assigned: Collection[RoleName]) -> tuple[RoleName, ...]:
    """Return what a member does: of what its configuration lets it do, that which the network gave it."""
    return tuple(role for role in configured if role in assigned)


def hosts(roster: Roster, role: RoleName, me: str) -> list[Member]:
    """Return the other members with a role that say where they can be dialled, those that joined first before."""
    found = [each for each in roster.members if role in each.roles and each.addresses and not each.revoked]
    return sorted((each for each in found if each.node != me), key=lambda each: (each.joined, each.node))


def primary(roster: Roster) -> Member | None:
    """Return the member whose manager writes the catalog, which the other managers follow: the first that joined."""
    return next(iter(hosts(roster, "manager", "")), None)


def authority(roster: Roster) -> Member | None:
    """Return the member that lets hosts in: the first that joined of all."""
    return min(roster.members, key=lambda each: (each.joined, each.node), default=None)


def dialable(roster: Roster, me: str) -> dict[str, tuple[str, ...]]:
    """Return the other members that say where they can be dialled, and where."""
    return {
        each.node: each.addresses for each in roster.members if each.addresses and each.node != me and not each.revoked
    }


def foundations(roster: Roster, roles: Collection[RoleName], me: str) -> tuple[tuple[bool, ...], str]:
    """Return what a host's composition rests on besides its own roles.

    That is whether anybody has the roles that it calls, and whom its manager follows. Who they are and where, it finds
    out as it runs: what its clients wait for does not end because somebody else came, went or moved.
    """
    there = tuple(bool(hosts(roster, role, me)) for role in CALLED if role not in roles)
    first = primary(roster) if "manager" in roles else None
    return there, first.node if first and first.node != me else ""


def spent(roster: Roster, lagging: Collection[str], now: Seconds) -> bool:
    """Tell whether the shared keys before the newest can go: all members have the next one, or their time is over."""
    replaced = [each.ends for each in roster.keys if each.ends]
    return bool(replaced) and (not lagging or now >= max(replaced))


def find(members: Iterable[Member], word: str) -> Member:
    """Return the member that ``word`` means: its name, its id, or the beginning of its id. Raises NodeNotFound."""
    listed = list(members)
    exact = [each for each in listed if word in (each.name, each.node)]
    found = exact or [each for each in listed if len(word) >= SHORTEST and each.node.startswith(word)]
    if not found:
        raise NodeNotFound(f"there is no node {word[:80]!r} in this network", fix="see tetherctl nodes ls")
    if len(found) > 1:
        names = ", ".join(each.node[:16] for each in found[:4])
        raise InvalidInput(f"{word[:80]!r} means several nodes: {names}", fix="write more of the node's id")
    return found[0]
