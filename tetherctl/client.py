"""A small HTTP/1.1 client over one kept-alive socket, Unix or TCP. Every wait is bounded; nothing is printed."""

import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from tetherctl.endpoint import Endpoint, connect, not_answering, peer_pid
from tetherctl.errors import ConnectionLost, NotTether
from tetherd.errors import MALFORMED, Failure, revive

TIMEOUT: Final = 10.0
CHUNK: Final = 256 * 1024
MAX_HEAD: Final = 64 * 1024
MAX_ANSWER: Final = 256 * 1024 * 1024
IDEMPOTENT: Final = frozenset({"GET", "HEAD"})


class Answer:
    """One response: ``status``, lower-case ``headers``, and its body, read whole or in pieces."""

    def __init__(self, status: int, headers: dict[str, str], pieces: Iterator[bytes]) -> None:
        self.status = status
        self.headers = headers
        self.pieces = pieces

    def read(self) -> bytes:
        """Return the whole body. Raises NotTether beyond MAX_ANSWER."""
        held: list[bytes] = []
        total = 0
        for piece in self.pieces:
            total += len(piece)
            if total > MAX_ANSWER:
                raise NotTether(f"the answer is larger than {MAX_ANSWER >> 20} MiB", fix="check --endpoint")
            held.append(piece)
        return b"".join(held)


