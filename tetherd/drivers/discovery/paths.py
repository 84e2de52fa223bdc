"""Tries addresses of peers: is something there, does it speak TLS, whose key does it show. Tells it nothing else."""

import asyncio
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tetherd.discovery.addresses import DIAL_WINDOW, MAX_DIALS, DialBudget, parse
from tetherd.discovery.hints import Reason
from tetherd.discovery.racing import Attempt, Missed, Outcome, Race, Reached, is_relayed
from tetherd.drivers.tcp.mutual import peer
from tetherd.drivers.tcp.names import resolve
from tetherd.errors import InvalidInput, PermissionDenied
from tetherd.ports import Clock
from tetherd.types import Seconds

TIMEOUT: Final[Seconds] = 5.0
"""How long one attempt may take, its handshake included."""

_IPC: Final = "ipc://"
_NOT_YET_VALID, _EXPIRED = 9, 10
_STRANGERS: Final = frozenset({18, 19, 20, 21})
"""OpenSSL's words for a certificate that no trusted root vouches for."""


class TlsProber:
    """Implements ports.Prober. ``context`` is that of a client which shows this node's certificate (mutual.dialling).

    Dials of addresses that nobody proved are counted, all races together, and refused beyond the budget. That a server
    took *our* certificate, a handshake of TLS 1.3 does not show: the connection that follows does.
    """

    def __init__(self, context: ssl.SSLContext, clock: Clock, timeout: Seconds = TIMEOUT) -> None:
        self._context = context
        self._clock = clock
        self._timeout = timeout
        self._budget = DialBudget()

    def renew(self, context: ssl.SSLContext) -> None:
        """Show another certificate from now on."""
        self._context = context

    async def race(self, attempts: Sequence[Attempt], node: str = "") -> Outcome:
        """See ports.Prober."""
        race = Race(attempts, self._clock.monotonic())
        running: dict[asyncio.Task[Reached | Missed], Attempt] = {}
        missed: list[Missed] = []
        try:
            while not race.over(self._clock.monotonic()):
                for attempt in race.start(self._clock.monotonic()):
                    running[asyncio.create_task(self.probe(attempt, node))] = attempt
                done = await self._wait(race, running)
                for task in done:
                    self._judge(race, running.pop(task), task.result(), missed)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
        return Outcome(race.best, tuple(missed))

    async def probe(self, attempt: Attempt, node: str = "") -> Reached | Missed:
        """Try one address once. Never raises."""
        if not attempt.free and not self._budget.take(self._clock.monotonic()):
            why = (
                f"more than {MAX_DIALS} addresses that nobody proved were tried in {DIAL_WINDOW:g} s: it is tried later"
            )
            return Missed(attempt.address, attempt.path, "full", why)
        try:
            return await self._probe(attempt, node)
        except TimeoutError:
            why = f"no answer within {self._timeout:g} s: the host is off, or a firewall swallows what is sent"
            return Missed(attempt.address, attempt.path, "unreachable", why)
        except ssl.SSLCertVerificationError as error:
            return Missed(attempt.address, attempt.path, *_verdict(error))
        except ssl.SSLError as error:
            why = f"what is there does not speak our TLS: {error.reason or error}"
            return Missed(attempt.address, attempt.path, "certificate", why)
        except (PermissionDenied, InvalidInput) as error:
            return Missed(attempt.address, attempt.path, "certificate", error.message)
        except OSError as error:
            return Missed(attempt.address, attempt.path, "unreachable", _why(error))

    async def _probe(self, attempt: Attempt, node: str) -> Reached | Missed:
        began, until = self._clock.monotonic(), asyncio.get_running_loop().time() + self._timeout
        async with asyncio.timeout_at(until):
            if attempt.address.startswith(_IPC):
                return await self._local(attempt, node)
            connection = await _connect(attempt.address)
        rtt = self._clock.monotonic() - began  # a TCP handshake is one round trip
        began += rtt
        try:
            async with asyncio.timeout_at(until):
                found = await self._shake_hands(connection)
        except TimeoutError:
            why = f"it takes connections and says nothing within {self._timeout:g} s: it hangs, or large packets vanish"
            return Missed(attempt.address, attempt.path, "silent", why)
        except (ConnectionError, asyncio.IncompleteReadError):
            return Missed(attempt.address, attempt.path, "certificate", "it hung up in the middle of the handshake")
        if node and found != node:
            why = f"the key of another node is shown there: {found[:16]}"
            return Missed(attempt.address, attempt.path, "certificate", why, found)
        if is_relayed(attempt.path):
            rtt = self._clock.monotonic() - began  # so is one of TLS 1.3, and the relay's way in is on this host
        return Reached(attempt.address, attempt.path, rtt, found)

    async def _local(self, attempt: Attempt, node: str) -> Reached:
        """Connect to a socket of this host: only this user can have made it, so that it proves the node."""
        began = self._clock.monotonic()
        _, writer = await asyncio.open_unix_connection(attempt.address.removeprefix(_IPC))
        writer.close()
        return Reached(attempt.address, attempt.path, self._clock.monotonic() - began, node)

    async def _shake_hands(self, connection: socket.socket) -> str:
        _, writer = await asyncio.open_connection(sock=connection, ssl=self._context, server_hostname="")
        try:
            return peer(writer.get_extra_info("ssl_object"))
        finally:
            writer.transport.abort()

    async def _wait(self, race: Race, running: dict[asyncio.Task[Reached | Missed], Attempt]) -> Iterable[Any]:
        wake = race.wake(self._clock.monotonic())
        if not running:
            await asyncio.sleep(wake or 0)
            return ()
        done, _ = await asyncio.wait(running, timeout=wake, return_when=asyncio.FIRST_COMPLETED)
        return done

    def _judge(self, race: Race, attempt: Attempt, result: Reached | Missed, missed: list[Missed]) -> None:
        now = self._clock.monotonic()
        if isinstance(result, Reached):
            race.succeeded(attempt, result, now)
        else:
            missed.append(result)
            race.failed(attempt, now)


async def _connect(text: str) -> socket.socket:
    """Return a connection to an address, the first of a name's that takes one. Raises OSError, InvalidInput."""
    address, loop = parse(text), asyncio.get_running_loop()
    failure: OSError | None = None
    for family, _, _, _, place in await resolve(address.host, address.port):
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            await loop.sock_connect(connection, place)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure or OSError("the name has no address")


def _why(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: the host is there, and nothing listens on that port"
    if isinstance(error, FileNotFoundError):
        return "there is no such socket: the daemon is not running"
    if isinstance(error, socket.gaierror):
        return f"the name is not known: {error.strerror}"
    return error.strerror or str(error) or type(error).__name__


def _verdict(error: ssl.SSLCertVerificationError) -> tuple[Reason, str]:
    code: int = error.verify_code
    if code == _NOT_YET_VALID:
        return "clock", "its certificate is not valid yet: this host's clock or that one's is wrong"
    if code == _EXPIRED:
        return "certificate", "its certificate has expired, or this host's clock is ahead"
    if code in _STRANGERS:
        return "other-network", "its certificate is not of this network"
    return "certificate", f"its certificate is refused: {error.verify_message}"
