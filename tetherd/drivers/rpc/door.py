"""Where other hosts come in: a TLS listener that proves itself before it counts, and hears members of the network only.

Never hears anybody whose certificate names no node, and nobody for longer than a second or two after the roster dropped
them.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

from tetherd.drivers.host import descriptors
from tetherd.drivers.rpc import contexts, nng, tls
from tetherd.drivers.rpc.handshakes import Handshakes
from tetherd.drivers.rpc.turns import Desk, Turn
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
_HURRY: Final[Seconds] = 0.2
_LINGER: Final[Seconds] = 0.25
_HELD: Final[Seconds] = 1.0
_QUARANTINED: Final[Seconds] = 60.0
_AUDITED: Final = 1024
_ASKED_AGAIN: Final = 16

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
        self._socket: Any = None
        self._listener: Any = None
        self._nodes: dict[int, str] = {}  # by connection; written on nng's threads
        self._remotes: dict[int, tuple[str, int]] = {}  # by connection; written by the sweep
        self._held: dict[int, Seconds] = {}  # connections that are not heard, and since when
        self._silent: dict[int, Seconds] = {}  # connections on which nothing was asked yet, and since when
        self._sweeps = 0
        self._excess: Counter[int] = Counter()
        self._audited: dict[tuple[str, str], Seconds] = {}
        self._handshakes = Handshakes({tls.target(address)[1]})

    @contextlib.asynccontextmanager
    async def open(self, desk: Desk, limit: int) -> AsyncIterator[None]:
        """Have ``desk`` answer members. Raises BadConfig when strangers could come in or members could not, InUse."""
        self._most = min(MAX_CONNECTIONS, descriptors.share().limit // 4)
        self._desk = desk
        self._socket = nng.open_rep(limit)
        nng.guard(self._socket, self._welcome)
        with contexts.answering(self._socket, self, limit):
            self._listen()
            await asyncio.to_thread(tls.prove, self._address, self._credentials)
            watch = asyncio.create_task(self._watch())
            try:
                yield
            finally:
                watch.cancel()

    def renew(self, credentials: Credentials) -> None:
        """Show another certificate from now on; connections end, and come again. Raises BadConfig before any does."""
        nng.set_credentials(self._socket, credentials)
        self._credentials = credentials
        if self._listener is not None:
            self._listener.close()
        self._listener = None
        self._listen()

    def arrivals(self) -> list[tuple[str, str, int]]:
        """Return node, host and port at the other end of each connection that is heard; a new one after a second."""
        found, held = self._remotes, self._held
        return [(node, *found[peer]) for peer, node in list(self._nodes.items()) if peer in found and peer not in held]

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
        node, now = self._nodes.get(peer, ""), self._clock.monotonic()
        if refusal := self._admission.refusal(node, now):
            self._held[peer] = now
            self._admission.reject(node, now)
            _log.info("not hearing a node", extra={"peer_node": node, "reason": refusal.message})
        self._silent[peer] = now
        self._desk.greet(peer)

    def begin(self, turn: Turn, data: Buffer, peer: int) -> None:
        """Pass a member's request on to the desk; refuse another's."""
        turn.node, now = self._nodes.get(peer, ""), self._clock.monotonic()
        self._silent.pop(peer, None)
        if refusal := self._admission.refusal(turn.node, now):
            self._refuse(turn, refusal)
            if not self._admission.is_quarantined(turn.node, now):
                asyncio.get_running_loop().call_later(_LINGER, nng.close_pipe, self._socket, peer)
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
        self._nodes.pop(peer, None)
        self._held.pop(peer, None)
        self._silent.pop(peer, None)
        self._excess.pop(peer, None)
        self._desk.forget(peer)

    def _refuse(self, turn: Turn, error: TetherError) -> None:
        turn.answer(self._codec.encode(FAILURE, Header(0), error.failure()))

    def _welcome(self, peer: int, node: str) -> bool:
        """Let a connection in if its certificate names a node. Called on nng's threads, twice for each."""
        others = sum(known == node for other, known in list(self._nodes.items()) if other != peer)
        if not node or others >= self._most:
            return False
        self._nodes[peer] = node
        return True

    # --- every second ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        pause = _TICK
        while True:
            await asyncio.sleep(pause)
            try:
                pause = _HURRY if await self._tick(self._clock.monotonic()) else _TICK
            except Exception:
                _log.exception("the watch over connections failed; it goes on")

    async def _tick(self, now: Seconds) -> int:
        if self._listener is None:
            self._listen()  # the address was taken while the certificate changed
        for peer, node in list(self._nodes.items()):
            self._review(peer, node, now)
        self._end_silent(now)
        ended = await asyncio.to_thread(self._sweep, now)
        if ended:
            _log.info("ended %d handshakes that took too long or were too many", ended)
        return ended

    def _review(self, peer: int, node: str, now: Seconds) -> None:
        refusal = self._admission.refusal(node, now)
        if refusal is None:
            self._held.pop(peer, None)
        elif peer not in self._held:
            _log.warning("closing a connection", extra={"peer_node": node, "reason": refusal.message})
            nng.close_pipe(self._socket, peer)
        elif now - self._held[peer] > (_QUARANTINED if self._admission.is_quarantined(node, now) else _HELD):
            nng.close_pipe(self._socket, peer)

    def _end_silent(self, now: Seconds) -> None:
        """Close what a node opened and never used: a few wait for something to ask, more only take places."""
        spare = Counter(self._nodes.get(peer, "") for peer in self._silent)
        for peer, since in list(self._silent.items()):
            node = self._nodes.get(peer, "")
            if spare[node] > MAX_SILENT and now - since >= _SILENCE:
                spare[node] -= 1
                nng.close_pipe(self._socket, peer)

    def _sweep(self, now: Seconds) -> int:
        # A connection keeps its other end, and to ask for it takes longer than all the rest. One in so many is asked
        # again all the same: nng misses some ends, and what has ended has no other end.
        self._sweeps += 1
        known = {peer: at for peer, at in self._remotes.items() if (peer + self._sweeps) % _ASKED_AGAIN}
        remotes = {pipe.id: known.get(pipe.id) or nng.remote_of(pipe) for pipe in self._socket.pipes}
        for peer in self._remotes.keys() & {peer for peer, remote in remotes.items() if remote is None}:
            nng.close_pipe(self._socket, peer)
        self._remotes = {peer: remote for peer, remote in remotes.items() if remote}
        return self._handshakes.sweep(now, set(self._remotes.values()))

    def _listen(self) -> None:
        self._listener = nng.listen(self._socket, self._address, self._credentials)

    def _audit(self, node: str, method: str, error: PermissionDenied) -> None:
        now = self._clock.monotonic()
        if now - self._audited.get((node, method), -_QUARANTINED) < _QUARANTINED:
            return
        self._audited[node, method] = now
        if len(self._audited) > _AUDITED:
            del self._audited[next(iter(self._audited))]
        _log.warning("refused a call", extra={"peer_node": node, "method": method, "reason": error.message})
