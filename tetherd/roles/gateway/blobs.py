"""Blobs over HTTP: resumable uploads that stream, downloads with a range."""

from collections.abc import AsyncIterator
from typing import Final

from tetherd.errors import BlobNotFound, InvalidInput
from tetherd.roles.gateway.exchange import BINARY, Answer, Exchange, Headers
from tetherd.roles.gateway.operations import CHUNK, Operations
from tetherd.roles.gateway.routing import Route
from tetherd.types import Digest, parse_digest
from tetherd.wire.catalog import GetBlob, StatBlob
from tetherd.wire.ranges import byte_range

PATH: Final = "/api/v1/blobs/{digest}"


class Blobs:
    """Handlers of ``/api/v1/blobs``."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def routes(self) -> list[Route]:
        """Return the paths of blobs."""
        put = {201: "Complete, verified and durable", 204: "More is needed; Upload-Offset tells from where"}
        get = {200: "The blob", 206: "A range of it"}
        return [
            Route("HEAD", PATH, self.stat, "Tell whether a blob is stored", {200: "It is"}, (400, 404, 503)),
            Route("GET", PATH, self.read, "Read a blob", get, (400, 404, 416, 503)),
            Route(
                "PATCH",
                PATH,
                self.write,
                "Append to a blob's upload",
                put,
                (400, 409, 413, 422, 503, 507),
                ("application/octet-stream", {}),
            ),
        ]

    async def stat(self, exchange: Exchange) -> Answer:
        """Answer 200 for a complete blob, else 404 and the offset from which to go on."""
        digest = parse_digest(exchange.params["digest"])
        state = await self._operations.ask(StatBlob(digest), exchange.request_id)
        offset = str(state.offset).encode()
        if state.complete:
            return Answer(200, b"", [BINARY, (b"content-length", offset)], _nothing())
        return Answer(404, b"", [BINARY, (b"upload-offset", offset)])

    async def write(self, exchange: Exchange) -> Answer:
        """Append the body to the blob, passing it on in pieces as it comes."""
        digest = parse_digest(exchange.params["digest"])
        offset, size = exchange.number(b"upload-offset"), exchange.number(b"upload-length")
        if offset is None or size is None:
            raise InvalidInput(
                "the headers Upload-Offset and Upload-Length are needed", fix="HEAD tells the offset to go on from"
            )
        if offset + (exchange.number(b"content-length") or 0) > size:
            raise InvalidInput(f"the body goes beyond Upload-Length ({size} bytes)")
        state = await self._operations.put(digest, offset, size, exchange.pieces(CHUNK), exchange.request_id)
        headers: Headers = [(b"upload-offset", str(state.offset).encode())]
        return Answer(201 if state.complete else 204, b"", headers)

    async def read(self, exchange: Exchange) -> Answer:
        """Answer with the blob, or the one range of it that is asked for."""
        digest = parse_digest(exchange.params["digest"])
        state = await self._operations.ask(StatBlob(digest), exchange.request_id)
        if not state.complete:
            raise BlobNotFound(f"no blob {digest} is stored")
        size, asked = state.offset, exchange.header(b"range")
        start, end = (0, size) if asked is None else byte_range(asked, size)
        headers = [BINARY, (b"content-length", str(end - start).encode()), (b"accept-ranges", b"bytes")]
        if asked is not None:
            headers.append((b"content-range", f"bytes {start}-{end - 1}/{size}".encode()))
        stream = self._stream(digest, start, end, exchange.request_id)
        return Answer(200 if asked is None else 206, b"", headers, stream)

    async def _stream(self, digest: Digest, start: int, end: int, request_id: str) -> AsyncIterator[bytes]:
        while start < end:
            chunk = await self._operations.ask(GetBlob(digest, start, min(CHUNK, end - start)), request_id)
            data = bytes(chunk.data.data)
            start += len(data)
            yield data


async def _nothing() -> AsyncIterator[bytes]:
    """Stand for the body that an answer to HEAD announces and does not have."""
    for _ in ():
        yield b""
