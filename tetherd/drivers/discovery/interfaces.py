"""Under which addresses other hosts may reach this one, as far as it can tell by itself."""

import contextlib
import ipaddress
import socket
from collections.abc import Iterator

import ifaddr

from tetherd.wire.tokens import MAX_ADDRESSES

_FAR = ("192.0.2.1", "2001:db8::1")  # nobody: only the way there is asked for, and nothing is sent


def own_addresses() -> tuple[str, ...]:
    """Return this host's addresses, the one of its way out first; none of loopback or of one link alone."""
    listed = (str(ip.ip if ip.is_IPv4 else ip.ip[0]) for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    found = dict.fromkeys(text for text in (*_outgoing(), *listed) if _is_reachable(text))
    return tuple(found)[:MAX_ADDRESSES]


def has_ipv6() -> bool:
    """Tell whether this host has IPv6 at all, and not only a program that could speak it."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def all_addresses() -> frozenset[str]:
    """Return every address of this host, those of loopback too, without scopes."""
    listed = (ip.ip if ip.is_IPv4 else ip.ip[0] for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    return frozenset(str(ipaddress.ip_address(str(text).partition("%")[0])) for text in listed)


def _outgoing() -> Iterator[str]:
    for family, far in zip((socket.AF_INET, socket.AF_INET6), _FAR, strict=True):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            yield str(probe.getsockname()[0])


def _is_reachable(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    return not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast)
