"""One node of the distributed hash table, whole: datagrams, time and wishes come in; datagrams and events go out.

A pure state machine. Its driver calls ``receive`` for what it hears and ``tick`` when ``wake`` has come, then sends
what lies in ``exchange.outbox`` and passes ``events`` on.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeAlias

from tetherd.discovery.contacts import Address, Contact
from tetherd.discovery.exchange import Conflict, Exchange, Rules
from tetherd.discovery.operations import Publication, Search
from tetherd.discovery.standing import Standing, Subject
from tetherd.discovery.table import CLOSEST
from tetherd.discovery.upkeep import Upkeep
from tetherd.errors import InvalidInput
from tetherd.types import Seconds
from tetherd.wire.datagrams import Code, Keyring
from tetherd.wire.records import ANNOUNCEMENT, IMMUTABLE, MAX_TTL, Body, Kind, Record, fits, write
from tetherd.wire.signatures import Signer

MIN_TTL: Final = 30
MAX_STANDING: Final = 1000
SETTLE: Final[Seconds] = 0.2
"""How long to wait, when nodes come into sight, for more of them."""


class Found(NamedTuple):
    """A search found a record: ``body.gone`` means that its owner took back what it said before."""

    task: int
    record: Record


class Complete(NamedTuple):
    """A search is complete: the newest record of every owner, and how many nodes were asked."""

    task: int
    records: tuple[Record, ...]
    asked: int


class Published(NamedTuple):
    """A record was stored at ``stored`` nodes, and refused by others for reasons that are counted."""

    task: int
    record: Record
    stored: int
    refused: dict[Code, int]


Event: TypeAlias = Found | Complete | Published | Conflict


class Node:
    """A member of the network, serving or client only."""

    def __init__(self, signer: Signer, keyring: Keyring, rules: Rules, entropy: Callable[[int], bytes]) -> None:
        self.exchange = Exchange(signer, keyring, rules, entropy)
        self.standing = Standing(signer.public, entropy)
        self.events: list[Event] = []
        self.upkeep = Upkeep(self.exchange, (), ())
        self._signer = signer
        self._searches: dict[Search, int] = {}
        self._publications: dict[Publication, int] = {}
        self._tasks = 0
        self._reach = 0

    def join(self, seeds: Iterable[Address], remembered: Iterable[Contact], now: Seconds) -> None:
        """Enter the network by the addresses that are known of it."""
        self.upkeep = Upkeep(self.exchange, seeds, remembered)
        self.upkeep.tick(now)

    def rekey(self, keyring: Keyring) -> None:
        """Use other network keys from here on; what is under way goes on."""
        self.exchange.keyring = keyring

    def receive(self, data: bytes, source: Address, now: Seconds) -> None:
        """Take a datagram in."""
        self.exchange.receive(data, source, now)
        if self.exchange.conflicts:
            self.events += self.exchange.conflicts
            self.exchange.conflicts.clear()

    def tick(self, now: Seconds, offset: Seconds) -> None:
        """Do what is due. ``offset`` is what turns ``now`` into seconds since the epoch."""
        self.exchange.offset = offset
        self.exchange.tick(now)
        if now >= self.upkeep.next:
            self.upkeep.tick(now)
        walks = [*self._searches, *(each.search for each in self._publications)]
        for search in [each for each in walks if now >= each.deadline]:
            search.finish(now)
        self._widen(now)
        if now >= self.standing.next:
            for body in self.standing.due(now, now + offset):
                self._publish(body, now, 0)

    def wake(self) -> Seconds:
        """Return when ``tick`` is wanted next."""
        due = self.exchange.requests.next()
        moment = min(self.upkeep.next, self.standing.next)
        return moment if due is None else min(moment, due)

    def search(self, kind: Kind, key: bytes, now: Seconds) -> int:
        """Look for what lies under a key; return the task that its events will name."""
        task = self._task()
        search = Search(self.exchange, key, kind, self, now)
        self._searches[search] = task
        search.start(now)
        return task

    def cancel(self, task: int) -> None:
        """End a search that nobody waits for any more; there will be no event."""
        for search in [each for each, known in self._searches.items() if known == task]:
            del self._searches[search]
            search.done = True

    def publish(self, subject: Subject, value: bytes, ttl: int, now: Seconds, expected: int = -1) -> int:
        """Let the network keep something from now on; return the task that its event will name.

        ``ttl`` in seconds. ``expected``: only where that sequence number is kept. Raises InvalidInput, TooLarge.
        """
        kind, name = subject
        if kind == ANNOUNCEMENT and len(name) != 32:
            raise InvalidInput(f"a topic of {len(name)} bytes", fix="topics have 32 bytes")
        if not MIN_TTL <= ttl <= MAX_TTL:
            raise InvalidInput(f"a record that lives {ttl} s", fix=f"let it live {MIN_TTL} to {MAX_TTL} s")
        if len(self.standing) >= MAX_STANDING and subject not in self.standing.subjects():
            raise InvalidInput(f"this node already has {MAX_STANDING} records", fix="withdraw some of them first")
        fits(b"" if kind == IMMUTABLE else name, value)
        body = self.standing.draft(subject, value, ttl, self.exchange.wall(now))
        if expected < 0:
            self.standing.adopt(body, now)
        return self._publish(body, now, self._task(), expected)

    def withdraw(self, subject: Subject, now: Seconds) -> int:
        """Let the network keep something no longer; return the task, or 0 where there is nothing to do."""
        body = self.standing.withdraw(subject, self.exchange.wall(now))
        return self._publish(body, now, self._task()) if body else 0

    def found(self, search: Search, record: Record) -> None:
        """Pass on what a search found; an immutable value can only be found once."""
        task = self._searches.get(search)
        if task is not None:
            self.events.append(Found(task, record))

    def complete(self, search: Search, _now: Seconds) -> None:
        """Pass on that a search is complete."""
        task = self._searches.pop(search, None)
        if task is not None:
            self.events.append(Complete(task, tuple(search.records.values()), search.walk.asked))

    def published(self, publication: Publication, now: Seconds) -> None:
        """Pass on what became of a record; where the network knows a later one of ours, say it again, later still."""
        task = self._publications.pop(publication, 0)
        body, refused = publication.record.body, publication.refused
        if publication.expected >= 0 and publication.stored:
            self.standing.adopt(body, now)
        elif not publication.stored and (Code.SEQ_LOW in refused or Code.SEQ_REUSED in refused):
            again = self.standing.overtake(body, publication.behind, self.exchange.wall(now))
            if again:
                self._publish(again, now, task)
                return
        if task:
            self.events.append(Published(task, publication.record, publication.stored, refused))

    def _publish(self, body: Body, now: Seconds, task: int, expected: int = -1) -> int:
        record = write(body, self._signer, self.exchange.keyring.network)
        publication = Publication(self.exchange, record, expected, self, now)
        self._publications[publication] = task
        publication.start(now)
        return task

    def _widen(self, now: Seconds) -> None:
        """Say everything again once more nodes are known, where too few were to keep it all safely."""
        size = len(self.exchange.table)
        if self._reach < min(size, CLOSEST):
            self.standing.hurry(now + SETTLE)
        self._reach = size

    def _task(self) -> int:
        self._tasks += 1
        return self._tasks
