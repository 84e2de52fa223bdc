"""What roles need from the outside, as small Protocols owned by the roles. Drivers implement them; testing fakes them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

from tetherd.types import Seconds, Signature, Tensor
from tetherd.wire.messages import Request

R = TypeVar("R")


class Peer(Protocol):
    """Who sent a request. ``id`` is unique for the life of a connection; ``None`` stands for this very process."""

    @property
    def id(self) -> int | None: ...


class Context:
    """What travels beside a request: who sent it, until when it matters, and the id that its log lines carry."""

    __slots__ = ("deadline", "peer", "request_id")

    def __init__(self, deadline: Seconds, peer: int | None = None, request_id: str = "") -> None:
        self.deadline = deadline
        self.peer = peer
        self.request_id = request_id


Handler: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
"""Answers one method: takes the request message and its context, returns the reply message or raises TetherError."""


class Role(Protocol):
    """A duty a host can be assigned."""

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what this role answers, by request class."""
        ...

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; call ``ready`` once when requests can be served."""
        ...


class Caller(Protocol):
    """Calls another role, in this process or another, without the caller knowing which."""

    async def call(self, request: Request[R], *, deadline: Seconds, request_id: str = "") -> R:
        """Return the reply. ``deadline`` is on the monotonic clock. Raises what the callee raised, or Unreachable."""
        ...


class Clock(Protocol):
    """Time. Roles never read it any other way."""

    def monotonic(self) -> Seconds: ...

    def wall(self) -> Seconds: ...


class Engine(Protocol):
    """One loaded model version, able to execute batches; not thread-safe."""

    @property
    def signature(self) -> Signature: ...

    def execute(self, inputs: list[Tensor], budget: Seconds) -> list[Tensor]:
        """Return the outputs in signature order. Raises InvalidInput, ExecutionFailed, DeadlineExceeded."""
        ...
