"""This node's view of its peers while its daemon runs: feeds the peer table, finds the way to a peer, looks for better.

Implements ports.Ears for every source of discovery. Where a peer is, is hearsay until its handshake shows its key.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tetherd import __version__
from tetherd.discovery.hints import Drop, Hint, Source
from tetherd.discovery.peers import Live, Peer, PeerTable, Remembered
from tetherd.discovery.racing import (
    Attempt,
    Missed,
    Outcome,
    Reached,
    Relay,
    is_better,
    is_relayed,
    order,
    reprobe_after,
)
from tetherd.errors import InvalidInput, NodeNotFound, TetherError, Unreachable
from tetherd.ports import Caller, Clock, Context, Handler, Prober
from tetherd.types import Seconds
from tetherd.wire.messages import Request
from tetherd.wire.peering import MAX_PAD, Ping, Pong
from tetherd.wire.roster import Roster

TICK: Final[Seconds] = 1.0
EXPIRE: Final[Seconds] = 30.0
IDENTIFY: Final[tuple[Seconds, Seconds]] = (1.0, 15.0)
"""How often seeds are asked who they are: soon at first, then less and less often."""

PATIENCE: Final[Seconds] = 5.0
_SHORTEST_ID: Final = 4
_log = logging.getLogger("tetherd.peering")


class Pinged(msgspec.Struct, frozen=True, kw_only=True):
    """What a ping of one peer showed.

    ``rtt``: of a request over the connection in use; ``skew``: by how much its clock is ahead of ours.
    ``best``: the best address that answers now; ``missed``: why others do not.
    """

    peer: Peer
    rtt: Seconds | None = None
    skew: Seconds | None = None
    version: str = ""
    failure: str = ""
    best: Reached | None = None
    missed: tuple[Missed, ...] = ()


class Peering:
    """Implements ports.Role and ports.Ears.

    ``caller`` gives the connection to a peer if there is one; ``relays`` the ways to it through relays; ``moved`` is
    told when a relayed peer can be reached by a better path; ``chance`` gives a number from 0 to 1.
    """

    def __init__(
        self,
        table: PeerTable,
        *,
        prober: Prober,
        clock: Clock,
        chance: Callable[[], float],
        caller: Callable[[str], Caller | None],
        relays: Callable[[str], Sequence[Relay]],
    ) -> None:
        self.table = table
        self.moved: Callable[[Reached], None] = lambda _: None
        self._prober = prober
        self._clock = clock
        self._chance = chance
        self._caller = caller
        self._relays = relays
        self._news = asyncio.Event()
        self._reprobe: dict[str, Seconds] = {}

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what this role answers, by request class."""
        return {Ping: self._pong}

    async def run(self, ready: Callable[[], None]) -> None:
        """Ask seeds who they are, forget what is out of date and look for better paths, until cancelled."""
        ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._identify_seeds())
            group.create_task(self._look_after())

    # --- what sources say (ports.Ears), and the roster, and connections -----------------------------------------------

    def hear(self, hint: Hint) -> None:
        """See ports.Ears."""
        if self.table.hear(hint, self._clock.monotonic()):
            self._tell()

    def vanish(self, source: Source, origin: str, node: str) -> None:
        """See ports.Ears."""
        self.table.vanish(source, origin, node)

    def drop(self, drop: Drop) -> None:
        """See ports.Ears."""
        if drop.reason == "conflict":
            _log.warning("two hosts claim one node id", extra={"peer_node": drop.node, "reason": drop.detail})
        self.table.drop(drop)

    def follow(self, roster: Roster) -> None:
        """Take over a new roster."""
        self.table.follow(roster, self._clock.monotonic())
        self._tell()

    def recall(self, remembered: Sequence[Remembered]) -> None:
        """Take in what was remembered before this daemon started."""
        for one in remembered:
            self.hear(Hint(source="memory", node=one.node, addresses=one.addresses, ports=one.ports))

    def connected(self, node: str, live: Live) -> None:
        """Take note of a connection that this node made, and of the address and path it took."""
        self.table.connected(node, live)
        if not is_relayed(live.path):
            self.table.proved(node, live.address, live.since)
        again = reprobe_after(live.path, self._chance())
        if again is None:
            self._reprobe.pop(node, None)
        else:
            self._reprobe[node] = live.since + again

    def disconnected(self, node: str) -> None:
        """Take note that the connection is gone."""
        self._reprobe.pop(node, None)
        self.table.disconnected(node)

    # --- what whoever dials asks --------------------------------------------------------------------------------------

    async def choose(self, node: str) -> Reached:
        """Return the best address of a node that answers now. Raises Unreachable, which says why none does."""
        outcome = await self._race(node, order(self.table.candidates(node), relays=self._relays(node)))
        if outcome.best is None:
            raise _unreachable(node, self.table.peer(node), outcome)
        return outcome.best

    async def news(self) -> None:
        """Wait until there is an address that was not known before, of any peer."""
        await self._news.wait()

    def find(self, text: str) -> Peer:
        """Return the peer of that name, id, or beginning of an id. Raises NodeNotFound, InvalidInput."""
        peers = self.table.peers()
        found = [peer for peer in peers if text in (peer.name, peer.node)]
        if not found and len(text) >= _SHORTEST_ID:
            found = [peer for peer in peers if peer.node.startswith(text)]
        if not found:
            raise NodeNotFound(f"no node is known as {text[:80]!r}", fix="tetherctl netcheck lists the nodes that are")
        if len(found) > 1:
            raise InvalidInput(f"{text[:80]!r} means {len(found)} nodes", fix="name one by more of its id")
        return found[0]

    async def ping(self, peer: Peer) -> Pinged:
        """Try a peer: over its connection if there is one, and at its addresses."""
        node = peer.node
        attempts = order(self.table.candidates(node), relays=self._relays(node))
        outcome, answer = await asyncio.gather(self._race(node, attempts), self.ask(peer))
        now = self.table.peer(node) or peer  # it may have been forgotten meanwhile
        return msgspec.structs.replace(answer, peer=now, best=outcome.best, missed=outcome.missed)

    async def ask(self, peer: Peer) -> Pinged:
        """Ask a peer for a sign of life over its connection, if there is one."""
        caller = self._caller(peer.node)
        if caller is None:
            return Pinged(peer=peer)
        began, wall = self._clock.monotonic(), self._clock.wall()
        try:
            pong = await caller.call(Ping(), deadline=began + PATIENCE)
        except TetherError as error:
            return Pinged(peer=peer, failure=error.message)
        rtt = self._clock.monotonic() - began
        return Pinged(peer=peer, rtt=rtt, skew=pong.wall - (wall + rtt / 2), version=pong.version)

    async def _pong(self, ping: Ping, _: Context) -> Pong:
        return Pong(self._clock.wall(), __version__, ping.pad[:MAX_PAD])

    # --- what goes on by itself ---------------------------------------------------------------------------------------

    async def _identify_seeds(self) -> None:
        pause = IDENTIFY[0]
        while True:
            seeds = self.table.unidentified()
            if seeds:
                await asyncio.gather(*(self._race("", [attempt]) for attempt in order(seeds)))
            await asyncio.sleep(pause)
            pause = min(2 * pause, IDENTIFY[1])

    async def _look_after(self) -> None:
        expire = self._clock.monotonic() + EXPIRE
        while True:
            await asyncio.sleep(TICK)
            now = self._clock.monotonic()
            if now >= expire:
                self.table.expire(now)
                expire = now + EXPIRE
            for node in [node for node, due in self._reprobe.items() if now >= due]:
                await self._improve(node)

    async def _improve(self, node: str) -> None:
        """Look whether a peer that is reached through a relay answers directly by now."""
        live = self.table.live(node)
        self._reprobe.pop(node, None)
        if live is None:
            return
        outcome = await self._race(node, order(self.table.candidates(node)))
        still = self.table.live(node)
        if still is None:
            return
        if outcome.best is not None and is_better(outcome.best.path, still.path):
            self.moved(outcome.best)
        self._reprobe[node] = self._clock.monotonic() + (reprobe_after(still.path, self._chance()) or EXPIRE)

    async def _race(self, node: str, attempts: Sequence[Attempt]) -> Outcome:
        outcome = await self._prober.race(attempts, node)
        now = self._clock.monotonic()
        for missed in outcome.missed:
            self.table.failed(Drop(missed.reason, missed.detail, node, missed.address, last=now))
            if missed.found and not is_relayed(missed.path):
                self.table.proved(missed.found, missed.address, now)
        if outcome.best and not is_relayed(outcome.best.path):
            self.table.proved(outcome.best.node, outcome.best.address, now)
            if not node:
                self._tell()
        return outcome

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _unreachable(node: str, peer: Peer | None, outcome: Outcome) -> Unreachable:
    name = (peer.name if peer else "") or node[:16]
    tried = [f"{missed.address}: {missed.detail}" for missed in outcome.missed]
    if not tried:
        return Unreachable(
            f"cannot reach node {name}: no address of it is known",
            fix="tetherctl netcheck shows what is heard; a seed in cluster.seeds always works",
        )
    return Unreachable(
        f"cannot reach node {name}: {'; '.join(tried[:3])}",
        fix=f"tetherctl ping {name} tries each address and says what it meets",
        details={"tried": tried},
    )
