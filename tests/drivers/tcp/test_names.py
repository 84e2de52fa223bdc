"""What names stand for, and what becomes of those for which nobody answers."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading

import pytest

from tetherd.drivers.tcp import names
from tetherd.drivers.tcp.names import MOST, find, look_up, resolve


def lookers() -> int:
    return sum(each.name == "names" for each in threading.enumerate())


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_an_address_is_there_at_once(host: str, family: socket.AddressFamily) -> None:
    found = look_up(host, 7443)
    assert found.done()
    ((kind, *_, place),) = found.result()
    assert (kind, place[:2]) == (family, (host, 7443))


async def test_a_name_is_found() -> None:
    assert ("127.0.0.1", 7443) in {place[:2] for *_, place in await resolve("localhost", 7443)}
    assert ("127.0.0.1", 7443) in {place[:2] for *_, place in find("localhost", 7443, 5.0)}


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid"])
def test_what_is_no_name_is_said(host: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - the words are the system's
        find(host, 7443, 20.0)


@pytest.mark.usefixtures("deaf_names")
async def test_nobody_waits_longer_than_he_likes_for_a_name_that_nobody_answers_for() -> None:
    with pytest.raises(OSError, match="no name server answered"):
        find("host.deaf", 7443, 0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await resolve("host.deaf", 7443)
    assert lookers() == 1, "all wait for the same answer"
    assert await resolve("127.0.0.1", 7443)


@pytest.mark.usefixtures("deaf_names")
def test_a_bounded_number_is_looked_up_at_once() -> None:
    found = [look_up(f"{number}.deaf", 7443) for number in range(MOST + 10)]
    assert lookers() == MOST
    assert [each.done() for each in found] == [False] * MOST + [True] * 10
    with pytest.raises(OSError, match=f"{MOST} names"):
        found[-1].result()


def test_who_has_its_answer_is_not_remembered() -> None:
    find("localhost", 7443, 5.0)
    assert ("localhost", 7443) not in names._under_way


CHILD = """
import socket, threading
real = socket.getaddrinfo
def deaf(*args, flags=0, **options):
    return real(*args, flags=flags, **options) if flags else threading.Event().wait()
socket.getaddrinfo = deaf
from tetherd.drivers.tcp.names import look_up
look_up("host.deaf", 7443)
"""


def test_a_process_ends_while_it_looks_a_name_up() -> None:
    subprocess.run([sys.executable, "-c", CHILD], check=True, timeout=20)


def test_it_connects_to_the_first_address_that_takes_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as gone:
        port, closed = listener.getsockname()[1], gone.getsockname()[1]
        gone.close()
        places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", number)) for number in (closed, port)]
        monkeypatch.setattr(names, "find", lambda *_: places)
        with names.connect("two", 1, 5.0, 700) as found:
            assert found.getpeername()[1] == port
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 700
        unknown = (socket.AddressFamily(socket.AF_UNSPEC), *places[0][1:])  # as IPv6 is where a host has none
        monkeypatch.setattr(names, "find", lambda *_: [unknown, places[1]])
        names.connect("two", 1, 5.0).close()
        monkeypatch.setattr(names, "find", lambda *_: places[:1])
        with pytest.raises(ConnectionRefusedError):
            names.connect("one", 1, 5.0)
        monkeypatch.setattr(names, "find", lambda *_: [])
        with pytest.raises(OSError, match="no address"):
            names.connect("none", 1, 5.0)


def test_an_address_that_says_nothing_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(8):  # more than it keeps until they are accepted
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", found.getsockname()) for found in (full, listener)]
        monkeypatch.setattr(names, "find", lambda *_: places)
        with names.connect("two", 1, 1.0) as found:
            assert found.getpeername() == listener.getsockname()
