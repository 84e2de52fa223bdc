"""What is said to a router to have ports mapped: NAT-PMP (RFC 6886) and PCP (RFC 6887), as far as they are needed.

Whoever can send a datagram in the router's name writes the answers: every field is checked, and none is believed here.
"""

import ipaddress
import struct
from typing import Final, Literal, TypeAlias

import msgspec

from tetherd.errors import InvalidInput

Method: TypeAlias = Literal["pcp", "nat-pmp", "upnp"]
Transport: TypeAlias = Literal["tcp", "udp"]

PORT: Final = 5351
"""The UDP port of the router that is asked."""

NONCE: Final = 12
"""Bytes by which PCP tells who asked; whoever knows them may change the mapping."""

MAX_ANSWER: Final = 1100
"""Bytes of the longest answer there is."""

_PCP: Final = 2
_ANSWER: Final = 0x80
_EXTERNAL, _MAP = 0, 1
_OPCODES: Final[dict[Transport, int]] = {"udp": 1, "tcp": 2}
_PROTOCOLS: Final[dict[Transport, int]] = {"tcp": 6, "udp": 17}
_UNSUPPORTED: Final = 1

_PCP_ASK: Final = struct.Struct("!BBHI16s12sB3xHH16s")
_PCP_HEAD: Final = struct.Struct("!BBxBII12x")
_PCP_MAP: Final = struct.Struct("!12sB3xHH16s")
_PMP_ASK: Final = struct.Struct("!BBHHHI")
_PMP_HEAD: Final = struct.Struct("!BBHI")
_PMP_MAP: Final = struct.Struct("!HHI")

_PCP_REFUSALS: Final = {
    2: "it does not allow this host to map ports",
    3: "it did not understand the request",
    4: "it does not map ports",
    7: "it has no address outside itself now",
    8: "it has no room for more mappings",
    9: "it does not map this protocol",
    10: "it maps no more ports for this host",
    11: "it cannot give that port or address",
    12: "another router is between it and this host",
}
_PMP_REFUSALS: Final = {
    2: "it does not allow this host to map ports",
    3: "it has no address outside itself now",
    4: "it has no room for more mappings",
    5: "it does not map ports",
}


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping that is asked for: port ``outer`` of the router, if it can be that, is to lead to ``inner`` of ``me``.

    ``lifetime``: seconds; 0 = end the mapping. ``inner`` 0: only the router's outer address is asked for.
    """

    method: Method
    me: str
    transport: Transport = "tcp"
    inner: int = 0
    outer: int = 0
    lifetime: int = 0
    nonce: bytes = bytes(NONCE)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. ``refused``: why not, in words; empty = it was granted.

    ``unsupported``: the router does not speak ``method``, as it says by another one. ``external``: its outer address,
    where the answer has it. ``lifetime``: seconds the mapping is granted for, or after which it may be asked again.
    ``epoch``: seconds since the router began, None where it does not say. ``inner`` 0: it is about no single port.
    """

    method: Method
    transport: Transport = "tcp"
    inner: int = 0
    outer: int = 0
    external: str = ""
    lifetime: int = 0
    epoch: int | None = None
    nonce: bytes = b""
    refused: str = ""
    unsupported: bool = False


def encode(ask: Ask) -> bytes:
    """Return the datagram for a method that has datagrams."""
    if ask.method == "nat-pmp":
        if not ask.inner:
            return bytes((0, _EXTERNAL))
        # What ends a mapping names no outer port.
        outer = ask.outer if ask.lifetime else 0
        return _PMP_ASK.pack(0, _OPCODES[ask.transport], 0, ask.inner, outer, ask.lifetime)
    assert ask.method == "pcp", "upnp has no datagrams"
    protocol = _PROTOCOLS[ask.transport]
    anywhere = _mapped("0.0.0.0")  # noqa: S104  the router says which address it is
    me = _mapped(ask.me)
    return _PCP_ASK.pack(_PCP, _MAP, 0, ask.lifetime, me, ask.nonce, protocol, ask.inner, ask.outer, anywhere)


def decode(data: bytes) -> Answer:
    """Read a datagram of a router. Raises InvalidInput for anything but a whole answer."""
    if not 8 <= len(data) <= MAX_ANSWER:
        raise _malformed(f"{len(data)} bytes")
    version, opcode = data[0], data[1]
    if not opcode & _ANSWER:
        raise _malformed("no answer")
    if version == 0:
        return _nat_pmp(data, opcode & ~_ANSWER)
    if version == _PCP:
        return _pcp(data, opcode & ~_ANSWER)
    raise _malformed(f"version {version}")


def _nat_pmp(data: bytes, opcode: int) -> Answer:
    _, _, result, epoch = _PMP_HEAD.unpack_from(data)
    if result == _UNSUPPORTED:
        return Answer(method="pcp", epoch=epoch, refused="it speaks NAT-PMP alone", unsupported=True)
    refused = _PMP_REFUSALS.get(result, f"error {result}") if result else ""
    if opcode == _EXTERNAL:
        if refused:
            return Answer(method="nat-pmp", epoch=epoch, refused=refused)
        if len(data) != 12:
            raise _malformed(f"{len(data)} bytes for an address")
        return Answer(method="nat-pmp", epoch=epoch, external=str(ipaddress.IPv4Address(data[8:])))
    transport = next((name for name, code in _OPCODES.items() if code == opcode), None)
    if transport is None or len(data) != 16:
        raise _malformed(f"{len(data)} bytes of opcode {opcode}")
    inner, outer, lifetime = _PMP_MAP.unpack_from(data, 8)
    return Answer(
        method="nat-pmp",
        transport=transport,
        inner=inner,
        outer=outer,
        lifetime=lifetime,
        epoch=epoch,
        refused=refused,
    )


def _pcp(data: bytes, opcode: int) -> Answer:
    if len(data) < _PCP_HEAD.size or len(data) % 4:
        raise _malformed(f"{len(data)} bytes")
    _, _, result, lifetime, epoch = _PCP_HEAD.unpack_from(data)
    if result == _UNSUPPORTED:
        return Answer(method="nat-pmp", epoch=epoch, refused="it speaks PCP alone", unsupported=True)
    if opcode != _MAP or len(data) < _PCP_HEAD.size + _PCP_MAP.size:
        raise _malformed(f"{len(data)} bytes of opcode {opcode}")
    nonce, protocol, inner, outer, address = _PCP_MAP.unpack_from(data, _PCP_HEAD.size)
    transport = next((name for name, code in _PROTOCOLS.items() if code == protocol), None)
    external = ipaddress.IPv6Address(address).ipv4_mapped
    if transport is None or (external is None and not result):
        raise _malformed("another protocol than was asked for")
    return Answer(
        method="pcp",
        transport=transport,
        inner=inner,
        outer=outer,
        external=str(external or ""),
        lifetime=lifetime,
        epoch=epoch,
        nonce=nonce,
        refused=_PCP_REFUSALS.get(result, f"error {result}") if result else "",
    )


def _mapped(address: str) -> bytes:
    return bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(address).packed


def _malformed(what: str) -> InvalidInput:
    return InvalidInput(f"not an answer about port mappings: {what}", fix="restart the router, or update it")
