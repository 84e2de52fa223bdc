"""The list of a network's members: what it says, its one encoding, and which of two replaces the other.

Signatures are checked in ``signing``: a roster that was only decoded proves nothing.
"""

from typing import Final

import msgspec

from tetherd.errors import MALFORMED, BadRoster, InvalidInput
from tetherd.types import RoleName, Seconds, parse_host_name, parse_node
from tetherd.wire.tokens import MAX_ADDRESSES, check_address

MAX_BYTES: Final = 8 * 2**20
MAX_MEMBERS: Final = 16384
MAX_LABELS: Final = 32
MAX_ROOTS: Final = 4
MAX_TIME: Final[Seconds] = 4e9
_FIX: Final = "if this goes on, leave the network and join again with a new token"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the network.

    ``roles``: what it may be and call as. ``addresses``: HOST:PORT where it takes RPC connections, as it said itself;
    empty for one that only dials. ``joined`` and ``revoked``: seconds since the epoch, 0 = never.
    """

    node: str
    name: str
    roles: tuple[RoleName, ...]
    addresses: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    joined: Seconds = 0.0
    revoked: Seconds = 0.0


class KeyEpoch(msgspec.Struct, frozen=True):
    """A key that members share, by its number and its SHA-256; the newest seals, every one listed opens.

    ``made`` and ``ends``: seconds since the epoch; from ``ends`` on it opens nothing, 0 = it is the newest.
    """

    epoch: int
    digest: bytes
    made: Seconds = 0.0
    ends: Seconds = 0.0


class Roster(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that every member must know of the others. ``epoch`` grows with every change.

    ``roots``: certificates (PEM) of the roots that members trust from here on; two while one replaces the other.
    ``issued``: when the change was made, seconds since the epoch. ``enrol``: HOST:PORT where certificates are renewed.
    """

    network: str
    name: str
    epoch: int
    issued: Seconds
    members: tuple[Member, ...]
    roots: tuple[str, ...]
    keys: tuple[KeyEpoch, ...] = ()
    enrol: tuple[str, ...] = ()

    def member(self, node: str) -> Member | None:
        """Return a member that may take part: one that is listed and was not revoked."""
        return next((each for each in self.members if each.node == node and not each.revoked), None)


class SignedRoster(msgspec.Struct, array_like=True, frozen=True):
    """A roster as it travels and is stored: canonical bytes, signature, and the signer's certificate (DER)."""

    body: bytes
    signature: bytes
    signer: bytes


def newer(held: Roster | None, offered: Roster) -> bool:
    """Decide whether ``offered`` replaces ``held``: never another network's, never an earlier one."""
    return held is None or (held.network == offered.network and offered.epoch > held.epoch)


def encode(roster: Roster) -> bytes:
    """Return the one encoding of a roster."""
    members = tuple(sorted(roster.members, key=lambda each: each.node))
    return msgspec.json.encode(msgspec.structs.replace(roster, members=members), order="sorted")


def decode(body: bytes) -> Roster:
    """Read what ``encode`` wrote; raise BadRoster for anything else, however close."""
    if len(body) > MAX_BYTES:
        raise BadRoster(f"a list of members has at most {MAX_BYTES} bytes, this has {len(body)}", fix=_FIX)
    try:
        roster = msgspec.json.decode(body, type=Roster)
        _check(roster)
    except MALFORMED as error:
        raise BadRoster(f"the list of members cannot be read: {error}", fix=_FIX) from None
    except InvalidInput as error:
        raise BadRoster(f"the list of members names what cannot be: {error.message}", fix=_FIX) from None
    if encode(roster) != body:
        raise BadRoster("the list of members is not in canonical form", fix=_FIX)
    return roster


def _check(roster: Roster) -> None:
    if len(roster.members) > MAX_MEMBERS or len(roster.roots) > MAX_ROOTS or roster.epoch < 1:
        raise InvalidInput("too many members or roots, or no epoch")
    if len(roster.enrol) > MAX_ADDRESSES:
        raise InvalidInput("too many addresses of its authority")
    for address in roster.enrol:
        check_address(address)
    if not 0 <= roster.issued <= MAX_TIME:
        raise InvalidInput("it was made at no possible time")
    if len({member.node for member in roster.members}) < len(roster.members):
        raise InvalidInput("a node is listed twice")
    parse_host_name(roster.name)
    for member in roster.members:
        parse_node(member.node)
        parse_host_name(member.name)
        if len(member.labels) > MAX_LABELS or len(member.addresses) > MAX_ADDRESSES:
            raise InvalidInput(f"too many labels or addresses for {member.name}")
        for address in member.addresses:
            check_address(address)
