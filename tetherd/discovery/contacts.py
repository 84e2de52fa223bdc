"""Where nodes are, as they tell each other: id, IP address and port, packed to 38 bytes (IPv4) or 50 (IPv6)."""

from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final, NamedTuple, TypeAlias

from tetherd.discovery.ids import SIZE, number

Address: TypeAlias = tuple[str, int]
"""An IP address in canonical text and a port, as sockets take and give them."""

SIZE4: Final = SIZE + 6
SIZE6: Final = SIZE + 18


def is_six(address: Address) -> bool:
    """Tell whether an address is one of IPv6."""
    return ":" in address[0]


class Contact(NamedTuple):
    """A node that somebody says is at ``address``."""

    id: bytes
    number: int
    address: Address


@lru_cache(maxsize=2048)
def same(address: Address) -> Address:
    """Return an address as it was first seen: what is kept for long shares one copy of it."""
    return address


@lru_cache(maxsize=2048)
def pack_address(address: Address) -> bytes:
    """Return 6 bytes for IPv4, 18 for IPv6. Raises ValueError for anything else."""
    host, port = address
    if ":" in host:
        return IPv6Address(host.partition("%")[0]).packed + port.to_bytes(2)
    return bytes(int(part) for part in host.split(".")) + port.to_bytes(2)


def unpack_address(data: bytes) -> Address:
    """Return the address that ``pack_address`` packed."""
    host, port = data[:-2], int.from_bytes(data[-2:])
    return (".".join(map(str, host)) if len(host) == 4 else str(IPv6Address(host))), port


@lru_cache(maxsize=2048)
def unpack(data: bytes) -> Contact:
    """Return the contact of ``SIZE4`` or ``SIZE6`` bytes."""
    return Contact(data[:SIZE], number(data[:SIZE]), unpack_address(data[SIZE:]))


def split(near4: bytes, near6: bytes) -> list[bytes]:
    """Return the packed contacts that an answer carries, each once a whole one; what is left over is ignored."""
    found = [near4[at : at + SIZE4] for at in range(0, len(near4) - SIZE4 + 1, SIZE4)]
    if near6:
        found += [near6[at : at + SIZE6] for at in range(0, len(near6) - SIZE6 + 1, SIZE6)]
    return found
