"""One HTTP connection: uvicorn's httptools protocol, with the bounds and time limits that it lacks.

Nothing here starts a timer per request: connections note when they last changed, and the server sweeps over all of
them once a second.
"""

import asyncio
import socket
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Protocol
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tetherd.config.schema import Gateway
from tetherd.errors import HeadersTooLarge, InvalidInput, MethodNotAllowed, RequestTimeout, TetherError, Unavailable
from tetherd.types import Seconds
from tetherd.wire import problem

MAX_HEAD: Final = 64 * 1024
MAX_HEADERS: Final = 128
LINGER: Final[Seconds] = 2.0
"""How long the rest of a refused request is read and dropped, so that the client gets to read why."""

_MIN_RATE: Final = 64
"""Bytes a second below which a body counts as stalled."""

_FREE_PIECES: Final = 1024
_PIECE: Final = 64
"""A body in more pieces than the first, averaging less than the second in bytes, is refused: each costs a call."""

_JOINED: Final = 64 * 1024
"""Bodies up to this size are copied behind their head, longer ones are written apart."""

_ALLOW: Final = b"allow: DELETE, GET, HEAD, PATCH, POST, PUT\r\n"


class Reading(Enum):
    """What of a request is being read."""

    NOTHING = 0
    HEAD = 1
    BODY = 2
    LEFTOVERS = 3  # of a connection that was refused: read, dropped, then closed


class Listener(Protocol):
    """What a connection shares with the others of its server. ``now`` is at most a second old."""

    config: Config
    state: ServerState
    settings: Gateway
    now: Seconds

    def left(self) -> None:
        """Called when a connection is gone."""


