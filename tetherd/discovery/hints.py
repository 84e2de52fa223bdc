"""What the sources of discovery say of peers, and why some of it was not used. All of it is hearsay, never identity."""

from collections import OrderedDict
from typing import Final, Literal, TypeAlias

import msgspec

from tetherd.types import Seconds

Source: TypeAlias = Literal["seed", "roster", "mdns", "dht", "memory"]
"""``seed``: the operator or the join token; ``roster``: what the node told the authority; ``memory``: where it once
proved its key."""

Reason: TypeAlias = Literal[
    "other-network", "version", "clock", "certificate", "address", "revoked", "not-a-member", "conflict", "full",
    "unreachable", "silent", "malformed", "self",
]  # fmt: skip
"""Why something that was heard is not used."""

MAX_TEXT: Final = 200


class Hint(msgspec.Struct, frozen=True, kw_only=True):
    """What one source says: this node may be reached at these addresses (``host:port`` of its RPC listener).

    ``node`` is empty for a seed whose node is not known yet. ``origin`` tells several speakers of one source apart (an
    mDNS instance, the sender of a record); the latest word of an origin replaces its earlier ones. ``ports``: other
    listeners on the same hosts, by service. ``ttl``: seconds it holds; 0 = until it is taken back.
    """

    source: Source
    addresses: tuple[str, ...]
    node: str = ""
    origin: str = ""
    ports: dict[str, int] = {}
    ttl: Seconds = 0.0


class Drop(msgspec.Struct, frozen=True):
    """Something that was heard and not used: why, in words, how often, and when last."""

    reason: Reason
    detail: str
    node: str = ""
    address: str = ""
    source: str = ""
    count: int = 1
    last: Seconds = 0.0


class Drops:
    """The latest drops, alike ones counted together; at most ``limit`` kinds are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[str, str, str], Drop] = OrderedDict()

    def add(self, drop: Drop) -> None:
        """Count one."""
        key = (drop.reason, drop.node, drop.address)
        before = self._kept.pop(key, None)
        count = drop.count + (before.count if before else 0)
        self._kept[key] = msgspec.structs.replace(
            drop, count=count, detail=drop.detail[:MAX_TEXT], address=drop.address[:MAX_TEXT]
        )
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def forget(self, reason: Reason, node: str = "", address: str = "") -> None:
        """Leave out a reason that holds no longer."""
        self._kept.pop((reason, node, address), None)

    def all(self) -> tuple[Drop, ...]:
        """Return them, the latest first."""
        return tuple(reversed(self._kept.values()))
