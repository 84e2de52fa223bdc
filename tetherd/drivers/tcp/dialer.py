"""Opens connections to nodes at whichever of their addresses answers first. Blocking; used where blobs are fetched.

A node is who its certificate says, wherever that is: an address that leads to another one leads nowhere.
"""

import errno
import os
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from tetherd.discovery.addresses import parse
from tetherd.discovery.racing import Attempt, Race, Reached, path_of
from tetherd.drivers.tcp.mutual import peer
from tetherd.drivers.tcp.names import Place, look_up
from tetherd.errors import InvalidInput, PermissionDenied, TetherError
from tetherd.types import Seconds
from tetherd.wire.chunks import BlobSource, Ways

POLL: Final[Seconds] = 0.25
"""How often whoever waits looks whether it still should."""

_LOOK: Final[Seconds] = 0.02
_RELAYED: Final = "relay:"
_UNDER_WAY: Final = (0, errno.EINPROGRESS)


class Refused(TetherError):
    """A source is not what it should be, or says something else. ``final``: asking again cannot help."""

    def __init__(self, message: str, *, final: bool = True) -> None:
        super().__init__(message)
        self.final = final


class Dialer:
    """Dials sources where ``ways`` says that they are. An attempt may take ``patience`` seconds."""

    def __init__(self, context: ssl.SSLContext, ways: Callable[[BlobSource], Ways], patience: Seconds) -> None:
        self._context = context
        self._ways = ways
        self._patience = patience

    def connect(self, source: BlobSource, stopped: Callable[[], bool]) -> ssl.SSLSocket:
        """Return a connection to a source, which has proven to be that node. Raises Refused, OSError.

        Addresses are tried in their order, each a little after the one before, and those of relays last.
        """
        ways = self._ways(source)
        attempts = [Attempt(address, _path(address)) for address in ways.direct]
        attempts += [Attempt(address, _RELAYED) for address in ways.relayed]
        running = _Running(attempts, source.node, self._context, self._patience)
        try:
            while not running.over() and not stopped():
                running.go_on()
            if stopped():
                raise OSError("the fetch is over")
            return running.winner()
        finally:
            running.close()


class _Running:
    """One race."""

    def __init__(self, attempts: list[Attempt], node: str, context: ssl.SSLContext, patience: Seconds) -> None:
        self._race = Race(attempts, time.monotonic())
        self._node = node
        self._context = context
        self._patience = patience
        self._selector = selectors.DefaultSelector()
        self._names: dict[Attempt, tuple[Future[list[Place]], Seconds]] = {}  # that are looked up, and until when
        self._dials: dict[Attempt, _Dial] = {}
        self._failures: dict[str, Exception] = {}

    def over(self) -> bool:
        return self._race.over(time.monotonic())

    def go_on(self) -> None:
        """Begin what is due, and take the next step wherever one can be taken."""
        for attempt in self._race.start(time.monotonic()):
            try:
                place = parse(attempt.address)
                self._names[attempt] = look_up(place.host, place.port), time.monotonic() + self._patience
            except InvalidInput as error:
                self._failed(attempt, error)
        for attempt, (found, until) in list(self._names.items()):
            if found.done() or time.monotonic() > until:
                del self._names[attempt]
                self._dial(attempt, found, until)
        wake = self._race.wake(time.monotonic())
        for dial in list(self._dials.values()):
            if not dial.done:
                self._selector.register(dial.socket, dial.wants, dial)
        pause = min(_LOOK if self._names else POLL, POLL if wake is None else wake)
        ready = {key.data for key, _ in self._selector.select(pause)}
        for attempt, dial in list(self._dials.items()):
            if not dial.done:
                self._selector.unregister(dial.socket)
                self._step(attempt, dial, ready=dial in ready)

    def _dial(self, attempt: Attempt, found: Future[list[Place]], until: Seconds) -> None:
        try:
            if not found.done():
                raise TimeoutError(f"no name server answered within {self._patience:g} s")
            self._dials[attempt] = _Dial(found.result()[0], self._context, until)
        except OSError as error:
            self._failed(attempt, error)

    def _step(self, attempt: Attempt, dial: "_Dial", *, ready: bool) -> None:
        try:
            if ready and dial.step(self._node):
                reached = Reached(attempt.address, attempt.path, 0.0, self._node)
                self._race.succeeded(attempt, reached, time.monotonic())
            elif not dial.done and time.monotonic() > dial.until:
                raise TimeoutError(f"no answer within {self._patience:g} s")
        except (OSError, Refused) as error:
            self._dials.pop(attempt).socket.close()
            self._failed(attempt, error)

    def winner(self) -> ssl.SSLSocket:
        best = self._race.best
        if best is None:
            raise self._failure()
        found = self._dials.pop(next(one for one in self._dials if one.address == best.address)).socket
        assert isinstance(found, ssl.SSLSocket)
        return found

    def close(self) -> None:
        """Hang up wherever nobody answered in time."""
        self._selector.close()
        for dial in self._dials.values():
            dial.socket.close()

    def _failed(self, attempt: Attempt, error: Exception) -> None:
        self._failures[attempt.address] = error
        self._race.failed(attempt, time.monotonic())

    def _failure(self) -> Exception:
        if len(self._failures) == 1:
            return next(iter(self._failures.values()))
        text = "; ".join(f"{address}: {error}" for address, error in self._failures.items())
        final = bool(self._failures) and all(isinstance(error, Refused) for error in self._failures.values())
        return Refused(text) if final else OSError(text or "no address of it is known")


class _Dial:
    """One attempt: TCP first, then TLS."""

    def __init__(self, place: Place, context: ssl.SSLContext, until: Seconds) -> None:
        self.until = until
        self.wants = selectors.EVENT_WRITE
        self.done = False
        self._context = context
        self._secure: ssl.SSLSocket | None = None
        family, kind, protocol, _, where = place
        self.socket = socket.socket(family, kind, protocol)
        self.socket.setblocking(False)
        code = self.socket.connect_ex(where)
        if code not in _UNDER_WAY:
            self.socket.close()
            raise OSError(code, os.strerror(code))

    def step(self, node: str) -> bool:
        """Go on as far as it goes without waiting; return whether ``node`` has answered. Raises OSError, Refused."""
        if self._secure is None:
            if code := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = self._secure = self._context.wrap_socket(self.socket, do_handshake_on_connect=False)
        try:
            self._secure.do_handshake()
        except ssl.SSLWantReadError:
            self.wants = selectors.EVENT_READ
            return False
        except ssl.SSLWantWriteError:
            self.wants = selectors.EVENT_WRITE
            return False
        except ssl.SSLCertVerificationError as error:
            raise Refused(str(error)) from None
        self._prove(self._secure, node)
        self.done = True
        return True

    def _prove(self, connection: ssl.SSLSocket, node: str) -> None:
        try:
            found = peer(connection)
        except PermissionDenied as error:
            raise Refused(error.message) from None
        if found != node:
            raise Refused("is another node than the one that is expected there")


def _path(address: str) -> str:
    try:
        return path_of(parse(address).host, lan=False)
    except InvalidInput:
        return "direct"  # it leads nowhere, as whoever tries it will find
