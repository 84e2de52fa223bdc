"""Hosts that serve blobs, for tests of who fetches them: fair ones, and some that break every promise there is."""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import uvloop
from certificates import Network

from tetherd.drivers.models.bulk import BulkServer, Limits
from tetherd.drivers.models.drafts import Drafts
from tetherd.drivers.tcp.mutual import listening
from tetherd.errors import PermissionDenied
from tetherd.testing import MemoryBlobs
from tetherd.types import Credentials
from tetherd.wire.chunks import CHUNK, Blob, BlobSource, bits
from tetherd.wire.manifest import digest_of

Answer = Callable[[ssl.SSLSocket, int, int], None]
"""Answers a request for bytes from the first to before the second number, on an open connection."""


def blob_of(data: bytes) -> Blob:
    chunks = tuple(sha256(data[at : at + CHUNK]).digest() for at in range(0, len(data), CHUNK))
    return Blob(digest_of(data), len(data), chunks)


def shelf(*contents: bytes) -> MemoryBlobs:
    store = MemoryBlobs()
    for data in contents:
        store.append(digest_of(data), 0, len(data), data)
    return store


class Served:
    """A server on its own thread and event loop."""

    def __init__(self, server: BulkServer) -> None:
        self.server = server
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.current_task()
            await self.server.run(self._ready.set)

        with contextlib.suppress(asyncio.CancelledError):
            uvloop.run(main())

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(20)


class Hosts:
    """Starts hosts of one network and ends them all."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.refused: set[str] = set()
        self._running: list[Served] = []
        self._hostile: list[Any] = []

    def admit(self, node: str) -> None:
        if node in self.refused:
            raise PermissionDenied("revoked")

    def fair(
        self,
        store: MemoryBlobs,
        *,
        drafts: Drafts | None = None,
        credentials: Credentials | None = None,
        limits: Limits | None = None,
    ) -> BlobSource:
        mine = credentials or self.network.node()
        context = listening(mine)
        server = BulkServer(
            "127.0.0.1:0",
            shelf=store,
            drafts=drafts or Drafts(),
            context=lambda: context,
            admit=self.admit,
            limits=limits or Limits(),
        )
        self._running.append(Served(server))
        return BlobSource(mine.node, server.address)

    def hostile(self, blob: Blob, answer: Answer, *, node: str = "") -> BlobSource:
        mine = self.network.node()
        self._hostile.append(Hostile(mine, blob, answer))
        return BlobSource(node or mine.node, self._hostile[-1].address)

    def badly(self, source: BlobSource, limit: int) -> "Cutting":
        """Return a bad line to a source."""
        self._hostile.append(Cutting(source.address, limit))
        return self._hostile[-1]

    def kill(self, source: BlobSource) -> None:
        next(one for one in self._running if one.server.address == source.address).stop()

    def asked(self, source: BlobSource) -> int:
        return next(one for one in self._hostile if one.address == source.address).asked

    def stop(self) -> None:
        for one in [*self._running, *self._hostile]:
            one.stop()


class Hostile:
    """Claims to have every chunk of everything, and answers requests for bytes with ``answer``."""

    def __init__(self, credentials: Credentials, blob: Blob, answer: Answer) -> None:
        self.asked = 0
        self._blob = blob
        self._answer = answer
        self._context = listening(credentials)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._listener.close()

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                break
            threads.append(threading.Thread(target=self._serve, args=(raw,)))
            threads[-1].start()
        for thread in threads:
            thread.join(20)

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(raw, server_side=True) as connection:
            for path, start, end in requests(connection):
                if path.endswith("/chunks"):
                    connection.sendall(
                        head(200, -(-len(self._blob) // 8)) + bits(range(len(self._blob)), len(self._blob))
                    )
                else:
                    self.asked += 1
                    self._answer(connection, start, end)


class Cutting:
    """A bad line to a host: every connection breaks after so many bytes. ``sent`` counts all that came by."""

    def __init__(self, address: str, limit: int) -> None:
        self.sent = self.cuts = 0
        self._to = address
        self._limit = limit
        self._counting = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                host, _, port = self._to.rpartition(":")
                far = socket.create_connection((host, int(port)), 5)
                for carry in (self._out, self._back):
                    self._threads.append(threading.Thread(target=carry, args=(near, far)))
                    self._threads[-1].start()

    def _out(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)
        for end in (near, far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _back(self, near: socket.socket, far: socket.socket) -> None:
        left = self._limit
        with near, far, contextlib.suppress(OSError):
            while left > 0 and (data := far.recv(min(left, 65536))):
                near.sendall(data)
                left -= len(data)
                with self._counting:
                    self.sent += len(data)
            self.cuts += left <= 0
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # without a goodbye
            near.shutdown(socket.SHUT_RD)


def requests(connection: ssl.SSLSocket) -> Iterator[tuple[str, int, int]]:
    received = b""
    while data := connection.recv(65536):
        received += data
        while b"\r\n\r\n" in received:
            text, _, received = received.partition(b"\r\n\r\n")
            path = text.split(b" ")[1].decode()
            found = re.search(rb"bytes=(\d+)-(\d+)", text)
            yield path, int(found[1]) if found else 0, int(found[2]) + 1 if found else 0


def head(status: int, length: int, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()
