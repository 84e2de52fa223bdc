"""The preface is exactly one sequence of 40 bytes per ticket, and the messages survive the frame codec."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tetherd.errors import BadFrame
from tetherd.types import ROLES
from tetherd.wire.frames import CALL, Codec, Header
from tetherd.wire.relay import (
    PREFACE_SIZE,
    TICKET_SIZE,
    Admission,
    AwaitRelay,
    OpenRelay,
    Summoned,
    Summons,
    opening,
    preface,
    read_preface,
)


@given(st.binary(min_size=TICKET_SIZE, max_size=TICKET_SIZE))
def test_a_ticket_travels_in_a_preface(ticket: bytes) -> None:
    assert read_preface(preface(ticket)) == ticket
    assert len(preface(ticket)) == PREFACE_SIZE


@given(st.binary(max_size=64))
def test_anything_else_is_none(data: bytes) -> None:
    with pytest.raises(BadFrame):
        read_preface(data)


@given(st.integers(0, 7), st.integers(1, 255), st.binary(min_size=TICKET_SIZE, max_size=TICKET_SIZE))
def test_nor_is_one_with_another_start(at: int, change: int, ticket: bytes) -> None:
    data = bytearray(preface(ticket))
    data[at] ^= change
    with pytest.raises(BadFrame):
        read_preface(bytes(data))


@given(st.binary(min_size=TICKET_SIZE, max_size=TICKET_SIZE), st.integers(0, PREFACE_SIZE))
def test_its_first_bytes_tell_how_many_there_will_be(ticket: bytes, size: int) -> None:
    assert opening(preface(ticket)[:size]) == (PREFACE_SIZE if size >= 8 else 8)


@given(st.binary(min_size=8, max_size=64))
def test_what_begins_otherwise_never_becomes_one(data: bytes) -> None:
    assume(not preface(bytes(TICKET_SIZE)).startswith(data[:8]))
    with pytest.raises(BadFrame):
        opening(data)


@pytest.mark.parametrize("size", range(PREFACE_SIZE))
def test_nor_a_part_of_one(size: int) -> None:
    with pytest.raises(BadFrame):
        read_preface(preface(bytes(TICKET_SIZE))[:size])


@pytest.mark.parametrize(
    "message",
    [
        OpenRelay("a" * 64, "bulk"),
        Admission(bytes(32), 7446),
        AwaitRelay(),
        Summoned(7446, []),
        Summoned(7446, [Summons(bytes(range(32)), "rpc")]),
    ],
)
def test_messages_travel(message: object) -> None:
    codec = Codec()
    data = b"".join(codec.encode(CALL, Header(1), message))
    assert codec.message(codec.split(data), type(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Admission(b"", 7446),
        Admission(bytes(33), 7446),
        Admission(bytes(32), 0),
        Summoned(65536, []),
        Summoned(7446, [Summons(bytes(31), "rpc")]),
    ],
)
def test_no_message_has_a_ticket_or_a_port_that_is_none(message: object) -> None:
    codec = Codec()
    data = b"".join(codec.encode(CALL, Header(1), message))
    with pytest.raises(BadFrame):
        codec.message(codec.split(data), type(message))


def test_a_service_is_one_of_those_there_are() -> None:
    codec = Codec()
    data = b"".join(codec.encode(CALL, Header(1), OpenRelay("a" * 64, "127.0.0.1:22")))  # type: ignore[arg-type]
    with pytest.raises(BadFrame):
        codec.message(codec.split(data), OpenRelay)


def test_any_member_may_open_and_only_those_that_serve_may_wait() -> None:
    assert frozenset(ROLES) == OpenRelay.ROLES
    assert frozenset({"orchestrator", "manager", "gateway"}) == AwaitRelay.ROLES
