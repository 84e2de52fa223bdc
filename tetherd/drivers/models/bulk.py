"""Serves blobs to the members of the network: ranged HTTPS with mutual TLS.

``GET /blobs/DIGEST`` and ``HEAD``, whole or one range, and ``GET /blobs/DIGEST/chunks``: which chunks of it are here,
one bit each, lowest first, while the blob is itself being fetched. Connections wait on the event loop, where waiting
costs nothing; bytes are read and encrypted on threads, where they hold up nobody.
"""

import asyncio
import contextlib
import logging
import re
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeVar

import msgspec

from tetherd.drivers.models.drafts import Draft, Drafts
from tetherd.drivers.models.heads import Request, parse
from tetherd.drivers.tcp.mutual import peer
from tetherd.drivers.tcp.reception import HANDSHAKE, Reception, drop, until
from tetherd.errors import (
    BlobNotFound,
    HeadersTooLarge,
    MethodNotAllowed,
    RouteNotFound,
    TetherError,
    Unavailable,
)
from tetherd.types import Digest, Seconds
from tetherd.wire import problem
from tetherd.wire.catalog import BlobState
from tetherd.wire.chunks import bits, count
from tetherd.wire.ranges import byte_range

R = TypeVar("R")

_SENDERS: Final = 16
_MAX_HEAD: Final = 8192
_PIECE: Final = 256 * 1024
_PATH: Final = re.compile(r"/blobs/(sha256:[0-9a-f]{64})(/chunks)?")
_OCTETS: Final = {"content-type": "application/octet-stream"}

_log = logging.getLogger("tetherd.bulk")


class Shelf(Protocol):
    """Where the blobs are. Blocking, and called from threads."""

    def stat(self, digest: Digest) -> BlobState:
        """Return how much of the blob is stored, and keep it for a while if all of it is."""

    def read(self, digest: Digest, offset: int, length: int) -> tuple[bytes, int]:
        """Return at most ``length`` bytes and the blob's size. Raises BlobNotFound."""


