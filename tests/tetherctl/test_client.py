"""The HTTP client against servers that answer byte by byte, wrongly, early, or not at all."""

import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tetherctl.client import Client
from tetherctl.endpoint import Endpoint
from tetherctl.errors import ConnectionLost, NotAnswering, NotTether
from tetherd.errors import Internal, QueueFull, TooLarge

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Serve = Callable[[Callable[[socket.socket, int], None]], Client]


@pytest.fixture
def serve(place: Path) -> Iterator[Serve]:
    """Start a server that handles each connection by a function; return a client of it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place / "s"))
    listener.listen()
    clients: list[Client] = []

    def start(act: Callable[[socket.socket, int], None]) -> Client:
        def run() -> None:
            number = 0
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                number += 1
                with peer:
                    try:
                        act(peer, number)
                    except OSError:
                        continue

        threading.Thread(target=run, daemon=True).start()
        clients.append(Client(Endpoint(path=str(place / "s")), 2.0))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def always(*pieces: bytes) -> Callable[[socket.socket, int], None]:
    def act(peer: socket.socket, _: int) -> None:
        while peer.recv(65536):
            for piece in pieces:
                peer.sendall(piece)

    return act


def once(*pieces: bytes) -> Callable[[socket.socket, int], None]:
    def act(peer: socket.socket, _: int) -> None:
        peer.recv(65536)
        for piece in pieces:
            peer.sendall(piece)

    return act


def test_keeps_the_connection(serve: Serve) -> None:
    seen: list[int] = []

    def act(peer: socket.socket, number: int) -> None:
        while peer.recv(65536):
            seen.append(number)
            peer.sendall(OK)

    client = serve(act)
    for _ in range(3):
        assert client.json("GET", "/") == {}
    assert seen == [1, 1, 1]


def test_a_connection_closed_in_between_loses_no_request(serve: Serve) -> None:
    def act(peer: socket.socket, _: int) -> None:
        asked = b""
        while not asked.endswith(b'{"a":1}'):
            asked += peer.recv(65536)
        peer.sendall(OK)

    client = serve(act)
    for _ in range(3):
        assert client.json("POST", "/", {"a": 1}) == {}
        assert select.select([client._sock], [], [], 5.0)[0]  # the server has hung up


def test_an_unread_answer_is_not_taken_for_the_next(serve: Serve) -> None:
    client = serve(always(OK))
    client.request("GET", "/")
    assert client.json("GET", "/") == {}


def test_byte_by_byte(serve: Serve) -> None:
    client = serve(always(*(bytes([byte]) for byte in OK)))
    assert client.json("GET", "/") == {}


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.0 200 OK\nContent-Length: 1\n\nx", b"x"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_bodies(serve: Serve, answer: bytes, body: bytes) -> None:
    assert serve(once(answer)).request("GET", "/").read() == body


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-x\r\n", NotTether),
        (b"HTTP/1.1 abc\r\n\r\n", NotTether),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", NotTether),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", NotTether),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, NotTether),
        (b"x" * 100_000, NotTether),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", NotTether),
        (b"", ConnectionLost),
        (b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops", NotTether),
        (b'HTTP/1.1 500 X\r\nContent-Length: 13\r\n\r\n{"error":"hm"', NotTether),
        (b'HTTP/1.1 500 X\r\nContent-Length: 14\r\n\r\n{"error":"hm"}', Internal),
        (b'HTTP/1.1 500 X\r\nContent-Length: 28\r\n\r\n{"error":"a","details":"no"}', Internal),
    ],
)
def test_wrong_answers(serve: Serve, answer: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        serve(once(answer)).json("GET", "/")


def test_retry_after_arrives(serve: Serve) -> None:
    body = b'{"error":"full","code":"QUEUE_FULL","fix":"wait"}'
    head = b"HTTP/1.1 429 X\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n" % len(body)
    with pytest.raises(QueueFull) as caught:
        serve(once(head + body)).json("GET", "/")
    assert caught.value.retry_after == 7


def test_a_server_that_refuses_a_body_early_is_heard(serve: Serve) -> None:
    body = b'{"error":"too much","code":"TOO_LARGE"}'

    def act(peer: socket.socket, _: int) -> None:
        peer.recv(100)
        peer.sendall(b"HTTP/1.1 413 X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        peer.shutdown(socket.SHUT_RD)

    with pytest.raises(TooLarge):
        serve(act).request("POST", "/", bytes(20_000_000))


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"])
def test_silence_ends(serve: Serve, said: bytes) -> None:
    go = threading.Event()

    def act(peer: socket.socket, _: int) -> None:
        peer.recv(65536)
        peer.sendall(said)
        go.wait(5)

    client = serve(act)
    client.timeout = 0.1
    with pytest.raises(NotAnswering):
        client.json("GET", "/")
    go.set()


def test_a_get_is_repeated_and_a_post_is_not(serve: Serve) -> None:
    seen: list[bytes] = []

    def act(peer: socket.socket, _: int) -> None:
        seen.append(peer.recv(65536)[:4])

    client = serve(act)
    for method in ("GET", "POST"):
        with pytest.raises(ConnectionLost):
            client.json(method, "/")
    assert seen == [b"GET ", b"GET ", b"POST"]


def test_an_endless_answer_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tetherctl.client.MAX_ANSWER", 1000)

    def act(peer: Any, _: int) -> None:
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(bytes(1000))

    with pytest.raises(NotTether):
        serve(act).json("GET", "/")
