"""The HTTP server against real sockets: bad and slow clients, limits, and the control socket."""

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from duties import running

from tetherd.config.schema import Control, Gateway
from tetherd.drivers.http import connection
from tetherd.drivers.http.server import HttpServer
from tetherd.errors import BadConfig, InUse


class App:
    """Answers with the body's length; at /hang it never answers and at /stream it answers in pieces."""

    def __init__(self) -> None:
        self.hanging = asyncio.Event()
        self.abandoned = asyncio.Event()
        self.release = asyncio.Event()
        self.control: list[bool] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.control.append(scope["state"]["control"])
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            more = message["more_body"]
        if scope["path"] == "/hang":
            scope["state"]["abandon"] = True
            self.hanging.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.abandoned.set()
                return
        body = json.dumps({"size": size, "path": scope["path"]}).encode()
        streamed = scope["path"] == "/stream"
        length = 2 * len(body) if streamed else len(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % length)]})
        if streamed:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": body})


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body


class World:
    """A server on a free port, with time that the test moves."""

    def __init__(self, app: App, server: HttpServer) -> None:
        self.app = app
        self.server = server
        self.port = int(server.addresses[0].rpartition(":")[2])
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        client = await self.connect()
        client.write(data)
        return await client.answer()

    def pass_time(self, seconds: float) -> None:
        for one in self.server.state.connections:
            assert isinstance(one, connection.Connection)
            one.since -= seconds
            if one.stalled_at is not None:
                one.stalled_at -= seconds
            one.sweep()

    async def alive(self) -> None:
        assert (await self.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 200


@contextlib.asynccontextmanager
async def serving(app: App, settings: Gateway, **where: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer(app=app, settings=settings, **where)
    async with running(server.run):
        try:
            yield server
        finally:
            app.release.set()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    app = App()
    async with serving(app, Gateway(), listen="127.0.0.1:0") as server:
        world = World(app, server)
        yield world
        await world.alive()
        for client in world.clients:
            client.writer.close()


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: 99999999999999999999999999\r\n\r\n", 400),
        (HEAD + b"Content-Length: +3\r\n\r\nabc", 400),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"X: a\x00b\r\n\r\n", 400),
        (HEAD + b"X : a\r\n\r\n", 400),
        (HEAD + b"X: a\r\n folded\r\n\r\n", 400),
        (HEAD + b"X: a\nY: b\r\n\r\n", 400),
        (HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (HEAD + b"".join(b"X%d: a\r\n" % number for number in range(1000)) + b"\r\n", 431),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01", 400),
    ],
)
async def test_what_is_not_a_good_request_is_answered_and_closed(world: World, data: bytes, status: int) -> None:
    client = await world.connect()
    client.write(data)
    answered, headers, body = await client.answer()
    assert answered == status
    assert headers["connection"] == "close"
    assert json.loads(body)["error"]
    assert ("allow" in headers) is (status == 405)
    assert await client.reader.read() == b""


async def test_a_header_that_never_ends_is_cut(world: World) -> None:
    client = await world.connect()
    client.write(HEAD + b"X: ")
    for _ in range(20):
        client.write(b"a" * 65_536)
    assert (await client.answer())[0] == 431