class Answer:
    """A status with headers, and what follows them: a document, or bytes ``start`` to ``end`` of a blob."""

    def __init__(self, status: int, headers: dict[str, str], *, body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.start = self.end = 0
        self.read: Callable[[int, int], bytes] = lambda _, __: b""

    def head(self) -> bytes:
        """Return the lines before the body."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


class Limits(msgspec.Struct, frozen=True):
    """Bounds of a server: connections, also of one node, and seconds for a handshake, a head, silence and a stall."""

    connections: int = 512
    per_node: int = 16
    handshake: Seconds = HANDSHAKE
    head: Seconds = 5.0
    idle: Seconds = 15.0
    stall: Seconds = 10.0


_LIMITS: Final = Limits()


class BulkServer:
    """Serves a shelf at ``listen`` (``HOST:PORT``).

    ``context`` is asked for the TLS context of each new connection, so a renewed certificate is used from then on.
    ``admit`` raises PermissionDenied for a node that may not be served; it is asked before every piece that is sent.
    """

    def __init__(
        self,
        listen: str,
        *,
        shelf: Shelf,
        drafts: Drafts,
        context: Callable[[], ssl.SSLContext],
        admit: Callable[[str], None],
        limits: Limits = _LIMITS,
    ) -> None:
        self._reception = Reception(listen, "cluster.bulk", context, self._serve, limits.handshake)
        self._shelf = shelf
        self._drafts = drafts
        self._admit = admit
        self._limits = limits
        self._senders = ThreadPoolExecutor(_SENDERS, "bulk")
        self._nodes: Counter[str] = Counter()

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen, call ``ready``, and serve until cancelled. Raises InUse or BadConfig."""
        try:
            await self._reception.run(ready)
        finally:
            self._senders.shutdown(wait=False, cancel_futures=True)

    @property
    def address(self) -> str:
        """Where it listens, once it does."""
        return self._reception.address

    async def _serve(self, connection: ssl.SSLSocket) -> None:
        node = ""
        try:
            node = peer(connection)
            self._admit(node)
            with self._counted(node):
                await self._attend(connection, node)
        except TetherError as error:
            _log.info("closed a connection", extra={"peer": node, "reason": error.message})
        except (OSError, TimeoutError) as error:
            _log.debug("lost a connection", extra={"peer": node, "reason": str(error) or "too slow"})

    @contextlib.contextmanager
    def _counted(self, node: str) -> Iterator[None]:
        if self._nodes[node] >= self._limits.per_node or self._nodes.total() >= self._limits.connections:
            raise Unavailable("too many connections", fix="try again later")
        self._nodes[node] += 1
        try:
            yield
        finally:
            self._nodes -= Counter([node])

    async def _attend(self, connection: ssl.SSLSocket, node: str) -> None:
        """Answer one request after the other until the peer has no more, or makes no sense."""
        received = bytearray()
        while True:
            try:
                request = await self._request(connection, received)
            except TetherError as error:
                await self._on_thread(connection, self._send, connection, _refusal(error), node)
                return
            if request is None:
                return
            try:
                answer = await self._on_thread(connection, self._answer, request)
            except TetherError as error:
                answer = _refusal(error)
            if request.method == "HEAD":
                answer.body, answer.start = b"", answer.end
            await self._on_thread(connection, self._send, connection, answer, node)

    async def _request(self, connection: ssl.SSLSocket, received: bytearray) -> Request | None:
        """Return the next request, None when the peer has gone; what follows it stays in ``received``."""
        patience = self._limits.head if received else self._limits.idle
        while (end := received.find(b"\r\n\r\n")) < 0:
            if len(received) > _MAX_HEAD:
                raise HeadersTooLarge(f"the request has more than {_MAX_HEAD} bytes of headers")
            async with asyncio.timeout(patience):
                data = await until(connection, lambda: connection.recv(_MAX_HEAD))
            if not data:
                return None
            received += data
            patience = self._limits.head
        head = bytes(received[: end + 4])
        del received[: end + 4]
        return parse(head)

    async def _on_thread(self, connection: ssl.SSLSocket, act: Callable[..., R], *arguments: Any) -> R:
        """Let a thread act; whoever is cancelled meanwhile leaves no thread behind that uses the connection."""
        work = asyncio.get_running_loop().run_in_executor(self._senders, act, *arguments)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            drop(connection)
            await asyncio.wait([work])
            raise

    def _answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{request.method} is not served here", fix="blobs are read with GET and HEAD")
        match = _PATH.fullmatch(request.target.decode("ascii", "replace"))
        if match is None:
            raise RouteNotFound("there is no such path", fix="blobs are at /blobs/sha256:...")
        return (self._chunks if match[2] else self._blob)(Digest(match[1]), request)

    def _chunks(self, digest: Digest, _: Request) -> Answer:
        size, draft = self._find(digest)
        total = count(size)
        body = bits(draft.have if draft else range(total), total)
        return Answer(200, _OCTETS | {"content-length": str(len(body))}, body=body)

    def _blob(self, digest: Digest, request: Request) -> Answer:
        size, draft = self._find(digest)
        asked = request.headers.get(b"range")
        start, end = (0, size) if asked is None else byte_range(asked.decode("latin-1"), size)
        if draft and not draft.holds(start, end):
            raise BlobNotFound("this part of the blob is not here yet", fix="ask another manager, or later")
        headers = _OCTETS | {"content-length": str(end - start), "accept-ranges": "bytes", "etag": f'"{digest}"'}
        if asked is not None:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        answer = Answer(200 if asked is None else 206, headers)
        answer.start, answer.end = start, end
        answer.read = draft.read if draft else lambda at, length: self._shelf.read(digest, at, length)[0]
        return answer

    def _find(self, digest: Digest) -> tuple[int, Draft | None]:
        """Return a blob's size and, where it is not complete, what of it is here. Raises BlobNotFound."""
        state = self._shelf.stat(digest)
        if state.complete:
            return state.offset, None
        draft = self._drafts.get(digest)
        if draft is None:
            raise BlobNotFound(f"no blob {digest} is stored here", fix="ask another manager")
        return draft.blob.size, draft

    def _send(self, connection: ssl.SSLSocket, answer: Answer, node: str) -> None:
        connection.settimeout(self._limits.stall)
        try:
            connection.sendall(answer.head() + answer.body)
            at = answer.start
            while at < answer.end:
                self._admit(node)  # a node that is revoked meanwhile gets no further
                data = answer.read(at, min(_PIECE, answer.end - at))
                if not data:
                    raise BlobNotFound("the blob ended early")
                connection.sendall(data)
                at += len(data)
        finally:
            connection.setblocking(False)


def _refusal(error: TetherError) -> Answer:
    body = problem.document(error)
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    return Answer(error.status, headers, body=body)
