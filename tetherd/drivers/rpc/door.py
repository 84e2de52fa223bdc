"""Where other hosts come in: a TLS listener that proves itself before it counts, and hears members of the network only.

Never hears anybody whose certificate names no node, and nobody for longer than a second or two after the roster dropped
them.
"""

import asyncio
import contextlib
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final, NamedTuple

from tetherd.drivers.host import descriptors
from tetherd.drivers.rpc import silence, sp, tls
from tetherd.drivers.rpc.connections import STALLED, Connection
from tetherd.drivers.rpc.lines import Secure
from tetherd.drivers.rpc.reaching import TLS
from tetherd.drivers.rpc.turns import Desk, Turn
from tetherd.drivers.tcp import mutual
from tetherd.drivers.tcp.reception import Reception, until
from tetherd.errors import PermissionDenied, QueueFull, TetherError
from tetherd.policy.admission import Admission
from tetherd.ports import Clock
from tetherd.types import Buffer, Credentials, Seconds
from tetherd.wire.frames import FAILURE, Codec, Header
from tetherd.wire.messages import Request

MAX_CONNECTIONS: Final = 1024
"""Connections that one node may have; each of its runners has one. Where few files may be open, a quarter of them."""

MAX_EXCESS: Final = 1000
"""A connection that sent this many messages beyond its node's share is closed."""

MAX_SILENT: Final = 16
"""Connections on which a node never asked anything; beyond this many, those that had ten seconds are closed."""

_SILENCE: Final[Seconds] = 10.0
_TICK: Final[Seconds] = 1.0
_GREETING: Final[Seconds] = 5.0
_SETTLED: Final[Seconds] = 0.2
_LINGER: Final[Seconds] = 0.25
_HELD: Final[Seconds] = 1.0
_QUARANTINED: Final[Seconds] = 60.0
_AUDITED: Final = 1024

_log = logging.getLogger("tetherd.rpc")


