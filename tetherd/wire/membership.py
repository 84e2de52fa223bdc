"""What nodes ask each other about the list of members: any node asks any that can be dialled."""

import msgspec

from tetherd.types import ROLES
from tetherd.wire.messages import Done, Message, Request
from tetherd.wire.roster import SignedRoster


class Rostered(Message):
    """The newest list of members that a node holds, and the keys that members share, by epoch."""

    roster: SignedRoster
    keys: dict[int, bytes] = msgspec.field(default_factory=dict)


class WatchRoster(Request[Rostered]):
    """Ask for the list of members; parked while its epoch is not beyond ``epoch`` (-1 = answer at once)."""

    METHOD = "roster.watch"
    REPLY = Rostered
    ROLES = frozenset(ROLES)
    REPEATABLE = True
    epoch: int = -1


class Resign(Request[Done]):
    """The calling node leaves the network. Raises NotInNetwork where the authority is on another host."""

    METHOD = "roster.resign"
    REPLY = Done
    ROLES = frozenset(ROLES)
    REPEATABLE = True
