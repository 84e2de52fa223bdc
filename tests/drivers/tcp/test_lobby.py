"""Who is let through to a handshake, and what everybody else costs."""

import asyncio
import contextlib
import re
import resource
import select
import socket
from collections.abc import Iterator

import pytest

from tetherd.drivers.tcp import lobby
from tetherd.drivers.tcp.lobby import Lobby
from tetherd.errors import BadConfig, BadFrame, InUse

HELLO = b"hell\x05world"


def opening(data: bytes) -> int:
    """Hello is five bytes, of which the last says how many follow."""
    if len(data) < 5:
        return 5
    if not data.startswith(b"hell"):
        raise BadFrame("no hello")
    return 5 + data[4]


@pytest.fixture
def place() -> Iterator[Lobby]:
    made = Lobby("127.0.0.1:0", "a.setting", 2.0, opening)
    yield made
    made.close()


def come(place: Lobby, words: bytes = b"") -> socket.socket:
    host, _, port = place.address.rpartition(":")
    visitor = socket.create_connection((host, int(port)))
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


def test_whoever_says_hello_is_admitted_and_nothing_was_read(place: Lobby) -> None:
    with come(place, HELLO + b"more"):
        (admitted,) = admit(place)
        with admitted:
            assert admitted.recv(100) == HELLO + b"more"


def test_a_hello_in_pieces_is_waited_for_and_wakes_nobody_in_between(place: Lobby) -> None:
    with come(place) as visitor:
        for at in range(len(HELLO) - 1):
            visitor.sendall(HELLO[at : at + 1])
            assert admit(place) == []
        visitor.sendall(HELLO[-1:])
        (admitted,) = admit(place)
        with admitted:
            assert admitted.recv(100) == HELLO


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"hel lo"])
def test_whoever_says_something_else_is_sent_away_at_once(place: Lobby, words: bytes) -> None:
    with come(place, words) as visitor:
        assert admit(place) == []
        assert is_ended(visitor)


@pytest.mark.parametrize("words", [b"", HELLO[:3], HELLO[:7]])
def test_whoever_goes_before_the_hello_was_whole_is_forgotten(place: Lobby, words: bytes) -> None:
    with come(place, words) as visitor:
        visitor.shutdown(socket.SHUT_WR)
        assert admit(place) == []
        assert is_ended(visitor)


def test_whoever_says_nothing_has_so_much_time(place: Lobby) -> None:
    with come(place) as early:
        admit(place, 0.0)
        with come(place, HELLO[:6]) as late:
            admit(place, 1.0)
            place.expire(2.0)
            assert is_ended(early)
            late.sendall(HELLO[6:])
            (admitted,) = admit(place, 2.0)
            admitted.close()


def test_of_too_many_the_one_that_waited_the_longest_goes(place: Lobby, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "MOST", 20)
    visitors = []
    for _ in range(lobby.MOST + 1):
        visitors.append(come(place))
        admit(place)
    assert is_ended(visitors[0])
    for visitor in visitors[1:]:
        visitor.sendall(HELLO)
    found = admit(place)
    assert len(found) == lobby.MOST
    for one in found + visitors:
        one.close()


def test_without_files_nobody_is_accepted_until_the_next_try(place: Lobby) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with come(place, HELLO) as visitor:
        resource.setrlimit(resource.RLIMIT_NOFILE, (visitor.fileno() + 1, hard))
        try:
            assert admit(place) == []  # and it came to an end: nothing was tried again and again
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        place.expire(0.1)
        (admitted,) = admit(place)
        admitted.close()


async def test_all_that_have_begun_are_received_at_the_same_time_until_it_is_cancelled(place: Lobby) -> None:
    received: asyncio.Queue[socket.socket] = asyncio.Queue()

    async def receive(connection: socket.socket) -> None:
        received.put_nowait(connection)
        await asyncio.get_running_loop().create_future()

    attending = asyncio.create_task(place.attend(receive))
    visitors = [come(place, HELLO) for _ in range(3)]
    async with asyncio.timeout(10):
        for _ in visitors:
            await received.get()
    visitors.append(come(place, HELLO))
    attending.cancel()
    await asyncio.wait([attending])
    place.close()
    for visitor in visitors:
        assert is_ended(visitor)
        visitor.close()


async def test_whoever_does_not_begin_has_so_much_time_there(place: Lobby) -> None:
    with contextlib.closing(Lobby("127.0.0.1:0", "a.setting", 0.1, opening)) as hurried:
        attending = asyncio.create_task(hurried.attend(fail))
        with come(hurried, HELLO[:6]) as visitor:
            assert await asyncio.to_thread(is_ended, visitor)
        attending.cancel()
        await asyncio.wait([attending])


async def fail(_: socket.socket) -> None:
    pytest.fail("nobody has begun")


def test_an_address_that_is_taken_or_is_none_says_which_setting_to_change(place: Lobby) -> None:
    with pytest.raises(InUse, match="cannot listen") as taken:
        Lobby(place.address, "a.setting", 2.0, opening)
    assert "a.setting" in str(taken.value.fix)
    with pytest.raises(BadConfig, match="cannot listen"):
        Lobby("203.0.113.1:1", "a.setting", 2.0, opening)


def test_it_says_where_it_listens() -> None:
    with contextlib.closing(Lobby("[::1]:0", "a.setting", 2.0, opening)) as six:
        assert re.fullmatch(r"\[::1\]:\d+", six.address)
        port = int(six.address.rpartition(":")[2])
        with socket.create_connection(("::1", port)) as visitor:
            visitor.sendall(HELLO)
            (admitted,) = admit(six)
            admitted.close()
