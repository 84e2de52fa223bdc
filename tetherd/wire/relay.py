"""What nodes and relays say to each other: two requests over RPC, and the preface of the connections that follow.

A node that others cannot dial keeps asking a relay who wants it (``AwaitRelay``). A node that wants it asks the relay
for a session (``OpenRelay``). Each side is given a ticket of its own, opens a TCP connection to the relay's port and
sends the ticket as the preface; from there on the relay carries bytes between the two and understands none of them:
the nodes speak TLS with each other through it. Tickets travel to their owners over mutual TLS, are good once and for
seconds. Whoever steals one on its way to the port gains a connection to a listener that demands a certificate.
"""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from tetherd.errors import BadFrame
from tetherd.types import ROLES
from tetherd.wire.messages import Message, Request

Service: TypeAlias = Literal["rpc", "bulk"]
"""The listeners of a node that a relay leads to, by name: nobody outside says an address."""

TICKET_SIZE: Final = 32
PREFACE_SIZE: Final = 40

Ticket: TypeAlias = Annotated[bytes, Meta(min_length=TICKET_SIZE, max_length=TICKET_SIZE)]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65535)]

_START: Final = b"TTHS\x01\x00\x00\x00"  # the name, the version, and zeros that a later version may give a meaning


class Admission(Message):
    """The reply to OpenRelay: the caller's ticket, and the port on the relay's host to bring it to."""

    ticket: Ticket
    port: Port


class OpenRelay(Request[Admission]):
    """Ask a relay for one connection to a service of ``target``, a node id.

    Raises PermissionDenied where either node is no member, Unavailable where the target does not wait at this relay or
    a limit is reached.
    """

    METHOD = "relay.open"
    REPLY = Admission
    ROLES = frozenset(ROLES)
    target: str
    service: Service = "rpc"


class Summons(Message):
    """Somebody wants a service of the node that waits: connect it, and bring this ticket to the relay."""

    ticket: Ticket
    service: Service


class Summoned(Message):
    """The reply to AwaitRelay: who wants the node (nobody: ask again), and the port to bring the tickets to."""

    port: Port
    summons: list[Summons]


class AwaitRelay(Request[Summoned]):
    """Wait at a relay for those who want this node; parked until there are some. Asking makes the node reachable.

    ``first``: answer at once, so that the node knows that it is taken in.
    """

    METHOD = "relay.await"
    REPLY = Summoned
    ROLES = frozenset({"orchestrator", "manager", "gateway"})
    first: bool = False


class Way(msgspec.Struct, frozen=True):
    """Where to connect at a relay, and what to send first."""

    host: str
    port: int
    preface: bytes


def preface(ticket: bytes) -> bytes:
    """Return the 40 bytes that open a connection to a relay's port."""
    assert len(ticket) == TICKET_SIZE
    return _START + ticket


def opening(data: bytes) -> int:
    """Return how many bytes a connection to a relay's port that begins so opens with. Raises BadFrame."""
    if len(data) < len(_START):
        return len(_START)
    if not data.startswith(_START):
        raise BadFrame("these are not the first bytes of a relayed connection")
    return PREFACE_SIZE


def read_preface(data: bytes) -> bytes:
    """Return the ticket in a preface. Raises BadFrame."""
    if len(data) != PREFACE_SIZE or not data.startswith(_START):
        raise BadFrame("these are not the first bytes of a relayed connection")
    return data[len(_START) :]
