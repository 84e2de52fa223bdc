"""One connection to a host that serves blobs, as a client uses it: asked for one thing at a time, and never trusted.

Everything that is received is bounded by what was asked for, in bytes and in time.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

import msgspec

from tetherd.drivers.tcp.dialer import POLL, Dialer, Refused
from tetherd.types import Digest, Seconds
from tetherd.wire.chunks import Blob, BlobSource, from_bits

_MAX_HEAD: Final = 8192
_DIGITS: Final = 20  # int() raises what is no error of ours where there are thousands
_WORTH: Final = 64 * 1024
"""A connection that brought so much of a chunk is worth another one that brings the rest."""

_OK: Final = 200
_PARTIAL: Final = 206
_MAY_COME: Final = frozenset({404, 429, 500, 503})
"""Statuses of a source that may have the blob a moment later."""


class Pace(msgspec.Struct, frozen=True):
    """How slow is too slow: seconds to connect, bytes a second over so many seconds, seconds without any progress.

    ``silent``: after so many seconds without a byte a connection counts as lost, and its source as worth another one.
    """

    connect: Seconds = 5.0
    rate: int = 64 * 1024
    over: Seconds = 30.0
    stuck: Seconds = 60.0
    silent: Seconds = 6.0


PACE: Final = Pace()


class Link:
    """One connection to one source, opened when it is first needed. For one thread; ``stopped`` ends every wait."""

    def __init__(self, source: BlobSource, dialer: Dialer, pace: Pace, stopped: Callable[[], bool]) -> None:
        self._source = source
        self._dialer = dialer
        self._pace = pace
        self._stopped = stopped
        self._connection: ssl.SSLSocket | None = None
        self._filled = 0  # bytes of the body that is being received
        self._began: Seconds = 0.0
        self._received = 0
        self._head: dict[str, str] = {}

    def held(self, blob: Blob) -> frozenset[int] | None:
        """Return which chunks the source has; None = all. Raises Refused, OSError."""
        total = len(blob)
        size = -(-total // 8)
        self._watch()
        have = from_bits(bytes(self._ask(f"/blobs/{blob.digest}/chunks", "", size)), total)
        return None if len(have) == total else have

    def read(self, blob: Blob, index: int, into: memoryview) -> memoryview:
        """Return a chunk, received into the start of ``into``. Raises Refused, OSError.

        Where the connection is lost after it brought a good part, the rest is asked for on another one.
        """
        start, length = blob.span(index)
        self._watch()
        at = 0
        while at < length:
            try:
                at += len(self._rest(blob, start + at, into[at:length]))
            except OSError:
                if self._filled < _WORTH or self._stopped():
                    raise
                at += self._filled
                self.close()
        return into[:length]

    def _rest(self, blob: Blob, start: int, into: memoryview) -> memoryview:
        end = start + len(into) - 1
        wanted = f"bytes {start}-{end}/{blob.size}"
        data = self._ask(f"/blobs/{blob.digest}", f"range: bytes={start}-{end}\r\n", len(into), into)
        if self._head.get("content-range") != wanted:
            raise Refused(f"sent the range {self._head.get('content-range', 'none')!r:.80} instead of {wanted!r}")
        return data

    def whole(self, digest: Digest, limit: int) -> memoryview:
        """Return a blob of unknown size, at most ``limit`` bytes. Raises Refused, OSError."""
        self._watch()
        return self._ask(f"/blobs/{digest}", "", limit, at_most=True)

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def abort(self) -> None:
        """End whatever the link's thread waits for; from another thread."""
        found = self._connection
        if found is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown: that makes what the other thread sends next go out unencrypted.
                socket.socket.shutdown(found, socket.SHUT_RDWR)

    def _ask(
        self, path: str, headers: str, length: int, into: memoryview | None = None, *, at_most: bool = False
    ) -> memoryview:
        """Send a request and return the body of the answer, received into ``into`` where that is given."""
        self._filled = 0
        connection = self._connection or self._connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {self._source.node}\r\n{headers}\r\n".encode("ascii"))
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            if len(received) > _MAX_HEAD:
                raise Refused("sent more than a head")
            part = bytearray(_MAX_HEAD)
            received += part[: self._receive(memoryview(part))]
        status, self._head = _parse(bytes(received[:end]))
        if status != (_PARTIAL if headers else _OK):
            raise Refused(f"answered {status}", final=status not in _MAY_COME)
        announced = self._head.get("content-length", "")
        number = int(announced) if announced.isdecimal() and len(announced) < _DIGITS else -1
        if not (0 <= number <= length if at_most else number == length):
            raise Refused(f"announced {announced!r:.40} bytes instead of {length}")
        view = memoryview(bytearray(number)) if into is None else into[:number]
        self._fill(view, received[end + 4 :])
        return view

    def _connect(self) -> ssl.SSLSocket:
        self._connection = connection = self._dialer.connect(self._source, self._stopped)
        connection.settimeout(POLL)
        return connection

    def _fill(self, view: memoryview, first: bytearray) -> None:
        if len(first) > len(view):
            raise Refused("sent more bytes than it announced")
        view[: len(first)] = first
        self._filled = len(first)
        while self._filled < len(view):
            self._filled += self._receive(view[self._filled :])

    def _watch(self) -> None:
        """Begin to measure how fast the source is."""
        self._began, self._received = time.monotonic(), 0

    def _receive(self, view: memoryview) -> int:
        """Receive some bytes. Raises OSError at the end, Refused when they come too slowly."""
        assert self._connection is not None
        asked = time.monotonic()
        while not self._stopped():
            try:
                got = self._connection.recv_into(view)
            except TimeoutError:
                got = -1
            now = time.monotonic()
            self._received += max(got, 0)
            if now - self._began >= self._pace.over:
                if self._received < self._pace.rate * self._pace.over:
                    raise Refused(f"sends less than {self._pace.rate:,} bytes a second")
                self._began, self._received = now, 0
            if got == 0:
                raise OSError("the connection ended early")
            if got < 0 and now - asked >= self._pace.silent:
                raise OSError(f"nothing came for {self._pace.silent:g} s")
            if got > 0:
                return got
        raise OSError("the fetch is over")


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    """Return status and headers of an answer. Raises Refused."""
    try:
        first, *lines = head.decode("ascii").split("\r\n")
        version, status = first.split(" ")[:2]
        if not version.startswith("HTTP/1."):
            raise ValueError(version)
        return int(status), {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    except ValueError:
        raise Refused("does not speak HTTP/1.1") from None
