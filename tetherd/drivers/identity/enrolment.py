"""The one listener that takes hosts without a certificate: HTTPS, small, and impatient.

Each connection carries one request within bounds of size and time. Who fails too often from one address waits a minute.
"""

import asyncio
import hashlib
import http
import logging
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from tetherd.drivers.identity.authority import NetworkAuthority
from tetherd.drivers.tcp import mutual
from tetherd.drivers.tcp.reception import Reception, until
from tetherd.errors import (
    MALFORMED,
    Internal,
    InvalidInput,
    MethodNotAllowed,
    QueueFull,
    RouteNotFound,
    TetherError,
    TooLarge,
)
from tetherd.ports import Clock
from tetherd.types import Credentials, Seconds
from tetherd.wire import problem
from tetherd.wire.enrolment import JOIN, MAX_REQUEST, NETWORK, RENEW, Greeting, JoinRequest, RenewRequest

T = TypeVar("T")

PATIENCE: Final[Seconds] = 5.0
"""How long one request may take to arrive, and its answer to be taken."""

MAX_HEAD: Final = 8 * 1024
MAX_CONNECTIONS: Final = 64
FAILURES: Final = 5
MINUTE: Final[Seconds] = 60.0
_REMEMBERED: Final = 4096
_log = logging.getLogger("tetherd.enrolment")


class Failures:
    """Counts failed attempts by address. Pure: time is an argument."""

    def __init__(self, allowed: int = FAILURES, window: Seconds = MINUTE) -> None:
        self._allowed = allowed
        self._window = window
        self._seen: dict[str, deque[Seconds]] = {}

    def wait(self, address: str, now: Seconds) -> Seconds:
        """Return for how many seconds nothing of this address is looked at."""
        seen = self._seen.get(address)
        return max(0.0, seen[0] + self._window - now) if seen and len(seen) >= self._allowed else 0.0

    def add(self, address: str, now: Seconds) -> None:
        """Count one failure."""
        seen = self._seen.pop(address, None) or deque(maxlen=self._allowed)
        seen.append(now)
        self._seen[address] = seen
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]  # whose last failure is the longest ago


