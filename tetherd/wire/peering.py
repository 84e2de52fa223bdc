"""What nodes ask each other about nothing but each other: are you there, what time is it, which version are you."""

from tetherd.types import ROLES, Seconds
from tetherd.wire.messages import Message, Request


class Pong(Message):
    """The reply to Ping: the node's own clock (seconds since the epoch) and its version of Tether."""

    wall: Seconds
    version: str


class Ping(Request[Pong]):
    """Ask a node for a sign of life."""

    METHOD = "node.ping"
    REPLY = Pong
    ROLES = frozenset(ROLES)
    REPEATABLE = True
