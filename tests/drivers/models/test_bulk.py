"""Blobs over ranged HTTPS: what a member gets, what others get, and how little it takes from who misbehaves."""

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Network, home
from sources import Hosts, blob_of, shelf

from tetherd.drivers.models.bulk import BulkServer, Limits
from tetherd.drivers.models.drafts import Draft, Drafts
from tetherd.drivers.tcp.mutual import dialling
from tetherd.errors import BadConfig, InUse
from tetherd.types import Credentials
from tetherd.wire.chunks import CHUNK, BlobSource, from_bits

DATA = b"0123456789" + os.urandom(CHUNK - 10) + b"rest"
BLOB = blob_of(DATA)
PATH = f"/blobs/{BLOB.digest}"


@pytest.fixture
def host(hosts: Hosts) -> BlobSource:
    return hosts.fair(shelf(DATA, b""))


def dial(host: BlobSource, credentials: Credentials | None = None, timeout: float = 10) -> ssl.SSLSocket:
    name, _, port = host.address.rpartition(":")
    raw = socket.create_connection((name, int(port)), timeout)
    return dialling(credentials or home().node()).wrap_socket(raw)


class Client:
    """Python's own HTTP client on a connection of ours."""

    def __init__(self, host: BlobSource, credentials: Credentials | None = None) -> None:
        self.connection = http.client.HTTPConnection("peer")
        self.connection.sock = dial(host, credentials)

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        self.connection.request(method, path, headers=headers)
        answer = self.connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def once(
    host: BlobSource, method: str, path: str = PATH, credentials: Credentials | None = None, **headers: str
) -> tuple:
    client = Client(host, credentials)
    try:
        return client.ask(method, path, **headers)
    finally:
        client.connection.close()


@pytest.fixture
def client(host: BlobSource) -> Iterator[Client]:
    found = Client(host)
    yield found
    found.connection.close()


def test_a_member_reads_a_blob_whole_and_in_parts(client: Client) -> None:
    status, headers, body = client.ask("GET", PATH)
    assert (status, body) == (200, DATA)
    assert headers["accept-ranges"] == "bytes"
    status, headers, body = client.ask("GET", PATH, Range="bytes=5-9")
    assert (status, body, headers["content-range"]) == (206, DATA[5:10], f"bytes 5-9/{len(DATA)}")
    status, headers, body = client.ask("GET", PATH, Range=f"bytes={CHUNK - 3}-")
    assert (status, body) == (206, DATA[CHUNK - 3 :])
    status, headers, body = client.ask("GET", PATH, Range=f"bytes=0-{10**18}")
    assert (status, body) == (206, DATA)


def test_head_tells_without_sending(client: Client) -> None:
    status, headers, body = client.ask("HEAD", PATH)
    assert (status, headers["content-length"], body) == (200, str(len(DATA)), b"")
    status, headers, body = client.ask("HEAD", PATH, Range="bytes=1-2")
    assert (status, headers["content-length"], body) == (206, "2", b"")
    assert client.ask("HEAD", "/blobs/sha256:" + "0" * 64)[::2] == (404, b"")
    assert client.ask("GET", PATH, Range="bytes=0-0")[2] == DATA[:1]  # the connection is in step


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=9-5",
        f"bytes={CHUNK + 4}-",
        "bytes=-5",
        "bytes=0-1,3-4",
        "items=0-1",
        "bytes=a-b",
        "bytes=" + "9" * 40 + "-",
    ],
)
def test_a_range_that_is_not_there_is_refused(client: Client, asked: str) -> None:
    status, _, body = client.ask("GET", PATH, Range=asked)
    assert status == 416
    assert b"BAD_RANGE" in body
    assert client.ask("GET", PATH, Range="bytes=0-0")[0] == 206


def test_an_empty_blob(client: Client) -> None:
    assert client.ask("GET", f"/blobs/{blob_of(b'').digest}")[::2] == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/blobs/sha256:" + "0" * 64, 404),
        ("GET", "/blobs/sha256:" + "0" * 64 + "/chunks", 404),
        ("GET", "/blobs/sha256:../../etc/passwd", 404),
        ("GET", PATH + "%00", 404),
        ("GET", PATH.upper(), 404),
        ("GET", "/", 404),
        ("DELETE", PATH, 405),
        ("OPTIONS", "*", 405),
    ],
)
def test_what_is_not_served(client: Client, method: str, path: str, status: int) -> None:
    assert client.ask(method, path)[0] == status
    assert client.ask("GET", PATH, Range="bytes=0-0")[0] == 206


def test_chunks_of_a_complete_blob(client: Client) -> None:
    assert client.ask("GET", PATH + "/chunks")[::2] == (200, b"\x03")


def test_a_blob_is_served_while_it_is_fetched(hosts: Hosts, tmp_path: Path) -> None:
    drafts, draft = Drafts(), Draft(BLOB, tmp_path / "d")
    drafts.add(draft)
    client = Client(hosts.fair(shelf(), drafts=drafts))
    assert client.ask("GET", PATH + "/chunks")[::2] == (200, b"\x00")
    assert client.ask("GET", PATH, Range="bytes=0-9")[0] == 404
    draft.put(1, DATA[CHUNK:])
    assert from_bits(client.ask("GET", PATH + "/chunks")[2], 2) == {1}
    assert client.ask("GET", PATH, Range=f"bytes={CHUNK}-")[::2] == (206, b"rest")
    assert client.ask("GET", PATH)[0] == 404
    draft.put(0, DATA[:CHUNK])
    assert client.ask("GET", PATH)[::2] == (200, DATA)
    client.connection.close()


