"""What nodes ask each other about nothing but each other: are you there, what time is it, which version are you."""

from typing import Final

from tetherd.types import ROLES, Seconds
from tetherd.wire.messages import Message, Request

MAX_PAD: Final = 16 * 1024
"""Several of the largest packets that a network carries."""


class Pong(Message):
    """The reply to Ping: the node's own clock (seconds since the epoch), its version of Tether, the padding again."""

    wall: Seconds
    version: str
    pad: bytes = b""


class Ping(Request[Pong]):
    """Ask a node for a sign of life. ``pad``: at most MAX_PAD bytes, to see whether large packets arrive."""

    pad: bytes = b""

    METHOD = "node.ping"
    REPLY = Pong
    ROLES = frozenset(ROLES)
    REPEATABLE = True
