import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import InvalidInput
from tetherd.wire.endpoint import MAX_ADDRESSES, Endpoint, decode, encode
from tetherd.wire.records import MAX_VALUE


def test_what_is_told_is_read_back() -> None:
    said = Endpoint(("10.0.0.1:7443", "[fd00::1]:7443"), {"bulk": 7445, "dht": 7443})
    assert decode(encode(said)) == said


def test_it_fits_a_record_always() -> None:
    longest = Endpoint(tuple(f"{'a' * 250}{i}:7443" for i in range(20)))
    assert len(encode(longest)) <= MAX_VALUE
    assert len(decode(encode(Endpoint(tuple(f"10.0.0.{i}:1" for i in range(20))))).addresses) == MAX_ADDRESSES


@pytest.mark.parametrize(
    "value",
    [
        (["a"] * 9, {}),
        (["a" * 81], {}),
        (["a"], {"bulk": 0}),
        (["a"], {"bulk": 65536}),
        (["a"], {"b" * 17: 1}),
        (["a"], {str(i): 1 for i in range(9)}),
        ("a", {}),
        {"addresses": ["a"]},
        None,
    ],
)
def test_nonsense_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        decode(msgspec.msgpack.encode(value))


@given(st.binary(max_size=MAX_VALUE))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    try:
        found = decode(data)
    except InvalidInput:
        return
    assert len(found.addresses) <= MAX_ADDRESSES
