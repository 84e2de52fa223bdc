"""What a worker and a runner process say to each other: one JSON document a line over the runner's standard streams."""

from typing import Literal, TypeAlias

import msgspec

from tetherd.types import Digest
from tetherd.wire.chunks import BlobSource, Ways


class Site(msgspec.Struct, frozen=True):
    """Where a role is: the address to dial, and the node to expect there, empty for this host."""

    address: str
    node: str = ""


def identity(site: Site) -> str:
    """Return what stays the same of a site when it moves: the node, or on this host the address."""
    return site.node or site.address


class Assignment(msgspec.Struct, frozen=True):
    """What a runner is to be: the version it loads, where it fetches it, and where it takes work from.

    ``sources``: managers of other hosts to fetch from; none = ask ``manager``. ``ways``: where else each of them can be
    dialled, by node. ``identity``: the directory of the credentials that this host shows them. ``manager_node``: the
    node to expect there, empty for this host.
    """

    runner: str
    worker: str
    model: str
    number: int
    version: Digest
    orchestrators: tuple[Site, ...]
    manager: str
    cache_dir: str
    threads: int
    memory_limit: int
    max_message: int
    keep: int = 32
    max_rows: int = 4096
    log_level: Literal["debug", "info", "warn", "error"] = "info"
    log_format: Literal["auto", "json", "pretty"] = "json"
    sources: tuple[BlobSource, ...] = ()
    identity: str = ""
    manager_node: str = ""
    ways: dict[str, Ways] = {}


class GiveUp(msgspec.Struct, frozen=True, tag="give up"):
    """Nobody waits for this batch any more: end its execution, or do not begin it."""

    batch: int


class Bearings(msgspec.Struct, frozen=True, tag="bearings"):
    """Where those are now that a runner deals with: all orchestrators, and the ways to its sources by node."""

    orchestrators: tuple[Site, ...]
    ways: dict[str, Ways] = {}


Told: TypeAlias = GiveUp | Bearings
"""What a runner hears after its assignment."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a runner tells its worker.

    ``fetching`` now and then while its files arrive; ``loaded`` once; ``failed`` with a reason before it exits;
    ``alive`` each second while it executes: resident bytes of its own, and batches executed since it started.
    """

    kind: Literal["fetching", "loaded", "failed", "alive"]
    reason: str = ""
    bytes: int = 0
    executed: int = 0


def encode(message: msgspec.Struct) -> bytes:
    """Return a message as one line."""
    return msgspec.json.encode(message) + b"\n"


def decode_event(line: bytes) -> Event:
    """Parse an event. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(line, type=Event)


def decode_told(line: bytes) -> Told:
    """Parse what a runner is told after its assignment. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(line, type=Told)  # type: ignore[no-any-return]


def decode_assignment(line: bytes) -> Assignment:
    """Parse an assignment. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(line, type=Assignment)