class Cycle(RequestResponseCycle):
    """One request and its answer. An answer in one piece is written in one piece, head and body."""

    _start: Any = None

    async def send(self, message: Any) -> None:
        """Take a message from the application; the start of an answer waits for its body."""
        if self._start is None and message["type"] == "http.response.start" and not self.response_started:
            self._start = message
            return
        start, self._start = self._start, None
        if start is None or message.get("more_body"):
            if start is not None:
                await super().send(start)
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected:
            self._write(start, message.get("body", b""))

    def _write(self, start: Any, body: bytes) -> None:
        headers = [*self.default_headers, *start["headers"]]
        lines = [STATUS_LINE[start["status"]], *[b"%s: %s\r\n" % header for header in headers]]
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        if self.scope["method"] == "HEAD":
            body = b""
        if len(body) < _JOINED:
            lines.append(body)
            self.transport.write(b"".join(lines))
        else:
            self.transport.writelines([b"".join(lines), body])
        self.response_started = self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Connection(HttpToolsProtocol):
    """A client's connection. ``marks`` is what the application finds in ``scope["state"]``.

    ``admit`` raises a TetherError for a client that may not be here: that is then the only answer it gets.

    An application whose work is worth nothing to anybody else sets ``scope["state"]["abandon"]``: its task is cancelled
    when the client goes away before it is answered.
    """

    def __init__(self, listener: Listener, marks: dict[str, Any], admit: Callable[[socket.socket], None]) -> None:
        super().__init__(listener.config, listener.state, marks, asyncio.get_running_loop())
        self.access_log = False
        self.listener = listener
        self.admit = admit
        self.reading = Reading.NOTHING
        self.since = listener.now  # when what is being read began, or the last answer was given
        self.received = 0  # bytes in this phase
        self.pieces = 0
        self.running: RequestResponseCycle | None = None
        self.task: asyncio.Task[None] | None = None
        self.stalled_at: Seconds | None = None

    # --- the connection --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, or refuse it when there are too many or it is from the wrong user."""
        full = len(self.connections) >= self.listener.settings.max_connections
        super().connection_made(transport)
        try:
            if full:
                raise Unavailable("too many connections", fix="try again later, and reuse connections")
            self.admit(transport.get_extra_info("socket"))
        except TetherError as error:
            self.refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application, whose work nobody waits for any more."""
        super().connection_lost(exc)
        running = self.running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
            if self.task is not None and running.scope["state"].get("abandon"):
                self.task.cancel()
        self.pipeline.clear()
        self.listener.left()

    def pause_writing(self) -> None:
        """Note since when the client does not read."""
        super().pause_writing()
        self.stalled_at = self.listener.now

    def resume_writing(self) -> None:
        """Forget it: the client reads again."""
        super().resume_writing()
        self.stalled_at = None

    # --- reading ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Feed the parser; answer what it refuses with the error document that every other error has."""
        if self.reading is Reading.LEFTOVERS:
            return
        if self.reading is Reading.HEAD:
            self.received += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # upgrades are not spoken here: the request is answered as it stands
        except httptools.HttpParserInvalidMethodError:
            if data[:1].isalpha():
                self.refuse(MethodNotAllowed("the request's method is not one of HTTP's"))
            else:
                self.refuse(InvalidInput("the request is not HTTP/1.1", fix="TLS is not spoken at this port"))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self.refuse(cause if isinstance(cause, TetherError) else InvalidInput("the request line is malformed"))
        except httptools.HttpParserError as error:
            self.refuse(InvalidInput(f"the request is not HTTP/1.1: {str(error)[:200]}"))
        else:
            if self.reading is Reading.HEAD and self.received > MAX_HEAD:
                self.refuse(_too_large())

    def eof_received(self) -> None:
        """Let the transport close: a client that shuts its side has gone away."""

    def on_message_begin(self) -> None:
        """Start the clock of the headers."""
        super().on_message_begin()
        self.reading = Reading.HEAD
        self.since = self.listener.now
        self.received = 0

    def on_headers_complete(self) -> None:
        """Check the head and hand the request to the application."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        self._check_head(method, version)
        url = httptools.parse_url(self.url)
        self.scope["method"] = method.decode("ascii")
        self.scope["http_version"] = version
        self.scope["raw_path"] = url.path
        self.scope["path"] = unquote(url.path.decode("ascii")) if b"%" in url.path else url.path.decode("ascii")
        self.scope["query_string"] = url.query or b""
        busy = self.running is not None and not self.running.response_complete
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.reading = Reading.BODY
        self.since = self.listener.now
        self.received = self.pieces = 0
        if busy or self.pipeline:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._start_asgi_task(self.cycle, self.app)

    def _check_head(self, method: bytes, version: str) -> None:
        if len(self.headers) > MAX_HEADERS or _size(self.url, self.headers) > MAX_HEAD:
            raise _too_large()
        if method in (b"TRACE", b"CONNECT"):
            raise MethodNotAllowed("TRACE and CONNECT are not served")
        if version not in ("1.1", "1.0"):
            raise InvalidInput("the request is not HTTP/1.1")

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on, unless they are absurdly small."""
        self.received += len(body)
        self.pieces += 1
        if self.pieces > _FREE_PIECES and self.received < self.pieces * _PIECE:
            raise InvalidInput(
                f"the body comes in {self.pieces} pieces of {self.received // self.pieces} bytes",
                fix="send larger chunks",
            )
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request has arrived in full."""
        super().on_message_complete()
        self.reading = Reading.NOTHING
        self.since = self.listener.now

    # --- answering -------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # Not by the method this replaces: it keeps a set of tasks for a shutdown that is not ours.
        self.running = cycle
        self.task = self.loop.create_task(cycle.run_asgi(app))

    def on_response_complete(self) -> None:
        """Start the next request, or wait for one. No timer is set, unlike in the method this replaces."""
        if self.transport.is_closing():
            return
        self.since = self.listener.now
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def refuse(self, error: TetherError) -> None:
        """Answer with an error that the application never sees, and close once the client could read it."""
        running = self.running
        answering = running is not None and not running.response_complete
        if answering and running is not None:
            running.disconnected = True
            running.message_event.set()
        self.reading = Reading.LEFTOVERS
        self.since = self.listener.now
        self.pipeline.clear()
        if self.transport.is_closing():
            return
        if answering and running is not None and running.response_started:
            self.transport.abort()
            return
        body = problem.document(error)
        lines = [STATUS_LINE[error.status], b"content-type: application/json\r\n"]
        if isinstance(error, MethodNotAllowed):
            lines.append(_ALLOW)
        lines += [b"%s: %s\r\n" % header for header in self.server_state.default_headers]
        lines += [b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body), body]
        self.transport.write(b"".join(lines))
        self.transport.write_eof()

    # --- time ------------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Close the connection if its client is too slow at what it is doing."""
        settings, waited = self.listener.settings, self.listener.now - self.since
        if self.stalled_at is not None and self.listener.now - self.stalled_at > settings.body_timeout:
            self.transport.abort()
        elif self.reading is Reading.LEFTOVERS:
            if waited > LINGER:
                self.transport.abort()
        elif self.reading is Reading.HEAD:
            if waited > settings.header_timeout:
                self.refuse(RequestTimeout(f"the headers took longer than {settings.header_timeout:g} s"))
        elif self.reading is Reading.BODY:
            self._sweep_body(waited, settings)
        elif waited > settings.idle_timeout and (self.running is None or self.running.response_complete):
            self._close_idle()

    def _sweep_body(self, waited: Seconds, settings: Gateway) -> None:
        if self.running is not None and self.running.response_complete:
            if waited > settings.header_timeout:  # it was answered, and goes on sending
                self.transport.abort()
        elif self.flow.read_paused:
            self.since, self.received, self.pieces = self.listener.now, 0, 0
        elif waited > settings.body_timeout:
            if self.received < _MIN_RATE * waited:
                self.refuse(RequestTimeout(f"the body stalled for {settings.body_timeout:g} s"))
            self.since, self.received, self.pieces = self.listener.now, 0, 0

    def _close_idle(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # an answer that is never read
        else:
            self.transport.close()


def _size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum([len(name) + len(value) for name, value in headers])


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"the request has more than {MAX_HEADERS} headers or {MAX_HEAD} bytes of them")
