"""What keeps a node's picture of the network true while nobody asks for anything: joining, refreshing, probing."""

from collections.abc import Iterable
from typing import Final

from tetherd.discovery.contacts import Address, Contact, unpack
from tetherd.discovery.exchange import Exchange
from tetherd.discovery.ids import SIZE, within
from tetherd.discovery.operations import Search
from tetherd.discovery.requests import Request
from tetherd.discovery.table import CLOSEST
from tetherd.types import Seconds
from tetherd.wire.datagrams import Answer, Ping
from tetherd.wire.records import Record

EARLY: Final[tuple[Seconds, ...]] = (0.0, 0.4, 1.0, 3.0, 10.0)
"""When a node looks around itself after it first heard anyone: others may be joining with it."""

AROUND: Final[Seconds] = 60.0
REFRESH: Final[Seconds] = 600.0
JOIN: Final[tuple[Seconds, ...]] = (0.25, 0.5, 1.0, 2.0, 5.0, 15.0)
"""How long to wait before seeds that are not in the table are asked again."""

AGAIN: Final[Seconds] = 120.0
"""A seed that is the second address of a peer is asked again so long after it proved itself there."""

MAX_SEEDS: Final = 64
"""Addresses to join by that are kept, the latest ones heard of."""

PROBE: Final[Seconds] = 1.0
PROBES: Final = 4
QUIET: Final[Seconds] = 30.0
"""A peer that was silent for this long is probed."""

SWEEP: Final[Seconds] = 30.0


class Upkeep:
    """Decides what to ask for the table's own sake. Call ``tick`` when ``next`` has come."""

    def __init__(self, exchange: Exchange, seeds: Iterable[Address], remembered: Iterable[Contact]) -> None:
        self.next: Seconds = 0.0
        self._exchange = exchange
        self._seeds = dict.fromkeys(seeds)
        self._remembered = list(remembered)
        self._attempts = 0
        self._join: Seconds = 0.0
        self._look: list[Seconds] = []
        self._around: Seconds = float("inf")
        self._probe: Seconds = 0.0
        self._sweep: Seconds = 0.0
        self._walks: list[bytes] = []
        self._walking: Search | None = None

    def seed(self, address: Address) -> None:
        """Take another address to join by, from whichever source; it is asked at once."""
        if address not in self._seeds:
            if len(self._seeds) >= MAX_SEEDS:
                del self._seeds[next(iter(self._seeds))]
            self._seeds[address] = None
            self._join = self._attempts = 0
            self.next = 0.0

    def tick(self, now: Seconds) -> None:
        """Do what is due."""
        if now >= self._join:
            self._ask_seeds(now)
        if now >= self._probe:
            self._probe = now + self._jitter(PROBE)
            self._ask_quiet(now)
        if now >= self._around:
            self._around = self._look.pop(0) if self._look else now + self._jitter(AROUND)
            self._plan(now)
        if now >= self._sweep:
            self._sweep = now + SWEEP
            self._exchange.store.expire(self._exchange.wall(now))
        if self._walking is not None and now >= self._walking.deadline:
            self._walking.finish(now)
        self._walk(now)
        self.next = min(self._join, self._probe, self._around, self._sweep)

    def answered(self, _request: Request, _answer: Answer, now: Seconds) -> None:
        """Somebody is there: look around."""
        if self._around == float("inf"):
            self._look = [now + self._jitter(after) for after in EARLY]
            self._around = self._look.pop(0)
            self.next = now

    def silent(self, request: Request, now: Seconds) -> None:
        """The exchange keeps count of failures."""

    def failed(self, request: Request, now: Seconds) -> None:
        """The exchange keeps count of failures."""

    def found(self, search: Search, record: Record) -> None:
        """A walk that seeks no records finds none."""

    def complete(self, _search: Search, now: Seconds) -> None:
        """One walk ended: begin the next."""
        self._walking = None
        self._walk(now)

    def _ask_seeds(self, now: Seconds) -> None:
        """Ask whom the operator named, and who was known once, until enough of them are in the table."""
        exchange = self._exchange
        present = {peer.address for peer in exchange.table}
        present |= {unpack(peer.also).address for peer in exchange.table if peer.also and now - peer.also_at < AGAIN}
        for address in self._seeds.keys() - present:
            exchange.ask(address, Ping(), self, now)
        if len(exchange.table) < CLOSEST:
            for contact in self._remembered:
                if contact.address not in present and exchange.rules.member(contact.id):
                    exchange.ask(contact, Ping(), self, now)
        self._join = now + self._jitter(JOIN[min(self._attempts, len(JOIN) - 1)])
        self._attempts += 1

    def _ask_quiet(self, now: Seconds) -> None:
        """Ask a few of those that were not heard for long, and first those that kept somebody waiting.

        While network keys turn, ask those too of whom we do not know that they have the newest.
        """
        newest, *older = self._exchange.keyring.epochs
        quiet = [
            peer
            for peer in self._exchange.table
            if peer.failures or peer.doubted or now - peer.seen > QUIET or (older and peer.epoch != newest)
        ]
        quiet.sort(key=lambda peer: (not peer.failures, not peer.doubted, peer.seen))
        for peer in quiet[:PROBES]:
            self._exchange.ask(Contact(peer.id, peer.number, peer.address), Ping(), self, now)

    def _plan(self, now: Seconds) -> None:
        """Plan a walk to this node itself, and one into every part of the network that was not visited for long."""
        self._walks.append(self._exchange.id)
        if len(self._look) == len(EARLY) - 2 or not self._look:
            for bits in self._exchange.table.idle(now - REFRESH):
                self._walks.append(within(self._exchange.table.own, bits, self._exchange.entropy(SIZE)))

    def _walk(self, now: Seconds) -> None:
        if self._walking is None and self._walks:
            self._walking = Search(self._exchange, self._walks.pop(0), 0, self, now)
            self._walking.start(now)

    def _jitter(self, about: Seconds) -> Seconds:
        return about * (0.8 + 0.4 * self._exchange.entropy(1)[0] / 255)
