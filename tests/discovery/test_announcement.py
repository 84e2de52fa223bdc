import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.discovery.announcement import (
    MAX_LINE,
    Announcement,
    Found,
    Orders,
    Tally,
    decode_orders,
    decode_report,
    encode,
    endpoints,
    instance_of,
    network_tag,
    read,
)
from tetherd.errors import InvalidInput

NODE = "ab" * 32
SAID = Announcement("0123abcd", NODE, {"rpc": 7443, "bulk": 7445, "dht": 7443})


def text(said: Announcement) -> dict[bytes, bytes | None]:
    return {name.encode(): value.encode() for name, value in said.text().items()}


def test_what_is_announced_is_read_back() -> None:
    assert read(text(SAID), 7443) == SAID


def test_it_says_no_more_than_it_must() -> None:
    assert SAID.text() == {"net": "0123abcd", "node": NODE, "bulk": "7445", "dht": "7443"}
    assert len(instance_of(NODE).split(".")[0]) <= 63


def test_the_tag_is_made_of_the_network_and_does_not_tell_it() -> None:
    assert network_tag("a" * 16) != network_tag("b" * 16)
    assert network_tag("a" * 16) not in "a" * 16
    assert len(network_tag("a" * 16)) == 8


@pytest.mark.parametrize(
    ("change", "port"),
    [
        ({b"net": None}, 7443),
        ({b"net": b"0123ABCD"}, 7443),
        ({b"net": b"0123abcd0"}, 7443),
        ({b"net": "٠١٢٣".encode()}, 7443),
        ({b"node": b""}, 7443),
        ({b"node": NODE.upper().encode()}, 7443),
        ({b"node": b"a" * 63}, 7443),
        ({b"bulk": b"22"}, 7443),
        ({b"bulk": b"65536"}, 7443),
        ({b"bulk": b"-1"}, 7443),
        ({b"dht": None}, 7443),
        ({}, 0),
        ({}, None),
        ({}, 80),
    ],
)
def test_nonsense_is_refused(change: dict[bytes, bytes | None], port: int | None) -> None:
    with pytest.raises(InvalidInput):
        read(text(SAID) | change, port)


@given(st.dictionaries(st.sampled_from([b"net", b"node", b"bulk", b"dht", b"x"]), st.none() | st.binary(max_size=80)),
       st.none() | st.integers())  # fmt: skip
def test_nothing_else_comes_of_any_text(entries: dict[bytes, bytes | None], port: int | None) -> None:
    try:
        said = read(entries, port)
    except InvalidInput:
        return
    assert all(1024 <= number <= 65535 for number in said.ports.values())


def test_messages_between_the_processes() -> None:
    orders = Orders("0123abcd", NODE, {"rpc": 7443}, ("10.0.0.1",))
    assert decode_orders(encode(orders)) == orders
    for report in (
        Found("i", NODE, endpoints(("10.0.0.1", "fd00::1"), 7443), {}, 120.0),
        Tally(sent=3, dropped={"x": 1}),
    ):
        assert decode_report(encode(report)) == report
    longest = Found("i" * 300, NODE, ("[" + "f" * 80 + "]:65535",) * 16, {"bulk": 1, "dht": 2, "enrol": 3}, 1.0)
    assert len(encode(longest)) < MAX_LINE
    with pytest.raises(msgspec.DecodeError):
        decode_report(b'{"type":"Other"}')
