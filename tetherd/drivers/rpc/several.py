"""Calls of a role that several nodes have: they go to one of them, and to the next where that one is away."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from tetherd.drivers.rpc.reaching import CONNECT
from tetherd.errors import Unreachable
from tetherd.ports import Caller
from tetherd.types import RoleName, Seconds
from tetherd.wire.messages import Request

R = TypeVar("R")


class Connecting(Caller, Protocol):
    """A caller that knows whether it has a connection; ``patience``: how long a call waits for one."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        ...

    async def call(
        self, request: Request[R], *, deadline: Seconds, request_id: str = "", patience: Seconds = CONNECT
    ) -> R:
        """See ports.Caller."""
        ...


class Way(NamedTuple):
    """What people call a node, and the caller that leads there."""

    name: str
    caller: Connecting


class SeveralCaller:
    """Calls a role on the first of its nodes that is connected, and on the next ones where a node cannot be reached.

    Only requests of the kinds ``shared`` go to whoever is there: they may be repeated, and any node's answer will do.
    All others are for the first node alone. ``ways`` are in the order of preference, and may be replaced at any time.
    """

    def __init__(self, role: RoleName, shared: Collection[type[Request[Any]]], ways: Sequence[Way] = ()) -> None:
        self.ways = ways
        self._role = role
        self._shared = shared

    async def call(self, request: Request[R], *, deadline: Seconds, request_id: str = "") -> R:
        """Return the reply. Raises Unreachable where no node that may answer can be reached, and what a node raises."""
        lost = Unreachable(f"no node of the network is known to have the role {self._role}")
        ways = self._order(type(request))
        for number, way in enumerate(ways, 1):
            # Whoever lost its connection is not waited for while another one has one.
            patience = 0.0 if any(other.caller.connected for other in ways[number:]) else CONNECT
            try:
                return await way.caller.call(request, deadline=deadline, request_id=request_id, patience=patience)
            except Unreachable as error:
                lost = error
        if type(request) in self._shared or len(self.ways) < 2:
            raise lost
        first = self.ways[0].name
        raise Unreachable(
            f"only the {self._role} on {first} can do this: {lost.message}",
            fix=f"start the daemon on {first} again; what the others can answer, they answer meanwhile",
        )

    def _order(self, kind: type[Request[Any]]) -> Sequence[Way]:
        """Return whom to ask, one after the other: those last of whom it is known that they are away."""
        if kind not in self._shared:
            return self.ways[:1]
        return sorted(self.ways, key=lambda way: not way.caller.connected)
