"""One HTTP request and its answer, above ASGI: headers, bounded bodies, answers, errors."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import parse_qsl

import msgspec
import orjson

from tetherd.errors import (
    Cancelled,
    Forbidden,
    InvalidInput,
    MethodNotAllowed,
    OffsetConflict,
    QueueFull,
    TetherError,
    TooLarge,
)
from tetherd.wire import jsondata, problem

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]
T = TypeVar("T")

JSON: Final = (b"content-type", b"application/json")
BINARY: Final = (b"content-type", b"application/octet-stream")


class Exchange:
    """A request that is being answered."""

    __slots__ = ("_receive", "headers", "max_body", "params", "request_id", "scope")

    def __init__(self, scope: Scope, receive: Receive, max_body: int) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = ""
        self.max_body = max_body
        self.params: dict[str, str] = {}
        self._receive = receive

    @property
    def query(self) -> dict[str, str]:
        """Return the query parameters, the last of each name."""
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1")))

    def check_local(self, what: str) -> None:
        """Raise Forbidden unless the request came over the control socket. ``what``: what is for that alone."""
        if not self.scope.get("state", {}).get("control"):
            raise Forbidden(
                f"{what} on the control socket of each host only",
                fix="run tetherctl on the host itself, without --endpoint",
            )

    def header(self, name: bytes) -> str | None:
        """Return a header's value as text, or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def number(self, name: bytes) -> int | None:
        """Return a header that must be a non-negative integer. Raises InvalidInput."""
        value = self.headers.get(name)
        if value is None:
            return None
        if not value.isdigit() or len(value) > 18:
            raise InvalidInput(f"header {name.decode()} must be a non-negative integer, got {value[:40]!r}")
        return int(value)

    async def body(self) -> bytes:
        """Return the whole body. Raises TooLarge before reading it where its length is announced."""
        length = self.number(b"content-length")
        if length is not None and length > self.max_body:
            raise self.too_large()
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            first: bytes = message.get("body", b"")
            if len(first) > self.max_body:
                raise self.too_large()
            return first
        parts, size = [], 0
        while True:
            if message["type"] == "http.disconnect":
                raise Cancelled("the client went away")
            part = message.get("body", b"")
            size += len(part)
            if size > self.max_body:
                raise self.too_large()
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self._receive()

    def too_large(self) -> TooLarge:
        """Return the error for a body beyond the bound."""
        return TooLarge(
            f"the body is larger than {self.max_body} bytes", fix="send less at once, or raise gateway.max_body"
        )

    async def pieces(self, size: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of ``size`` bytes, the last one shorter."""
        rest = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Cancelled("the client went away")
            rest += message.get("body", b"")
            more = message.get("more_body", False)
            while len(rest) >= size:
                yield bytes(rest[:size])
                del rest[:size]
        if rest:
            yield bytes(rest)

    async def json(self, kind: type[T], *, empty: T | None = None) -> T:
        """Return the body as a value of ``kind``; an empty body is ``empty`` if that is given. Raises InvalidInput."""
        body = await self.body()
        if not body and empty is not None:
            return empty
        try:
            return msgspec.convert(jsondata.plain(jsondata.parse(body), "the request"), kind)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"the request is not as expected: {error}") from None


class Answer:
    """What to answer. ``stream``, if given, follows with the bytes that ``headers`` announce.

    ``outputs``: it holds a model's outputs, which may be compressed. Nothing else is: tritonclient's aio client asks
    for compression on every call and unpacks only these.
    """

    __slots__ = ("body", "headers", "outputs", "status", "stream")

    def __init__(
        self, status: int, body: bytes = b"", headers: Headers | None = None, stream: AsyncIterator[bytes] | None = None
    ) -> None:
        self.status = status
        self.body = body
        self.headers: Headers = [] if headers is None else headers
        self.stream = stream
        self.outputs = False


def document(value: Any, status: int = 200) -> Answer:
    """Return an answer that is a JSON document."""
    return Answer(status, orjson.dumps(value), [JSON])


def failure(error: TetherError, status: int | None = None) -> Answer:
    """Return an error as an answer, with the headers that belong to it."""
    headers: Headers = [JSON]
    if error.retry_after is not None or isinstance(error, QueueFull):
        headers.append((b"retry-after", str(max(1, round(error.retry_after or 1))).encode()))
    if isinstance(error, MethodNotAllowed) and "allow" in error.details:
        headers.append((b"allow", ", ".join(error.details["allow"]).encode()))
    if isinstance(error, OffsetConflict) and "offset" in error.details:
        headers.append((b"upload-offset", str(error.details["offset"]).encode()))
    return Answer(status or error.status, problem.document(error), headers)


async def send(answer: Answer, request_id: str, write: Send) -> None:
    """Write an answer. An error in the middle of a stream cuts the connection: the client sees that bytes miss."""
    headers = [*answer.headers, (b"x-request-id", request_id.encode())]
    if answer.stream is None and answer.status != 204:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await write({"type": "http.response.start", "status": answer.status, "headers": headers})
    if answer.stream is not None:
        async for piece in answer.stream:
            await write({"type": "http.response.body", "body": piece, "more_body": True})
    await write({"type": "http.response.body", "body": answer.body})
