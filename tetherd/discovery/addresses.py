"""Which addresses of peers may be dialled: parses them, refuses the dangerous ones with a reason, and counts dials.

Whoever is on the network can make us hear addresses. None of them may lead this host to itself, to a metadata service
or to a port that is not a peer's. Only what the operator wrote may be a name or lie on loopback.
"""

import ipaddress
from collections import deque
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final, TypeAlias

import msgspec

from tetherd.config.addresses import is_host, split
from tetherd.config.units import BadValue
from tetherd.errors import InvalidInput
from tetherd.types import Seconds

MAX_PER_NODE: Final = 8
"""Addresses that one source may give for one node."""

MAX_DIALS: Final = 32
DIAL_WINDOW: Final[Seconds] = 60.0
"""At most so many dials in so long of addresses that nobody proved: discovery must not become a port scan."""

MIN_PORT: Final = 1024
"""Ports below belong to other services (22, 25, 80 ...); a discovered address never needs one."""

_MAX_TEXT: Final = 80
_MAX_READ: Final = 64
_MAX_REFUSED: Final = 16
_METADATA: Final = frozenset(
    ipaddress.ip_address(text) for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)
"""Where clouds answer questions about a host's secrets, beyond the link-local range."""

_TRANSLATED: Final = tuple(
    ipaddress.IPv6Network(text) for text in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
)
"""IPv6 ranges that carry an IPv4 address inside: a filter on the outer one would not see where they lead."""

_Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class Address(msgspec.Struct, frozen=True, order=True):
    """Where a peer may be: an IP address in canonical form (or a name that the operator wrote) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def at(self, port: int) -> "Address":
        """Return another port of the same host."""
        return Address(self.host, port)


class Refused(msgspec.Struct, frozen=True):
    """An address that is not dialled, as it was given (shortened), and why."""

    text: str
    reason: str


class Sifted(msgspec.Struct, frozen=True):
    """Addresses that may be dialled, each once in the order given, and the first refused ones."""

    accepted: tuple[Address, ...] = ()
    refused: tuple[Refused, ...] = ()


def parse(text: str) -> Address:
    """Parse ``10.0.0.1:7443``, ``[fd00::1]:7443`` or ``host.example:7443``. Raises InvalidInput."""
    try:
        host, port = split(text)
    except BadValue as error:
        raise InvalidInput(str(error), fix='write it like "192.168.1.5:7443" or "[fd00::5]:7443"') from None
    if not is_host(host):
        raise InvalidInput(f"{host[:_MAX_TEXT]!r} is neither an IP address nor a name", fix="write an IP address")
    return Address(str(_ip(host) or host), port)


def refusal(address: Address, *, trusted: bool = False, loopback: bool = False, names: Collection[str] = ()) -> str:
    """Return why ``address`` is not dialled; empty if it may be.

    ``trusted``: the operator wrote it. ``loopback``: this node is itself on loopback only, and so are its peers.
    ``names``: those that may be looked up all the same.
    """
    ip = _ip(address.host)
    if trusted:
        return _never(ip) if ip else ""
    if ip is None and address.host not in names:
        return "a name, and only the operator's own are looked up"
    if address.port < MIN_PORT:
        return f"port {address.port} belongs to another service (discovered ports start at {MIN_PORT})"
    if ip is None or (loopback and ip.is_loopback):
        return ""
    return _never(ip) or _not_discovered(ip)


def sift(texts: Iterable[str], *, trusted: bool = False, loopback: bool = False, limit: int = MAX_PER_NODE) -> Sifted:
    """Part the addresses that one source gives for one node. Of an endless list the beginning is read.

    ``trusted`` and ``loopback`` are as in ``refusal``.
    """
    accepted: dict[Address, None] = {}
    refused: list[Refused] = []
    for text in islice(texts, _MAX_READ):
        try:
            address = parse(text)
            reason = refusal(address, trusted=trusted, loopback=loopback)
        except InvalidInput as error:
            refused.append(Refused(text[:_MAX_TEXT], error.message[: 2 * _MAX_TEXT]))
            continue
        if not reason and address not in accepted and len(accepted) >= limit:
            reason = f"more than {limit} addresses for one node"
        if reason:
            refused.append(Refused(text[:_MAX_TEXT], reason))
        else:
            accepted[address] = None
    return Sifted(tuple(accepted), tuple(refused[:_MAX_REFUSED]))


class DialBudget:
    """Counts dials of unproven addresses, at most ``limit`` in any ``window`` seconds."""

    def __init__(self, limit: int = MAX_DIALS, window: Seconds = DIAL_WINDOW) -> None:
        self._window = window
        self._dials: deque[Seconds] = deque(maxlen=limit)

    def take(self, now: Seconds) -> bool:
        """Count one dial if there is room for it; return whether there was."""
        if self.wait(now) > 0:
            return False
        self._dials.append(now)
        return True

    def wait(self, now: Seconds) -> Seconds:
        """Return how long to wait until the next dial is allowed; 0 = not at all."""
        if len(self._dials) < (self._dials.maxlen or 0):
            return 0.0
        return max(0.0, self._dials[0] + self._window - now)


def plain(host: str) -> str:
    """Return an IP address in canonical form, without a scope, and one of IPv4 as such."""
    return str(_ip(host.partition("%")[0]) or host)


def _ip(host: str) -> _Ip | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def _never(ip: _Ip) -> str:
    if ip.is_unspecified:
        return "the unspecified address is no host's"
    if ip.is_multicast or ip == ipaddress.IPv4Address("255.255.255.255"):
        return "a multicast or broadcast address is no single host's"
    return ""


def _not_discovered(ip: _Ip) -> str:
    if ip.is_loopback:
        return "loopback leads to this very host"
    if ip.is_link_local or (isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local):
        return "link-local addresses are where metadata services live"
    if ip in _METADATA:
        return "a cloud's metadata service"
    if isinstance(ip, ipaddress.IPv6Address):
        return "an IPv4 address hidden in an IPv6 one" if any(ip in network for network in _TRANSLATED) else ""
    return "a reserved address" if ip.is_reserved or ip in ipaddress.IPv4Network("0.0.0.0/8") else ""
