"""What is said to a router: the bytes of the two RFCs, and answers that nobody should believe."""

import struct
from ipaddress import IPv4Address
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import InvalidInput
from tetherd.wire.portmapping import MAX_ANSWER, NONCE, Answer, Ask, Transport, decode, encode

NONCES = bytes(range(NONCE))
ASK = Ask(method="pcp", me="192.168.1.2", inner=7443, outer=7444, lifetime=600, nonce=NONCES)
MAPPED = bytes(10) + b"\xff\xff"


def pcp(
    *,
    result: int = 0,
    opcode: int = 0x81,
    protocol: int = 6,
    address: bytes = MAPPED + b"\x0b\0\0\1",
    tail: bytes = b"",
) -> bytes:
    head = struct.pack("!BBBBII12x", 2, opcode, 0, result, 600, 77)
    return head + struct.pack("!12sB3xHH16s", NONCES, protocol, 7443, 7444, address) + tail


def nat_pmp(*, result: int = 0, opcode: int = 130) -> bytes:
    return struct.pack("!BBHIHHI", 0, opcode, result, 77, 7443, 7444, 600)


def test_a_request_of_pcp_is_as_the_rfc_has_it() -> None:
    sent = encode(ASK)
    assert len(sent) == 60
    assert sent[:8] == b"\x02\x01\0\0\0\0\x02\x58"
    assert sent[8:24] == MAPPED + IPv4Address("192.168.1.2").packed
    assert sent[24:36] == NONCES
    assert sent[36:44] == b"\x06\0\0\0\x1d\x13\x1d\x14"
    assert sent[44:] == MAPPED + bytes(4)


@pytest.mark.parametrize(("transport", "opcode"), [("udp", 1), ("tcp", 2)])
def test_a_request_of_nat_pmp_is_as_the_rfc_has_it(transport: Transport, opcode: int) -> None:
    ask = Ask(method="nat-pmp", me="10.0.0.2", transport=transport, inner=7443, outer=7444, lifetime=600)
    assert encode(ask) == bytes((0, opcode)) + b"\0\0\x1d\x13\x1d\x14\0\0\x02\x58"


def test_what_ends_a_mapping_of_nat_pmp_names_no_outer_port() -> None:
    assert encode(Ask(method="nat-pmp", me="10.0.0.2", inner=7443, outer=7444)) == b"\0\2\0\0\x1d\x13\0\0\0\0\0\0"
    assert encode(Ask(method="nat-pmp", me="10.0.0.2")) == b"\0\0"


def test_grants_are_read() -> None:
    granted = {"transport": "tcp", "inner": 7443, "outer": 7444, "lifetime": 600, "epoch": 77}
    assert decode(pcp(tail=bytes(8))) == Answer(method="pcp", external="11.0.0.1", nonce=NONCES, **granted)
    assert decode(nat_pmp()) == Answer(method="nat-pmp", **granted)
    assert decode(b"\0\x80\0\0\0\0\0\x4d\x0b\0\0\1") == Answer(method="nat-pmp", external="11.0.0.1", epoch=77)


@pytest.mark.parametrize("result", range(2, 20))
def test_every_refusal_has_words(result: int) -> None:
    assert decode(pcp(result=result, address=bytes(16))).refused
    assert decode(nat_pmp(result=result)).refused
    assert decode(b"\0\x80" + struct.pack("!HI", result, 77)).refused


def test_a_router_that_speaks_the_other_protocol_says_so() -> None:
    by_nat_pmp, by_pcp = decode(struct.pack("!BBHI", 0, 129, 1, 77)), decode(pcp(result=1))
    assert (by_nat_pmp.method, by_nat_pmp.unsupported) == ("pcp", True)
    assert (by_pcp.method, by_pcp.unsupported) == ("nat-pmp", True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        bytes(MAX_ANSWER + 1),
        encode(ASK),  # a question is no answer
        pcp()[:-1],
        pcp()[:-4],
        pcp(opcode=0x82),
        pcp(protocol=132),
        pcp(address=bytes(15) + b"\1"),
        pcp(tail=b"\0"),
        pcp(tail=bytes(MAX_ANSWER)),
        nat_pmp()[:-1],
        nat_pmp() + b"\0",
        nat_pmp(opcode=131),
        b"\0\x80\0\0\0\0\0\x4d\x0b\0\0",
        b"\x01" + pcp()[1:],
    ],
)
def test_anything_but_a_whole_answer_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(data)


LIKELY = st.builds(lambda head, rest: head + rest, st.sampled_from([pcp()[:24], pcp()[:4], nat_pmp()[:8]]), st.binary())


@given(st.binary(max_size=MAX_ANSWER + 8) | LIKELY)
def test_whatever_comes_is_read_within_bounds_or_refused(data: bytes) -> None:
    try:
        answer = decode(data)
    except InvalidInput:
        return
    assert answer.transport in get_args(Transport)
    assert 0 <= answer.inner <= 65535
    assert 0 <= answer.outer <= 65535
    assert 0 <= answer.lifetime < 2**32
    assert answer.nonce == b"" or len(answer.nonce) == NONCE
    if answer.external:
        IPv4Address(answer.external)
