import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import MESSAGES

from tetherd.errors import BadFrame, Failure, TetherError, Unimplemented
from tetherd.types import Tensor
from tetherd.wire.catalog import Chunk, PutBlob
from tetherd.wire.frames import CALL, CANCEL, FAILURE, MAX_HEADER, MAX_RANK, REPLY, Codec, Header
from tetherd.wire.messages import Batch, Done, Finished, Infer, Inferred, Report, Take

CODEC = Codec()

texts = st.text(max_size=12)
tensors = st.builds(
    Tensor,
    texts,
    st.sampled_from(["FP32", "BYTES", "BOOL", "made up"]),
    st.lists(st.integers(0, 2**62), max_size=4).map(tuple),
    st.binary(max_size=40),
)
details = st.dictionaries(texts, st.one_of(st.none(), st.integers(-(2**31), 2**31), texts, st.booleans()), max_size=3)
failures = st.builds(Failure, texts, texts, texts, st.booleans(), st.none() | st.floats(0, 10), details)
finished = st.builds(
    Finished, st.integers(0, 2**63 - 1), st.lists(tensors, max_size=3), st.none() | failures, st.integers(0, 2**40)
)
samples: st.SearchStrategy[Any] = st.one_of(
    st.builds(Infer, texts, texts, st.integers(1, 9), texts, st.lists(tensors, max_size=4), st.integers(0, 2**40)),
    st.builds(Inferred, st.lists(tensors, max_size=3), texts),
    finished,
    st.builds(Batch, st.integers(0, 2**63 - 1), st.lists(tensors, max_size=3), st.lists(texts, max_size=3)),
    st.builds(Take, texts, texts, texts, st.integers(1, 9), texts, st.integers(1, 99), st.none() | finished),
    st.builds(PutBlob, texts, st.integers(0, 2**62), st.integers(0, 2**62), tensors),
    st.builds(Chunk, st.integers(0, 2**62), tensors),
)


def frame(kind: int, message: Any, **header: Any) -> bytes:
    return b"".join(bytes(part) for part in CODEC.encode(kind, Header(**{"call": 7} | header), message))


def head(raw: bytes, *, length: int | None = None, kind: int = CALL) -> bytes:
    return struct.pack("<4sBBHI", b"TTHR", 1, kind, 0, len(raw) if length is None else length) + raw


def decode(data: bytes, kind: Any) -> Any:
    codec = Codec()
    return codec.message(codec.split(data), kind)


