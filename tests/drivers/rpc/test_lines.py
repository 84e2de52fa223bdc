"""What a line promises, of both kinds."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from certificates import home

from tetherd.drivers.rpc.lines import _PARTS, Line, Plain, Secure, _after, exactly
from tetherd.drivers.tcp import mutual


@contextlib.contextmanager
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        yield near, far


@contextlib.contextmanager
def tls() -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    found: list[ssl.SSLSocket] = []
    there, here = mutual.listening(home().node()), mutual.dialling(home().node())
    with tcp() as (plain, other):
        far = threading.Thread(target=lambda: found.append(there.wrap_socket(other, server_side=True)))
        far.start()
        with here.wrap_socket(plain) as near:
            far.join()
            with found[0]:
                yield near, found[0]


@pytest.fixture(params=["plain", "secure"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Line, socket.socket]]:
    """A line, and the socket at its other end."""
    if request.param == "plain":
        with tcp() as (near, far):
            yield Plain(near), far
    else:
        with tls() as (secure, other):
            yield Secure(secure), other


def send(line: Line, *parts: bytes) -> None:
    rest = line.send(parts)
    while rest:
        rest = line.send(rest)


@pytest.mark.parametrize("count", [1, 3, _PARTS + 1])
@pytest.mark.parametrize("size", [1, 1000, 70_000])
def test_what_is_sent_in_parts_arrives_as_one(pair: tuple[Line, socket.socket], count: int, size: int) -> None:
    line, other = pair
    parts = [bytes([number % 256]) * size for number in range(count)]
    sending = threading.Thread(target=send, args=(line, *parts))
    sending.start()
    assert exactly(other, count * size) == b"".join(parts)
    sending.join()


def test_it_receives_what_there_is_and_says_when_there_is_more(pair: tuple[Line, socket.socket]) -> None:
    line, other = pair
    other.sendall(b"abcdef")
    room = memoryview(bytearray(4))
    assert line.receive(room) == 4
    assert bytes(room) == b"abcd"
    assert line.pending() == isinstance(line, Secure), "of a record, watching the file does not show the rest"
    assert line.receive(room) == 2
    assert not line.pending()


def test_one_that_does_not_block_takes_what_fits_and_brings_what_came(pair: tuple[Line, socket.socket]) -> None:
    line, other = pair
    line.bound(0.0)
    assert line.receive(memoryview(bytearray(4))) is None
    whole, rest = bytes(range(256)) * 40_000, [memoryview(b"")]
    rest = line.send([whole])
    assert 0 < sum(len(part) for part in rest) < len(whole)
    reading = threading.Thread(target=lambda: data.append(exactly(other, len(whole) + 3)))
    data: list[bytes] = []
    reading.start()
    rest = [*rest, memoryview(b"end")]
    while rest:
        rest = line.send(rest)
    reading.join()
    assert data[0] == whole + b"end"


def test_its_end_is_told(pair: tuple[Line, socket.socket]) -> None:
    line, other = pair
    socket.socket.shutdown(other, socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        assert line.receive(memoryview(bytearray(4))) == 0


def test_whoever_waits_is_woken_by_another_thread_and_by_time(pair: tuple[Line, socket.socket]) -> None:
    line, _ = pair
    line.bound(0.05)
    with pytest.raises(TimeoutError):
        line.receive(memoryview(bytearray(4)))
    line.bound(20.0)
    ending = threading.Timer(0.05, line.end)
    ending.start()
    with contextlib.suppress(OSError):
        assert line.receive(memoryview(bytearray(4))) == 0
    ending.join()
    line.end()  # of what has ended, too


class Wanting:
    """A socket with TLS that has to do the other thing first."""

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass

    def recv_into(self, _: memoryview) -> int:
        raise ssl.SSLWantWriteError

    def send(self, _: memoryview) -> int:
        raise ssl.SSLWantReadError


def test_a_peer_that_has_to_be_served_first_is_left() -> None:
    # It would be readable, or writable, for ever, and nothing would come of it.
    line = Secure(Wanting())  # type: ignore[arg-type]
    with pytest.raises(ssl.SSLWantWriteError):
        line.receive(memoryview(bytearray(4)))
    with pytest.raises(ssl.SSLWantReadError):
        line.send([b"x"])


def test_what_is_left_of_parts() -> None:
    parts = [memoryview(b"abc"), memoryview(b"de"), memoryview(b"f")]
    for sent in range(7):
        assert b"".join(_after(parts, sent)) == b"abcdef"[sent:]