@pytest.mark.parametrize(
    "text",
    [
        b"GET /blobs HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /blobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01 nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000,
    ],
)
def test_what_is_no_request_of_ours_ends_the_connection(host: BlobSource, text: bytes) -> None:
    with dial(host) as connection:
        connection.sendall(text)
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionError:
            pass
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert once(host, "GET", Range="bytes=0-0")[0] == 206


def test_requests_that_come_together_are_answered_in_order(host: BlobSource) -> None:
    with dial(host) as connection:
        asked = "GET {} HTTP/1.1\r\nrange: bytes={}-{}\r\n\r\n"
        connection.sendall("".join(asked.format(PATH, at, at) for at in range(3)).encode())
        answer = b""
        while answer.count(b"\r\n\r\n") < 3 or not answer.endswith(DATA[2:3]):
            answer += connection.recv(65536)
    assert [part[:1] for part in answer.split(b"\r\n\r\n")[1:]] == [DATA[at : at + 1] for at in range(3)]


def gets_nothing(host: BlobSource, credentials: Credentials) -> bool:
    try:
        return once(host, "GET", PATH, credentials)[0] != 200
    except (OSError, http.client.HTTPException):
        return True


def test_whoever_is_no_member_gets_nothing(hosts: Hosts, host: BlobSource) -> None:
    foreign = Network("other").node()
    assert gets_nothing(host, Credentials(foreign.node, foreign.key_pem, foreign.chain_pem, home().root.pem))
    stranger = home().node()
    hosts.refused.add(stranger.node)
    assert gets_nothing(host, stranger)
    assert not gets_nothing(host, home().node())


def test_a_node_that_is_revoked_gets_no_further(hosts: Hosts) -> None:
    data = os.urandom(4 * CHUNK)
    host, member = hosts.fair(shelf(data)), home().node()
    with dial(host, member) as connection:
        connection.sendall(f"GET /blobs/{blob_of(data).digest} HTTP/1.1\r\n\r\n".encode())
        received = len(connection.recv(65536))
        hosts.refused.add(member.node)
        while got := connection.recv(65536):
            received += len(got)
    assert received < len(data)


def closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_whoever_is_slow_is_hung_up_on(hosts: Hosts) -> None:
    host = hosts.fair(shelf(DATA), limits=Limits(handshake=0.3, head=0.3, idle=0.6, stall=0.3))
    name, _, port = host.address.rpartition(":")
    with socket.create_connection((name, int(port))) as silent:
        assert closed_within(silent, 5)
    with dial(host) as idle:
        began = time.monotonic()
        assert closed_within(idle, 5)
        assert time.monotonic() - began > 0.5
    with dial(host) as half:
        half.sendall(b"GET /blo")
        assert closed_within(half, 5)


def test_whoever_does_not_read_is_hung_up_on(hosts: Hosts) -> None:
    data = os.urandom(8 * CHUNK)
    host = hosts.fair(shelf(data), limits=Limits(stall=0.3))
    name, _, port = host.address.rpartition(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect((name, int(port)))
    with dialling(home().node()).wrap_socket(raw) as connection:
        connection.sendall(f"GET /blobs/{blob_of(data).digest} HTTP/1.1\r\n\r\n".encode())
        threading.Event().wait(1.5)
        received = 0
        connection.settimeout(5)
        try:
            while got := connection.recv(65536):
                received += len(got)
        except ConnectionError:
            pass
    assert received < len(data)


def test_connections_are_bounded_in_all_and_for_each_node(hosts: Hosts) -> None:
    host = hosts.fair(shelf(DATA), limits=Limits(connections=3, per_node=2))
    greedy, other = home().node(), home().node()
    held = [Client(host, greedy) for _ in range(2)]
    assert all(client.ask("HEAD", PATH)[0] == 200 for client in held)
    assert gets_nothing(host, greedy)
    third = Client(host, other)
    assert third.ask("HEAD", PATH)[0] == 200
    assert gets_nothing(host, home().node())
    third.connection.close()
    deadline = time.monotonic() + 5
    while gets_nothing(host, other):
        assert time.monotonic() < deadline
    for client in held:
        client.connection.close()


def test_a_crowd_of_half_open_connections_keeps_nobody_out(host: BlobSource) -> None:
    name, _, port = host.address.rpartition(":")
    crowd = [socket.create_connection((name, int(port))) for _ in range(400)]
    began = time.monotonic()
    assert once(host, "HEAD")[0] == 200
    assert time.monotonic() - began < 2
    for one in crowd:
        one.close()


def test_garbage_leaves_it_alive(host: BlobSource) -> None:
    name, _, port = host.address.rpartition(":")
    for index in range(50):
        with socket.create_connection((name, int(port))) as one:
            one.sendall(os.urandom(index * 7) + b"GET / HTTP/1.1\r\n\r\n")
    assert once(host, "GET")[2] == DATA


async def run(address: str) -> None:
    await BulkServer(
        address, shelf=shelf(), drafts=Drafts(), context=lambda: dialling(home().node()), admit=lambda _: None
    ).run(lambda: None)


async def test_an_address_that_is_taken_or_is_none_is_a_clear_error(host: BlobSource) -> None:
    with pytest.raises(InUse, match="cannot listen"):
        await run(host.address)
    with pytest.raises(BadConfig, match="cannot listen"):
        await run("203.0.113.1:1")
