"""What a node says of itself by multicast, and what the process that listens for it reports to the daemon.

An announcement holds a tag of its network, its node id and its ports: no names, no models, no versions.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final, TypeAlias

import msgspec

from tetherd.discovery.addresses import MIN_PORT, Address
from tetherd.discovery.hints import Drop
from tetherd.errors import InvalidInput
from tetherd.types import Seconds, parse_node

SERVICE: Final = "_tether._udp.local."
MAX_LINE: Final = 16 * 1024
"""Bytes of one message between the daemon and its listener."""

PORTS: Final = ("rpc", "bulk", "dht", "enrol")
"""What may be announced. ``rpc`` is the service's own port; the others are in its text."""

_LABEL: Final = 32
_FIX: Final = "this is made by tetherd itself; another program announces under its name"


class Announcement(msgspec.Struct, frozen=True):
    """Which network, which node, and its ports by service."""

    tag: str
    node: str
    ports: dict[str, int]

    def text(self) -> dict[str, str]:
        """Return the entries of its TXT record."""
        others = {name: str(port) for name, port in self.ports.items() if name != "rpc"}
        return {"net": self.tag, "node": self.node, **others}


class Orders(msgspec.Struct, frozen=True):
    """What the listening process is to do. Without a port for ``rpc`` it listens and announces nothing.

    ``interfaces``: addresses of those to use, none = all. ``addresses``: what to announce, none = those of the
    interfaces that others can reach.
    """

    tag: str
    node: str
    ports: dict[str, int] = {}
    interfaces: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


class Found(msgspec.Struct, frozen=True, tag=True):
    """An instance announced a node of this network at ``addresses`` (``host:port`` of its RPC listener)."""

    instance: str
    node: str
    addresses: tuple[str, ...]
    ports: dict[str, int]
    ttl: Seconds


class Gone(msgspec.Struct, frozen=True, tag=True):
    """An instance said goodbye, or somebody did in its name; or it was not heard again in time."""

    instance: str
    node: str


class Turned(msgspec.Struct, frozen=True, tag=True):
    """Something was heard and not used."""

    drop: Drop


class Tally(msgspec.Struct, frozen=True, tag=True):
    """Counts since the listening process started: what was sent, heard and dropped (by reason).

    ``own``: how often its own announcement came back, which shows that multicast works on this host at all.
    ``fault``: why it cannot listen or send, in words.
    """

    interfaces: tuple[str, ...] = ()
    sent: int = 0
    heard: int = 0
    own: int = 0
    known: int = 0
    dropped: dict[str, int] = {}
    fault: str = ""


Report: TypeAlias = Found | Gone | Turned | Tally


def network_tag(network: str) -> str:
    """Return the tag of a network in announcements: 8 hexadecimal digits, enough to tell neighbours apart."""
    return sha256(f"tether-mdns-1|{network}".encode()).hexdigest()[:8]


def instance_of(node: str) -> str:
    """Return the instance name under which a node announces itself; the same after a restart."""
    return f"{node[:_LABEL]}.{SERVICE}"


def server_of(node: str) -> str:
    """Return the host name under which a node announces its addresses."""
    return f"tether-{node[:_LABEL]}.local."


def read(text: Mapping[bytes, bytes | None], port: int | None) -> Announcement:
    """Read the entries of a TXT record and the port of its service. Raises InvalidInput."""
    tag, node = _entry(text, b"net", 8), _entry(text, b"node", 64)
    if len(tag) != 8 or set(tag) - set("0123456789abcdef"):
        raise InvalidInput("its network tag is not 8 hexadecimal digits", fix=_FIX)
    ports = {"rpc": _port(str(port or 0))}
    for name in PORTS[1:]:
        if name.encode() in text:
            ports[name] = _port(_entry(text, name.encode(), 5))
    return Announcement(tag, parse_node(node), ports)


def endpoints(hosts: tuple[str, ...], port: int) -> tuple[str, ...]:
    """Return ``host:port`` for each host."""
    return tuple(str(Address(host, port)) for host in hosts)


def encode(message: Orders | Report) -> bytes:
    """Return a message as one line."""
    return msgspec.json.encode(message) + b"\n"


def decode_orders(line: bytes) -> Orders:
    """Read the line that a listening process is started with. Raises msgspec.DecodeError."""
    return msgspec.json.decode(line, type=Orders)


def decode_report(line: bytes) -> Report:
    """Read one line of a listening process. Raises msgspec.DecodeError."""
    report: Report = msgspec.json.decode(line, type=Report)
    return report


def _entry(text: Mapping[bytes, bytes | None], name: bytes, longest: int) -> str:
    value = text.get(name) or b""
    if not value or len(value) > longest or not value.isascii():
        raise InvalidInput(f"its entry {name.decode()!r} is missing or no {longest} characters of ASCII", fix=_FIX)
    return value.decode()


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and MIN_PORT <= int(text) <= 65535):
        raise InvalidInput(f"{text!r} is not a port from {MIN_PORT} to 65535", fix=_FIX)
    return int(text)