class Door:
    """Listens on a ``tls+tcp://`` address and lets ``admission`` judge who comes.

    Who is refused is told so when it asks, and its connection is closed; who comes again and again keeps a connection
    on which nothing is heard, since that keeps it from dialling.
    """

    def __init__(self, address: str, credentials: Credentials, admission: Admission, clock: Clock) -> None:
        self._address = address
        self._credentials = credentials
        self._admission = admission
        self._clock = clock
        self._codec = Codec()
        self._guests: dict[int, _Guest] = {}  # by connection
        self._coming: Counter[str] = Counter()  # connections that have not said yet that they ask, by node
        self._held: dict[int, Seconds] = {}  # connections that are not heard, and since when
        self._silent: dict[int, Seconds] = {}  # connections on which nothing was asked yet, and since when
        self._excess: Counter[int] = Counter()
        self._audited: dict[tuple[str, str], Seconds] = {}

    @contextlib.asynccontextmanager
    async def open(self, desk: Desk, limit: int) -> AsyncIterator[None]:
        """Have ``desk`` answer members. Raises BadConfig when strangers could come in or members could not, InUse."""
        self._most = min(MAX_CONNECTIONS, descriptors.share().limit // 4)
        self._desk = desk
        self._limit = limit
        self._context = mutual.listening(self._credentials)
        reception = Reception(self._address.removeprefix(TLS), "cluster.listen", lambda: self._context, self._meet)
        async with reception.open():
            await asyncio.to_thread(tls.prove, self._address, self._credentials)
            watch = asyncio.create_task(self._watch())
            try:
                yield
            finally:
                watch.cancel()

    def renew(self, credentials: Credentials) -> None:
        """Show another certificate from now on; connections end, and come again. Raises BadConfig before any does."""
        self._context = mutual.listening(credentials)
        self._credentials = credentials
        for guest in list(self._guests.values()):
            self._outdate(guest)

    def arrivals(self) -> list[tuple[str, str, int]]:
        """Return node, host and port at the other end of each connection that is heard."""
        return [(guest.node, *guest.remote) for peer, guest in self._guests.items() if peer not in self._held]

    def permit(self, node: str, kind: type[Request[Any]]) -> None:
        """Raise PermissionDenied unless a node may send such requests."""
        try:
            self._admission.permit(node, kind.METHOD, kind.ROLES)
        except PermissionDenied as error:
            self._audit(node, kind.METHOD, error)
            raise

    def reprimand(self, node: str) -> None:
        """Note that a connection of a node had to be closed for what it sent."""
        self._admission.reject(node, self._clock.monotonic())

    # --- what comes in, on the way to the desk -----------------------------------------------------------------------

    def greet(self, peer: int) -> None:
        """Note a connection that began, and decide whether it will be heard."""
        node, now = self._node(peer), self._clock.monotonic()
        if refusal := self._admission.refusal(node, now):
            self._held[peer] = now
            self._admission.reject(node, now)
            _log.info("not hearing a node", extra={"peer_node": node, "reason": refusal.message})
        self._silent[peer] = now
        self._desk.greet(peer)

    def begin(self, turn: Turn, data: Buffer, peer: int) -> None:
        """Pass a member's request on to the desk; refuse another's."""
        turn.node, now = self._node(peer), self._clock.monotonic()
        self._silent.pop(peer, None)
        if refusal := self._admission.refusal(turn.node, now):
            self._refuse(turn, refusal)
            if not self._admission.is_quarantined(turn.node, now):
                asyncio.get_running_loop().call_later(_LINGER, self._close, peer)
            return
        try:
            self._admission.spend(turn.node, now)
        except QueueFull as error:
            self._refuse(turn, error)
            self._excess[peer] += 1
            if self._excess[peer] == MAX_EXCESS:
                self.reprimand(turn.node)
                turn.hang_up()
            return
        self._desk.begin(turn, data, peer)

    def forget(self, peer: int) -> None:
        """Drop a connection that ended."""
        self._guests.pop(peer, None)
        self._held.pop(peer, None)
        self._silent.pop(peer, None)
        self._excess.pop(peer, None)
        self._desk.forget(peer)

    def _refuse(self, turn: Turn, error: TetherError) -> None:
        turn.answer(self._codec.encode(FAILURE, Header(0), error.failure()))

    # --- who comes in ------------------------------------------------------------------------------------------------

    async def _meet(self, found: ssl.SSLSocket) -> None:
        """Hear whoever has shown a certificate of this network, until the connection ends."""
        try:
            node = mutual.peer(found)
            remote = found.getpeername()[:2]
        except (PermissionDenied, OSError):
            return
        if self._coming[node] + sum(guest.node == node for guest in self._guests.values()) >= self._most:
            return
        silence.bound(found, STALLED)
        self._coming[node] += 1
        try:
            async with asyncio.timeout(_GREETING):
                await _greet(found)
        finally:
            self._coming -= Counter([node])
        ended = asyncio.Event()
        connection = Connection(Secure(found), sp.Framing(self._limit, between=True), self, ended.set)
        host, port = remote
        guest = _Guest(node, (host.partition("%")[0], port), connection, self._clock.monotonic())
        self._guests[connection.peer] = guest
        try:
            connection.start()
            if found.context is not self._context:  # which changed while it shook hands
                self._outdate(guest)
            await ended.wait()
        finally:
            connection.close()

    def _outdate(self, guest: "_Guest") -> None:
        """End a connection whose certificates are those of before.

        Not as it begins: nng takes a connection for made as soon as our certificate has come, and one that ends in that
        moment for one that lasts.
        """
        left = guest.since + _SETTLED - self._clock.monotonic()
        if left > 0:
            asyncio.get_running_loop().call_later(left, guest.connection.close)
        else:
            guest.connection.close()

    def _node(self, peer: int) -> str:
        return self._guests[peer].node

    def _close(self, peer: int) -> None:
        if guest := self._guests.get(peer):
            guest.connection.close()

    # --- every second ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            try:
                self._look(self._clock.monotonic())
            except Exception:
                _log.exception("the watch over connections failed; it goes on")

    def _look(self, now: Seconds) -> None:
        for peer, guest in list(self._guests.items()):
            self._review(peer, guest.node, now)
        self._end_silent(now)

    def _review(self, peer: int, node: str, now: Seconds) -> None:
        refusal = self._admission.refusal(node, now)
        if refusal is None:
            self._held.pop(peer, None)
        elif peer not in self._held:
            _log.warning("closing a connection", extra={"peer_node": node, "reason": refusal.message})
            self._close(peer)
        elif now - self._held[peer] > (_QUARANTINED if self._admission.is_quarantined(node, now) else _HELD):
            self._close(peer)

    def _end_silent(self, now: Seconds) -> None:
        """Close what a node opened and never used: a few wait for something to ask, more only take places."""
        spare = Counter(self._node(peer) for peer in self._silent)
        for peer, since in list(self._silent.items()):
            node = self._node(peer)
            if spare[node] > MAX_SILENT and now - since >= _SILENCE:
                spare[node] -= 1
                self._close(peer)

    def _audit(self, node: str, method: str, error: PermissionDenied) -> None:
        now = self._clock.monotonic()
        if now - self._audited.get((node, method), -_QUARANTINED) < _QUARANTINED:
            return
        self._audited[node, method] = now
        if len(self._audited) > _AUDITED:
            del self._audited[next(iter(self._audited))]
        _log.warning("refused a call", extra={"peer_node": node, "method": method, "reason": error.message})


class _Guest(NamedTuple):
    """A connection, the node at its other end, its host and port, and since when."""

    node: str
    remote: tuple[str, int]
    connection: Connection
    since: Seconds


async def _greet(found: ssl.SSLSocket) -> None:
    """Say that we answer, and hear that it asks. Raises OSError."""
    await until(found, partial(found.send, sp.ANSWERS))
    heard = b""
    while len(heard) < len(sp.ASKS):
        part = await until(found, partial(found.recv, len(sp.ASKS) - len(heard)))
        if not part:
            raise ConnectionResetError("it said nothing")
        heard += part
    if heard != sp.ASKS:
        raise ConnectionResetError("it speaks another protocol")