async def test_keep_alive_and_pipelined_requests_are_answered_in_order(world: World) -> None:
    client = await world.connect()
    client.write(HEAD.replace(b"/ ", b"/1 ") + b"Content-Length: 3\r\n\r\nabc" + b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
    client.write(b"GET /3 HTTP/1.1\r\nHost: x\r\n\r\n")
    answers = [json.loads((await client.answer())[2]) for _ in range(3)]
    assert answers == [{"size": 3, "path": "/1"}, {"size": 0, "path": "/2"}, {"size": 0, "path": "/3"}]


async def test_old_clients_heads_and_streams(world: World) -> None:
    client = await world.connect()
    client.write(b"GET / HTTP/1.0\r\n\r\n")
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (200, "close")
    client = await world.connect()
    client.write(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /%73tream HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"content-length: 24" in head
    assert (await client.answer())[2] == b'{"size": 0, "path": "/stream"}' * 2


async def test_a_client_that_leaves_is_noticed_by_the_application(world: World) -> None:
    client = await world.connect()
    client.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
    await world.app.hanging.wait()
    client.writer.close()
    async with asyncio.timeout(1):
        await world.app.abandoned.wait()


async def test_slow_headers_are_cut(world: World) -> None:
    client = await world.connect()
    client.write(b"GET / HT")
    await asyncio.sleep(0.05)
    world.pass_time(11)
    assert (await client.answer())[0] == 408
    assert await client.reader.read() == b""


@pytest.mark.parametrize("start", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_a_body_that_stalls_is_cut(world: World, start: bytes) -> None:
    client = await world.connect()
    client.write(HEAD + start + b"1\r\na")
    await asyncio.sleep(0.05)
    world.pass_time(59)
    world.pass_time(2)
    assert (await client.answer())[0] == 408


async def test_a_steady_body_is_not(world: World) -> None:
    client = await world.connect()
    client.write(HEAD + b"Content-Length: 20000\r\n\r\n" + b"a" * 10_000)
    await asyncio.sleep(0.05)
    world.pass_time(61)
    client.write(b"a" * 10_000)
    assert json.loads((await client.answer())[2])["size"] == 20_000


async def test_idle_connections_are_closed(world: World) -> None:
    client = await world.connect()
    await asyncio.sleep(0.05)
    world.pass_time(31)
    assert await client.reader.read() == b""


async def test_millions_of_tiny_chunks_are_refused_early(world: World) -> None:
    client = await world.connect()
    client.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 3_000)
    status, _, body = await client.answer()
    assert status == 400
    assert "pieces of 1 bytes" in json.loads(body)["error"]


async def test_connections_beyond_the_limit_are_refused() -> None:
    app = App()
    async with serving(app, Gateway(max_connections=2), listen="127.0.0.1:0") as server:
        world = World(app, server)
        clients = [await world.connect() for _ in range(3)]
        clients[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await clients[1].answer())[0] == 200
        assert (await clients[2].answer())[0] == 503
        for client in clients:
            client.writer.close()


async def test_stop_finishes_what_is_in_flight() -> None:
    app = App()
    async with serving(app, Gateway(), listen="127.0.0.1:0") as server:
        world = World(app, server)
        idle, busy = await world.connect(), await world.connect()
        busy.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.hanging.wait()
        stopping = asyncio.create_task(server.stop(5))
        assert await idle.reader.read() == b""
        app.release.set()
        status, headers, _ = await busy.answer()
        assert (status, headers["connection"]) == (200, "close")
        await stopping
        with pytest.raises(OSError, match="onnect"):
            await world.connect()
        idle.writer.close()
        busy.writer.close()


async def test_stop_cuts_what_does_not_finish() -> None:
    app = App()
    async with serving(app, Gateway(), listen="127.0.0.1:0") as server:
        client = await World(app, server).connect()
        client.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.hanging.wait()
        await server.stop(0.05)
        await app.abandoned.wait()
        client.writer.close()


async def test_an_address_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InUse, match=address):
            async with serving(App(), Gateway(), listen=address):
                pass


async def test_the_control_socket_is_private_and_marked(tmp_path: Path) -> None:
    path, app = tmp_path / "c.sock", App()
    async with serving(app, Gateway(), control=Control(socket=path)) as server:
        assert server.addresses == [f"unix://{path}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(path)
        client = Client(reader, writer)
        client.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer())[0] == 200
        assert app.control == [True]
        writer.close()
    assert not path.exists()


ASK = """
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as found:
    found.connect(sys.argv[1])
    found.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    sys.stdout.write(found.recv(65536).decode())
"""


async def test_the_control_socket_refuses_another_user(tmp_path: Path) -> None:
    control, app = Control(socket=tmp_path / "c.sock"), App()
    async with serving(app, Gateway(), control=control, uid=lambda _: os.geteuid() + 1):
        client = Client(*await asyncio.open_unix_connection(control.socket))
        client.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        status, _, body = await client.answer()
        client.writer.close()
    answer = json.loads(body)
    assert (status, answer["code"], app.control) == (403, "FORBIDDEN", [])
    assert "control.mode" in answer["fix"]


@pytest.fixture
def public() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tr") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can connect as somebody else")
@pytest.mark.parametrize(("mode", "status"), [(0o600, "403"), (0o606, "200")])
async def test_the_kernel_says_who_connects(public: Path, mode: int, status: str) -> None:
    control = Control(socket=public / "c.sock", mode=mode)
    async with serving(App(), Gateway(), control=control):
        control.socket.chmod(0o666)  # as if the file's permissions had failed
        command = [sys.executable, "-I", "-c", ASK, str(control.socket)]
        asked = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20)
    assert asked.stdout.startswith(f"HTTP/1.1 {status} "), asked.stderr


async def test_a_living_control_socket_is_not_taken_over(tmp_path: Path) -> None:
    control = Control(socket=tmp_path / "c.sock")
    async with serving(App(), Gateway(), control=control):
        with pytest.raises(BadConfig, match="another daemon listens"):
            async with serving(App(), Gateway(), control=control):
                pass
        _, writer = await asyncio.open_unix_connection(control.socket)
        writer.close()


async def test_a_dead_socket_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(App(), Gateway(), control=Control(socket=path)):
        pass
    path.write_text("precious")
    with pytest.raises(BadConfig, match="not a socket"):
        async with serving(App(), Gateway(), control=Control(socket=path)):
            pass
    assert path.read_text() == "precious"
