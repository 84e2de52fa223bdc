"""Addresses: loopback only, brackets for IPv6, and socket paths the system can take."""

import pytest

from tetherd.config import addresses
from tetherd.config.units import BadValue


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:3000", "127.0.0.1", 3000), ("[::1]:80", "::1", 80), ("localhost:65535", "localhost", 65535)],
)
def test_addresses_are_split(text: str, host: str, port: int) -> None:
    assert addresses.split(text) == (host, port)
    assert addresses.http(text) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("127.0.0.1:0", "1 to 65535"),
        ("127.0.0.1:65536", "1 to 65535"),
        ("127.0.0.1:99999999999", "1 to 65535"),
        ("127.0.0.1:٣", "1 to 65535"),
        ("127.0.0.1:", "1 to 65535"),
        ("127.0.0.1", "127.0.0.1:3000"),
        (":3000", "127.0.0.1:3000"),
        ("::1:3000", '"[::1]:3000"'),
        ("0.0.0.0:3000", '"127.0.0.1:3000"'),
        ("[::]:3000", '"127.0.0.1:3000"'),
        ("10.0.0.4:3000", '"127.0.0.1:3000"'),
        ("inference.example:3000", '"127.0.0.1:3000"'),
    ],
)
def test_what_http_cannot_listen_on_is_refused(text: str, hint: str) -> None:
    with pytest.raises(BadValue) as caught:
        addresses.http(text)
    assert hint in caught.value.fix


def test_a_public_address_is_refused_with_the_reason() -> None:
    with pytest.raises(BadValue, match="TLS and keys"):
        addresses.http("0.0.0.0:3000")


@pytest.mark.parametrize("text", ["ipc:///run/tether/rpc.sock", "tcp://127.0.0.1:7443", "tcp://[::1]:7443"])
def test_rpc_addresses_are_taken(text: str) -> None:
    assert addresses.rpc(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/run/x",
        "ipc://",
        "ipc://relative",
        "tcp://0.0.0.0:1",
        "tcp://x",
        "inproc://a",
        "tls+tcp://127.0.0.1:1",
        "ipc:///a\0b",
    ],
)
def test_other_rpc_addresses_are_refused(text: str) -> None:
    with pytest.raises(BadValue):
        addresses.rpc(text)


def test_a_socket_path_may_have_107_bytes_and_no_more() -> None:
    longest = "/" + "a" * 106
    assert addresses.socket_path(longest) == longest
    with pytest.raises(BadValue, match="108 bytes"):
        addresses.socket_path(longest + "a")
    with pytest.raises(BadValue, match="108 bytes"):
        addresses.rpc("ipc:///" + "é" * 53 + "a")


def test_every_address_is_two_sockets_and_without_ipv6_one() -> None:
    assert addresses.sockets("[::]:7443") == [("::", 7443), ("0.0.0.0", 7443)]
    assert addresses.sockets("[fd00::7]:7443") == [("fd00::7", 7443)]
    given = ["[::]:7443", "[fd00::7]:1", "10.0.0.7:1"]
    assert [addresses.only4(text) for text in given] == ["0.0.0.0:7443", "[fd00::7]:1", "10.0.0.7:1"]


@pytest.mark.parametrize("text", ["0.0.0.0:7446", "[::]:7446", "192.0.2.7:7446", "127.0.0.1:7446"])
def test_a_port_for_other_hosts_may_be_on_any_address(text: str) -> None:
    assert addresses.listener(text) == text


@pytest.mark.parametrize("text", ["relay.example:7446", "localhost:7446", "0.0.0.0:0", "0.0.0.0", "::7446", "*:7446"])
def test_but_it_is_an_address(text: str) -> None:
    with pytest.raises(BadValue):
        addresses.listener(text)


@pytest.mark.parametrize("text", ["192.0.2.7", "fd00::7", "inference.example", "a_b.lan", "127.0.0.1"])
def test_a_host_is_reached_by_name_or_address(text: str) -> None:
    assert addresses.reachable(text) == text


@pytest.mark.parametrize("text", ["", "0.0.0.0", "::", "a b", "a:7443", "192.0.2.7:7443", "[fd00::7]", "-x", "a" * 300])
def test_what_reaches_nobody_is_refused(text: str) -> None:
    with pytest.raises(BadValue):
        addresses.reachable(text)


def test_a_seed_is_a_host_and_a_port() -> None:
    for text in ("node.example:7443", "[fd00::7]:7443", "192.0.2.7:1"):
        assert addresses.seed(text) == text
    for text in ("node.example", "0.0.0.0:7443", ":7443", "node.example:0"):
        with pytest.raises(BadValue):
            addresses.seed(text)


def test_which_addresses_stand_for_all() -> None:
    assert [addresses.wildcard(host) for host in ("0.0.0.0", "::", "127.0.0.1", "a.example")] == [
        True,
        True,
        False,
        False,
    ]
