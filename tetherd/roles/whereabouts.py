"""What the DHT adds to the peer table: tells others where this node is, and asks where those are that it cannot reach.

A record is signed by the node that it is about; that the node is still there, its handshake shows.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from tetherd.discovery.attempts import Attempts
from tetherd.discovery.hints import Drop, Hint
from tetherd.errors import InvalidInput, TetherError
from tetherd.ports import Clock, Directory, Ears
from tetherd.types import Seconds
from tetherd.wire.endpoint import NAME, Endpoint, decode, encode
from tetherd.wire.records import Record

TICK: Final[Seconds] = 1.0
AT_ONCE: Final = 8
MOST: Final = 128
"""Nodes that one round asks about."""

_log = logging.getLogger("tetherd.whereabouts")


class Whereabouts:
    """``mine`` says where this node can be dialled, None where it cannot. ``wanted`` names the nodes to ask about.

    ``chance`` gives a number from 0 to 1.
    """

    def __init__(
        self,
        directory: Directory,
        ears: Ears,
        clock: Clock,
        *,
        mine: Callable[[], Endpoint | None],
        wanted: Callable[[], Sequence[str]],
        chance: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._ears = ears
        self._clock = clock
        self._mine = mine
        self._wanted = wanted
        self._puts = Attempts[bytes](chance)
        self._asks = Attempts[str](chance)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._moved = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        """Tell and ask until cancelled."""
        ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell())
            group.create_task(self._ask())

    def move(self) -> None:
        """Take note that this node can be dialled elsewhere than before."""
        self._moved.set()

    def hurry(self) -> None:
        """Take note that something new is known of some peer: the DHT may lead further now."""
        now = self._clock.monotonic()
        self._puts.hurry(now)
        self._asks.hurry(now)

    async def _tell(self) -> None:
        """Keep this node's record in the DHT as it is now."""
        while True:
            self._moved.clear()
            if (mine := self._mine()) is not None:
                await self._put(encode(mine))
            await self._moved.wait()

    async def _put(self, value: bytes) -> None:
        """Put a record into the DHT, which repeats it from then on."""
        while not self._moved.is_set():
            if self._puts.due([value], self._clock.monotonic(), 1):
                try:
                    await self._directory.put(NAME, value)
                except TetherError as error:
                    _log.debug("nobody keeps this node's record yet", extra={"reason": error.message})
                else:
                    return
            await asyncio.sleep(TICK)

    async def _ask(self) -> None:
        """Ask about those that no connection is open to: soon after it was lost, then less and less often."""
        while True:
            due = self._asks.due(self._wanted(), self._clock.monotonic(), MOST)
            await asyncio.gather(*map(self._look_up, due))
            await asyncio.sleep(TICK)

    async def _look_up(self, node: str) -> None:
        async with self._turn:
            try:
                record = await self._directory.get(node, NAME)
            except TetherError as error:
                _log.debug("the DHT does not answer", extra={"peer_node": node, "reason": error.message})
                return
        if record is not None:
            self._take(node, record)

    def _take(self, node: str, record: Record) -> None:
        try:
            found = decode(record.body.value)
        except InvalidInput as error:
            self._ears.drop(Drop("malformed", error.message, node, source="dht", last=self._clock.monotonic()))
            return
        left = record.until - self._clock.wall()
        if left > 0:
            self._ears.hear(Hint(source="dht", node=node, addresses=found.addresses, ports=found.ports, ttl=left))