class EnrolmentServer:
    """Serves ``authority`` on ``listen`` (HOST:PORT), as the node of ``credentials``.

    ``admitted`` is called after every change of the members.
    """

    def __init__(
        self,
        listen: str,
        authority: NetworkAuthority,
        credentials: Credentials,
        *,
        clock: Clock,
        admitted: Callable[[], None],
    ) -> None:
        self._listen = listen
        self._authority = authority
        self._clock = clock
        self._admitted = admitted
        self._failures = Failures()
        self._open = 0
        self._leaves: WeakKeyDictionary[ssl.SSLContext, bytes] = WeakKeyDictionary()
        self.show(credentials)

    def show(self, credentials: Credentials) -> None:
        """Show this certificate to who connects from now on."""
        self._context = mutual.listening(credentials)
        self._context.verify_mode = ssl.CERT_NONE  # who has a certificate already need not join
        self._leaves[self._context] = leaf_digest(credentials.chain_pem)

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled. Raises InUse, BadConfig."""
        await Reception(self._listen, "cluster.enrol", lambda: self._context, self._meet).run(ready)

    async def _meet(self, connection: ssl.SSLSocket) -> None:
        address = ""
        self._open += 1
        try:
            address = str(connection.getpeername()[0])
            async with asyncio.timeout(PATIENCE):
                status, body = await self._reply(connection, address)
                await _send(connection, _head(status, len(body)) + body)
        except (TimeoutError, OSError):
            _log.debug("a connection ended early", extra={"address": address})
        finally:
            self._open -= 1

    async def _reply(self, connection: ssl.SSLSocket, address: str) -> tuple[int, bytes]:
        try:
            self._check_load(address)
            method, path, body = await _request(connection)
            # What is asked over a connection is proven about the certificate that it was opened with.
            answer = await self._answer(method, path, body, self._leaves[connection.context])
            return 200, msgspec.json.encode(answer)
        except TetherError as error:
            waits = isinstance(error, QueueFull)
            if not waits:
                self._failures.add(address, self._clock.monotonic())
            # Whoever waits asks as often as it likes; each line of the log has cost it one of its attempts.
            level = logging.DEBUG if waits else logging.WARNING
            _log.log(level, "refused: %s", error.message, extra={"code": error.code, "address": address})
            return error.status, problem.document(error)
        except (OSError, TimeoutError):
            self._failures.add(address, self._clock.monotonic())
            raise OSError("the request did not come whole") from None
        except Exception:
            _log.exception("a request failed on a bug")
            return 500, problem.document(Internal("the request met a bug; the log has the details"))

    def _check_load(self, address: str) -> None:
        wait = self._failures.wait(address, self._clock.monotonic())
        if wait:
            message = f"{FAILURES} attempts from this address failed within a minute"
            raise QueueFull(message, fix="find out why, and try again then", retry_after=wait)
        if self._open > MAX_CONNECTIONS:
            raise QueueFull("too many hosts ask at once", fix="try again", retry_after=1.0)

    async def _answer(self, method: str, path: str, body: bytes, leaf: bytes) -> msgspec.Struct:
        now = self._clock.wall()
        if path == NETWORK:
            roster = await asyncio.to_thread(self._authority.describe)
            roots, lineage = roster.roots, self._authority.lineage
            return Greeting(network=roster.network, name=roster.name, roots=roots, time=now, lineage=lineage)
        if path not in (JOIN, RENEW):
            raise RouteNotFound("there is nothing at this path", fix="hosts join with tetherctl cluster join")
        if method != "POST":
            raise MethodNotAllowed(f"{method} is not served at this path", fix="use POST")
        if path == JOIN:
            asked = _decode(body, JoinRequest)
            admission = await asyncio.to_thread(self._authority.join, asked, leaf, now)
            _log.info("a host joined", extra={"host": asked.name})
        else:
            renewed = _decode(body, RenewRequest)
            admission = await asyncio.to_thread(self._authority.renew, renewed, leaf, now)
        self._admitted()
        return admission


def leaf_digest(chain_pem: str) -> bytes:
    """Return the SHA-256 of a chain's first certificate, which proofs of who connected to it are about."""
    end = "-----END CERTIFICATE-----"
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(chain_pem[: chain_pem.index(end) + len(end)])).digest()


def _head(status: int, length: int) -> bytes:
    lines = (f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", "Content-Type: application/json")
    return "\r\n".join((*lines, f"Content-Length: {length}", "Connection: close", "", "")).encode()


async def _request(connection: ssl.SSLSocket) -> tuple[str, str, bytes]:
    """Return method, path and body of one request. Raises InvalidInput, TooLarge, OSError."""
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0 and len(received) <= MAX_HEAD:
        received += await _receive(connection)
    if not 0 <= end <= MAX_HEAD:
        raise TooLarge(f"a request's head has at most {MAX_HEAD} bytes")
    method, path, length = _opening(received[:end].decode("latin-1"))
    body = received[end + 4 :]
    while len(body) < length:
        body += await _receive(connection)
    return method, path, bytes(body[:length])


def _opening(head: str) -> tuple[str, str, int]:
    """Return method, path and how long the body is. Raises InvalidInput, TooLarge."""
    first, *lines = head.split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise InvalidInput("this is no HTTP/1.1 request")
    lengths = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("content-length:")]
    if any(line.lower().startswith("transfer-encoding:") for line in lines) or len(lengths) > 1:
        raise InvalidInput("a request has one Content-Length and no Transfer-Encoding")
    length = lengths[0] if lengths else "0"
    if not (length.isascii() and length.isdigit()) or len(length) > 9:
        raise InvalidInput("the Content-Length is not a number of bytes")
    if int(length) > MAX_REQUEST:
        raise TooLarge(f"a request has at most {MAX_REQUEST} bytes")
    return words[0], words[1], int(length)


async def _receive(connection: ssl.SSLSocket) -> bytes:
    data = await until(connection, lambda: connection.recv(MAX_HEAD))
    if not data:
        raise ConnectionResetError("the peer has gone")
    return data


async def _send(connection: ssl.SSLSocket, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[await until(connection, partial(connection.send, left)) :]


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except MALFORMED as error:
        raise InvalidInput(
            f"the request is not as expected: {error}", fix="use the same release on both hosts"
        ) from None