@given(samples, st.integers(0, 2**63 - 1), st.integers(0, 2**31), texts)
def test_every_message_comes_back_as_it_was(message: Any, call: int, remaining: int, request_id: str) -> None:
    data = frame(CALL, message, call=call, method="m", remaining_ms=remaining, request_id=request_id)
    split = CODEC.split(data)
    got = CODEC.message(split, type(message))
    assert got == message
    assert (split.kind, split.header.call, split.header.method) == (CALL, call, "m")
    assert (split.header.remaining_ms, split.header.request_id) == (remaining, request_id)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_every_class_comes_back_as_it_was(kind: Any, data: st.DataObject) -> None:
    message = data.draw(values(kind))
    assert decode(frame(REPLY, message), kind) == message


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Build a message of whatever class from its own declaration, so that a new one is tested without being named."""
    fields = msgspec.structs.fields(kind)
    return st.builds(kind, *(of(field.type) for field in fields))


def of(kind: Any) -> st.SearchStrategy[Any]:
    origin, arguments = getattr(kind, "__origin__", None), getattr(kind, "__args__", ())
    simple = {
        Tensor: tensors,
        Failure: failures,
        str: texts,
        bytes: st.binary(max_size=40),
        float: st.floats(-1e9, 1e9),
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**63 - 1),
    }
    if kind in simple:
        return simple[kind]
    if bounds := getattr(kind, "__metadata__", ()):
        return within(origin, *bounds)
    if getattr(kind, "__supertype__", None):
        return of(kind.__supertype__)
    if origin is list:
        return st.lists(of(arguments[0]), max_size=2)
    if origin is tuple:
        return st.lists(of(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return details if Any in arguments else st.dictionaries(of(arguments[0]), of(arguments[1]), max_size=3)
    if str(origin) == "typing.Literal":
        return st.sampled_from(arguments)
    if type(None) in arguments:
        return st.none() | of(next(one for one in arguments if one is not type(None)))
    assert isinstance(kind, type), kind
    return values(kind)


def within(kind: type, bounds: msgspec.Meta) -> st.SearchStrategy[Any]:
    if kind is int:
        return st.integers(bounds.ge, bounds.le)
    assert kind is bytes
    return st.binary(min_size=bounds.min_length or 0, max_size=bounds.max_length)


def test_data_is_neither_copied_nor_looked_at() -> None:
    data = bytearray(b"\x80\x04\x95pickle is bytes")
    tensor = Tensor("x", "UINT8", (len(data),), data)
    parts = CODEC.encode(CALL, Header(1), Chunk(1, tensor))
    assert parts[1] is data
    got = decode(b"".join(bytes(part) for part in parts), Chunk)
    assert isinstance(got.data.data, memoryview)
    assert bytes(got.data.data) == bytes(data)


@given(samples)
@settings(max_examples=15, deadline=None)
def test_a_frame_cut_anywhere_is_refused(message: Any) -> None:
    data = frame(CALL, message)
    for end in range(len(data)):
        with pytest.raises(BadFrame):
            decode(data[:end], type(message))


@given(samples, st.binary(min_size=1, max_size=9))
def test_bytes_after_the_end_are_refused(message: Any, rest: bytes) -> None:
    with pytest.raises(BadFrame, match="follow the last tensor"):
        decode(frame(CALL, message) + rest, type(message))


@given(st.binary(max_size=200), st.sampled_from(MESSAGES))
def test_any_bytes_are_refused_or_understood(data: bytes, kind: Any) -> None:
    for attempt in (data, head(data), head(b"\x95\x01\xa1m\x00\xa0" + data)):
        try:
            decode(attempt, kind)
        except TetherError as error:
            assert isinstance(error, BadFrame | Unimplemented)  # noqa: PT017


@given(samples, st.data())
@settings(deadline=None)
def test_a_changed_byte_is_refused_or_understood(message: Any, data: st.DataObject) -> None:
    changed = bytearray(frame(CALL, message))
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(changed), type(message))
    except TetherError as error:
        assert isinstance(error, BadFrame | Unimplemented)  # noqa: PT017


@given(samples, st.sampled_from(MESSAGES))
def test_a_message_of_another_class_is_refused_or_looks_alike(message: Any, kind: Any) -> None:
    try:
        got = decode(frame(CALL, message), kind)
    except BadFrame:
        return
    assert isinstance(got, kind)


PREFIX = b"\x95\x01\xa5infer\x00\xa0"
INFER = b"\x97\xa1r\xa1m\x01\xa1v"
FAILED = b"\x95\x01\xa0\x00\xa0\x83\xa4code\xa1a\xa7message\xa1b\xa7details"
NESTED = b"\x91" * 1000 + b"\xc0"

BAD = {
    "header length 2^32-1": (head(b"\x91\x01", length=2**32 - 1), Infer),
    "header beyond the limit": (head(b"\xc0" * (MAX_HEADER + 1)), Infer),
    "unknown kind": (head(b"\x91\x01", kind=9), Infer),
    "reserved bytes": (b"TTHR\x01\x01\x01\x00" + bytes(4), Infer),
    "another protocol": (b"HTTP/1.1 400 Bad Request", Infer),
    "array of 2^32-1 header": (head(b"\xdd\xff\xff\xff\xff"), Infer),
    "array of 2^32-1 inputs": (head(PREFIX + INFER + b"\xdd\xff\xff\xff\xff" + b"\xc0" * 40), Infer),
    "string of 2^32-1": (head(PREFIX + b"\x97\xdb\xff\xff\xff\xff"), Infer),
    "bytes of 2^32-1": (head(PREFIX + INFER + b"\x91\xc6\xff\xff\xff\xff\x00\x00"), Infer),
    "map of 2^32-1": (head(FAILED + b"\xdf\xff\xff\xff\xff\xa1a\xc0"), Failure),
    "tensor of 2^63": (
        head(PREFIX + INFER + b"\x91\x94\xa1x\xa4FP32\x91\x01\xcf\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
        Infer,
    ),
    "tensor of -1": (head(PREFIX + INFER + b"\x91\x94\xa1x\xa4FP32\x91\x01\xff\x00\x00"), Infer),
    "tensor with a negative dimension": (head(PREFIX + INFER + b"\x91\x94\xa1x\xa4FP32\x91\xff\x00\x00\x00"), Infer),
    "tensor with a fractional dimension": (
        head(PREFIX + INFER + b"\x91\x94\xa1x\xa4FP32\x91\xca\x00\x00\x00\x00\x00\x00\x00"),
        Infer,
    ),
    "tensor of too many dimensions": (
        head(PREFIX + INFER + b"\x91\x94\xa1x\xa4FP32\xdc\x00" + bytes([MAX_RANK + 1]) + bytes(MAX_RANK + 4)),
        Infer,
    ),
    "tensor that is an extension": (head(PREFIX + INFER + b"\x91\xd4\x01\x02\x00\x00"), Infer),
    "tensor that is a map": (head(PREFIX + INFER + b"\x91\x81\x01\x02\x00\x00"), Infer),
    "tensor that is nested": (head(PREFIX + INFER + b"\x91" + NESTED + b"\x00\x00"), Infer),
    "header that is nested": (head(b"\x95\x01\xa0\x00\xa0" + b"\x91" * 100_000 + b"\xc0"), Infer),
    "details that are nested": (head(FAILED + b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0"), Failure),
    "details with keys that are no text": (head(FAILED + b"\x81\x01\xc0"), Failure),
    "text that is not UTF-8": (head(PREFIX + b"\x97\xa1\xff\xa1m\x01\xa1v\x90\x00\x00"), Infer),
    "method that is not UTF-8": (head(b"\x92\x01\xa1\xff"), Infer),
    "nothing": (b"", Infer),
    "no message": (head(b"\x91\x01"), Infer),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_frames_are_refused_without_memory_for_them(name: str) -> None:
    data, kind = BAD[name]
    tracemalloc.start()
    try:
        with pytest.raises(BadFrame):
            decode(data, kind)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_map_that_claims_a_million_keys_costs_what_its_bytes_cost() -> None:
    count = 1_000_000
    entries = b"".join(b"\xa4" + struct.pack("<I", 0x20202020 + index * 0x01)[:4] + b"\xc0" for index in range(200))
    raw = FAILED + b"\xdf" + struct.pack(">I", count) + entries
    tracemalloc.start()
    try:
        with pytest.raises(BadFrame):
            decode(head(raw), Failure)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_another_protocol_version_is_told_from_garbage() -> None:
    with pytest.raises(Unimplemented, match="version 2"):
        CODEC.split(b"TTHR\x02\x01\x00\x00" + bytes(4))


def test_what_was_added_later_may_be_missing_and_what_is_unknown_is_ignored() -> None:
    old = head(PREFIX + b"\x95\xa1r\xa1m\x01\xa1v\x90")
    assert decode(old, Infer) == Infer("r", "m", 1, "v", [])  # type: ignore[arg-type]
    new = head(PREFIX + b"\x98\xa1r\xa1m\x01\xa1v\x90\x00\x00\xa3new")
    assert decode(new, Infer) == Infer("r", "m", 1, "v", [])  # type: ignore[arg-type]


def test_a_failure_is_read_as_one() -> None:
    failure = Failure("QUEUE_FULL", "full", "wait", True, 1.5, {"limit": 3})
    assert CODEC.failure(CODEC.split(frame(FAILURE, failure))) == failure
    assert decode(frame(CANCEL, Done()), Done) == Done()


def test_only_tensors_have_a_place_beside_plain_values() -> None:
    with pytest.raises(NotImplementedError):
        CODEC.encode(REPLY, Header(1), Report("w", "n", object(), 0, 1))  # type: ignore[arg-type]
    tensor = Tensor("x", "UINT8", (1,), b"1")
    assert decode(frame(REPLY, Chunk(1, tensor)), Chunk).data == tensor  # what failed before left nothing behind
