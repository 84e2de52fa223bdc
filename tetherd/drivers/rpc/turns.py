"""What carries requests between processes, and who answers them: the same whatever the bytes travel over."""

from collections.abc import Iterable
from typing import Protocol

from tetherd.errors import TooLarge
from tetherd.types import Buffer


class Message:
    """What came: a frame, and its payloads where they came apart from it."""

    __slots__ = ("apart", "frame", "request")

    def __init__(self, request: int, frame: Buffer, apart: Buffer | None = None) -> None:
        self.request = request
        self.frame = frame
        self.apart = apart


class Turn(Protocol):
    """One request that is to be answered.

    ``node`` is who asks: a node id, or empty for this host. ``apart`` holds the frame's payloads where they are not
    behind it.
    """

    node: str

    @property
    def apart(self) -> Buffer | None:
        """Return the payloads of the request's frame where they came apart from it."""
        ...

    def answer(self, buffers: Iterable[Buffer] | None) -> None:
        """Send the answer, if any. Raises TooLarge, and may be called again then."""
        ...

    def hang_up(self) -> None:
        """End the connection that the request came over, at the next opportunity."""
        ...


class Desk(Protocol):
    """Who answers. Called on the event loop."""

    def greet(self, peer: int) -> None:
        """A connection began."""
        ...

    def begin(self, turn: Turn, data: Buffer, peer: int) -> None:
        """A request came; ``turn.answer`` is called once for it, sooner or later."""
        ...

    def forget(self, peer: int) -> None:
        """A connection ended; answers to it go nowhere."""
        ...


def too_large(size: int, limit: int) -> TooLarge:
    """Return the error of a message that the receiver would drop the connection for, without a word."""
    return TooLarge(f"a message of {size} bytes exceeds rpc.max_message ({limit} bytes)", fix="raise rpc.max_message")
