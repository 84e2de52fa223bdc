"""Who is let through to a handshake, and what everybody else costs."""

import resource
import select
import socket
from collections.abc import Iterator

import pytest

from tetherd.drivers.identity import lobby
from tetherd.drivers.identity.lobby import Lobby

HELLO = b"\x16\x03\x01\x00\x05hello"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as made:
        made.setblocking(False)
        yield made


@pytest.fixture
def place(listener: socket.socket) -> Iterator[Lobby]:
    made = Lobby(listener, patience=2.0)
    yield made
    made.close()


def come(listener: socket.socket, words: bytes = b"") -> socket.socket:
    visitor = socket.create_connection(listener.getsockname())
    visitor.settimeout(5)
    visitor.sendall(words)
    return visitor


def admit(place: Lobby, now: float = 0.0) -> list[socket.socket]:
    """Do what there is to do until there is nothing."""
    ready = []
    while select.select([place], [], [], 0.05)[0]:
        ready += place.admit(now)
    return ready


def is_ended(visitor: socket.socket) -> bool:
    try:
        return visitor.recv(1) == b""
    except ConnectionError:
        return True


def test_whoever_says_hello_is_admitted_and_nothing_was_read(listener: socket.socket, place: Lobby) -> None:
    with come(listener, HELLO + b"more"):
        (admitted,) = admit(place)
        with admitted:
            assert admitted.recv(100) == HELLO + b"more"


def test_a_hello_in_pieces_is_waited_for_and_wakes_nobody_in_between(listener: socket.socket, place: Lobby) -> None:
    with come(listener) as visitor:
        for at in range(len(HELLO) - 1):
            visitor.sendall(HELLO[at : at + 1])
            assert admit(place) == []
        visitor.sendall(HELLO[-1:])
        (admitted,) = admit(place)
        with admitted:
            assert admitted.recv(100) == HELLO


@pytest.mark.parametrize(
    "words",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x02\x00\x00\x05hello", b"\x17\x03\x03\x00\x05hello", b"\x16\x03\x03\xff\xff"],
)
def test_whoever_says_something_else_is_sent_away_at_once(listener: socket.socket, place: Lobby, words: bytes) -> None:
    with come(listener, words) as visitor:
        assert admit(place) == []
        assert is_ended(visitor)


@pytest.mark.parametrize("words", [b"", HELLO[:3], HELLO[:7]])
def test_whoever_goes_before_the_hello_was_whole_is_forgotten(
    listener: socket.socket, place: Lobby, words: bytes
) -> None:
    with come(listener, words) as visitor:
        visitor.shutdown(socket.SHUT_WR)
        assert admit(place) == []
        assert is_ended(visitor)


def test_whoever_says_nothing_has_so_much_time(listener: socket.socket, place: Lobby) -> None:
    with come(listener) as early:
        admit(place, 0.0)
        with come(listener, HELLO[:6]) as late:
            admit(place, 1.0)
            place.expire(2.0)
            assert is_ended(early)
            late.sendall(HELLO[6:])
            (admitted,) = admit(place, 2.0)
            admitted.close()


def test_of_too_many_the_one_that_waited_the_longest_goes(listener: socket.socket, place: Lobby) -> None:
    visitors = []
    for _ in range(lobby.MOST + 1):
        visitors.append(come(listener))
        admit(place)
    assert is_ended(visitors[0])
    for visitor in visitors[1:]:
        visitor.sendall(HELLO)
    found = admit(place)
    assert len(found) == lobby.MOST
    for one in found + visitors:
        one.close()


def test_without_files_nobody_is_accepted_until_the_next_try(listener: socket.socket, place: Lobby) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with come(listener, HELLO) as visitor:
        resource.setrlimit(resource.RLIMIT_NOFILE, (visitor.fileno() + 1, hard))
        try:
            assert admit(place) == []  # and it came to an end: nothing was tried again and again
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        place.expire(0.1)
        (admitted,) = admit(place)
        admitted.close()