class Client:
    """Talks to one endpoint, one request at a time; not thread-safe. ``timeout`` None: each call's own default."""

    def __init__(self, endpoint: Endpoint, timeout: float | None = None) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self._sock: socket.socket | None = None
        self._buffer = b""
        self._limit = timeout or TIMEOUT
        self._until: float | None = None
        self._unread = False

    def close(self) -> None:
        """Hang up."""
        if self._sock:
            self._sock.close()
        self._sock, self._buffer, self._unread = None, b"", False

    def json(self, method: str, path: str, body: Any = None, *, timeout: float = TIMEOUT) -> Any:
        """Send ``body`` as JSON and return the decoded answer. Raises the server's error, or an Unreachable."""
        data = None if body is None else msgspec.json.encode(body)
        raw = self.request(method, path, data, {"Content-Type": "application/json"} if data else {}, timeout).read()
        try:
            return msgspec.json.decode(raw) if raw else {}
        except MALFORMED:
            raise self._not_tether("its answer is not JSON") from None

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> Answer:
        """Send one request whose answer must come whole within the time. Raises what the server says went wrong."""
        answer = self.exchange(method, path, body, headers, timeout)
        self.check(answer)
        return answer

    def check(self, answer: Answer) -> None:
        """Raise the error that ``answer`` carries, if it does."""
        if answer.status >= 400:
            raise self._failure(answer)

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | memoryview | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
        *,
        stream: bool = False,
    ) -> Answer:
        """Send one request and return the answer whatever its status.

        ``stream``: the time bounds each silence instead of the whole answer. A GET that broke before any answer is
        sent once more.
        """
        self._limit = self.timeout or timeout
        head = self._head(method, path, body, headers or {})
        for again in (method in IDEMPOTENT, False):
            self._until = None if stream else time.monotonic() + self._limit
            try:
                self._send(head, body)
                return self._receive(method)
            except ConnectionLost:
                self.close()
                if not again:
                    raise
            except BaseException:
                self.close()  # an answer half read would be taken for the next one's
                raise
        raise AssertionError("unreachable")

    def _head(self, method: str, path: str, body: bytes | memoryview | None, headers: Mapping[str, str]) -> bytes:
        host = "localhost" if self.endpoint.path else str(self.endpoint).removeprefix("http://")
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Accept: */*", "User-Agent: tetherctl"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None or method in {"POST", "PUT", "PATCH"}:
            lines.append(f"Content-Length: {len(body or b'')}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _send(self, head: bytes, body: bytes | memoryview | None) -> None:
        if self._unread:
            self.close()  # what is left of the last answer would be taken for this one's
        if self._sock and select.select([self._sock], [], [], 0)[0]:
            self.close()  # the server hung up in between: do not lose a request on it
        if not self._sock:
            self._sock = connect(self.endpoint, self._limit)
        try:
            self._push(head)
            view = memoryview(body or b"")
            for start in range(0, len(view), CHUNK):
                self._push(view[start : start + CHUNK])
        except OSError:
            pass  # a server that refuses a body answers first and hangs up: its answer may be here to read

    def _push(self, data: bytes | memoryview) -> None:
        self._wait(lambda sock: sock.sendall(data))

    def _wait(self, act: Callable[[socket.socket], Any]) -> Any:
        sock = self._sock
        if sock is None:
            raise ConnectionLost("the connection is closed")
        left = self._limit if self._until is None else min(self._until - time.monotonic(), self._limit)
        try:
            sock.settimeout(max(left, 0.001))
            return act(sock)
        except TimeoutError:
            raise not_answering(self.endpoint, self._limit, peer_pid(sock)) from None

    def _recv(self) -> bytes:
        try:
            data: bytes = self._wait(lambda sock: sock.recv(CHUNK))
        except OSError as error:
            raise ConnectionLost(f"the connection to {self.endpoint} broke: {error.strerror}") from None
        if not data:
            raise ConnectionLost(
                f"tetherd at {self.endpoint} hung up before its answer was complete", fix="try again; see its log"
            )
        return data

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise self._not_tether("its header does not end")
            self._buffer += self._recv()
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line.rstrip(b"\r")

    def _receive(self, method: str) -> Answer:
        status = 100
        headers: dict[str, str] = {}
        while 100 <= status < 200:
            status, headers = self._read_head()
        return Answer(status, headers, self._body(method, status, headers))

    def _read_head(self) -> tuple[int, dict[str, str]]:
        protocol, _, rest = self._line().partition(b" ")
        if not protocol.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise self._not_tether("it does not speak HTTP")
        headers: dict[str, str] = {}
        total = 0
        while line := self._line():
            total += len(line)
            if total > MAX_HEAD:
                raise self._not_tether("its header does not end")
            name, _, value = line.partition(b":")
            headers[name.decode("latin-1").strip().lower()] = value.decode("latin-1").strip()
        return int(rest[:3]), headers

    def _body(self, method: str, status: int, headers: dict[str, str]) -> Iterator[bytes]:
        length = headers.get("content-length")
        if method == "HEAD" or status in {204, 304}:
            return iter(())
        if headers.get("transfer-encoding", "").lower() == "chunked":
            pieces: Iterator[bytes] = self._chunked()
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise self._not_tether("its answer has no usable length")
            pieces = self._exactly(int(length))
        else:
            pieces = self._until_closed()
        self._unread = True
        return self._guarded(pieces, headers)

    def _guarded(self, pieces: Iterator[bytes], headers: dict[str, str]) -> Iterator[bytes]:
        whole, sock = False, self._sock
        try:
            yield from pieces
            whole, self._unread = True, False
        finally:
            over = not whole or headers.get("connection", "").lower() == "close"
            if over and self._sock is sock:  # a body given up late must not end the connection that came after
                self.close()

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            data = self._buffer or self._recv()
            yield data[:length]
            self._buffer = data[length:]
            length -= min(length, len(data))

    def _chunked(self) -> Iterator[bytes]:
        while True:
            try:
                length = int(self._line().partition(b";")[0], 16)
            except ValueError:
                raise self._not_tether("its answer is cut wrongly") from None
            yield from self._exactly(length)
            self._line()
            if not length:
                return

    def _until_closed(self) -> Iterator[bytes]:
        data = self._buffer
        while True:
            if data:
                yield data
            try:
                data = self._wait(lambda sock: sock.recv(CHUNK))
            except OSError as error:
                raise ConnectionLost(f"the connection to {self.endpoint} broke: {error.strerror}") from None
            if not data:
                self.close()
                return

    def _failure(self, answer: Answer) -> Exception:
        raw = answer.read()
        try:
            body = msgspec.json.decode(raw, type=dict[str, Any])
            wait, details = answer.headers.get("retry-after", ""), body.get("details")
            return revive(
                Failure(
                    str(body.get("code", "INTERNAL")),
                    str(body["error"]),
                    str(body.get("fix") or ""),
                    retry_after=float(wait) if wait.isdigit() else None,
                    details=details if isinstance(details, dict) else {},
                )
            )
        except (*MALFORMED, KeyError):
            return self._not_tether(f"it answered {answer.status} without a reason")

    def _not_tether(self, why: str) -> NotTether:
        return NotTether(f"what answers at {self.endpoint} is not tetherd: {why}", fix="check --endpoint")
