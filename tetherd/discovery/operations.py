"""What a node is asked to do, as small state machines: find what lies under a key, keep a record at its place."""

from typing import Final, Literal, Protocol

from tetherd.discovery.contacts import Contact, split, unpack
from tetherd.discovery.exchange import Exchange
from tetherd.discovery.ids import number
from tetherd.discovery.lookup import Lookup
from tetherd.discovery.requests import Request
from tetherd.discovery.store import CLOCK
from tetherd.discovery.table import CLOSEST
from tetherd.types import Seconds
from tetherd.wire.datagrams import Answer, Code, Put, Seek
from tetherd.wire.records import BadRecord, Kind, Record

MAX_PAGES: Final = 64
"""Pages that one lookup fetches beyond the first of each node."""

LONGEST: Final[Seconds] = 15.0
"""No lookup lasts longer, whatever hostile nodes do."""


class Watcher(Protocol):
    """Is told what a search finds, and when it is complete."""

    def found(self, search: "Search", record: Record, /) -> None:
        """Take a record that was proven; each once, and a newer one of the same owner again."""
        ...

    def complete(self, search: "Search", now: Seconds, /) -> None:
        """Take note that nothing more will come."""
        ...


class Search:
    """Walks to a key and gathers what is kept of ``kind`` there (0: only walks)."""

    def __init__(self, exchange: Exchange, key: bytes, kind: Kind | Literal[0], watcher: Watcher, now: Seconds) -> None:
        self.key = key
        self.kind = kind
        self.deadline = now + LONGEST
        self.done = False
        self.records: dict[bytes, Record] = {}
        self.walk = Lookup(number(key))
        self._exchange = exchange
        self._watcher = watcher
        self._body = Seek(key, kind)
        self._heard: set[bytes] = set()
        self._paged: set[bytes] = set()
        self._pages = 0

    def start(self, now: Seconds) -> None:
        """Begin with what this node keeps itself and the peers it knows."""
        exchange = self._exchange
        exchange.table.use(self.walk.key, now)
        for peer in exchange.table.closest(self.walk.key):
            self._learn(Contact(peer.id, peer.number, peer.address), now)
        for record in exchange.store.find(self.kind, self.key, exchange.wall(now)) if self.kind else ():
            self._heard.add(record.blob)
            self._keep(record)
        self._go_on(now)

    def answered(self, request: Request, answer: Answer, now: Seconds) -> None:
        """Take contacts and records out of an answer."""
        if self.done:
            return
        if request.body is self._body:
            self.walk.answered(request.node)
        elif request.tries < 2:
            self._pages -= 1
        last = b""
        for blob in answer.records:
            last = self._read(blob, now) or last
        for packed in split(answer.near4, answer.near6):
            if packed not in self._heard:
                self._heard.add(packed)
                self._learn(unpack(packed), now)
        if answer.more:
            self._page(request, answer, last, now)
        self._go_on(now)

    def silent(self, request: Request, now: Seconds) -> None:
        """Go on without a node; its answer may still come."""
        if request.body is self._body:
            self.walk.silent(request.node)
        elif not self.done:
            self._pages -= 1
        self._go_on(now)

    def failed(self, request: Request, now: Seconds) -> None:
        """Go on without a node."""
        if request.body is self._body:
            self.walk.failed(request.node)
        elif request.tries < 2:
            self._pages -= 1
        self._go_on(now)

    def finish(self, now: Seconds) -> None:
        """End here, with what was found so far."""
        if not self.done:
            self.done = True
            self._watcher.complete(self, now)

    def _learn(self, contact: Contact, now: Seconds) -> None:
        contact = self._exchange.placed(contact)
        if self._exchange.usable(contact, now):
            self.walk.learn(contact, doubted=self._exchange.doubts(contact))

    def _go_on(self, now: Seconds) -> None:
        if self.done:
            return
        for contact in self.walk.next():
            self._exchange.ask(contact, self._body, self, now)
        if self._pages <= 0 and self.walk.done:
            self.finish(now)

    def _page(self, request: Request, answer: Answer, last: bytes, now: Seconds) -> None:
        """Fetch what did not fit, once for all nodes that keep the same."""
        first = isinstance(request.body, Seek) and request.body.after is None
        if (first and answer.digest in self._paged) or len(self._paged) >= MAX_PAGES or (not first and not last):
            return
        self._paged.add(answer.digest if first else last + answer.digest)
        self._pages += 1
        contact = Contact(request.node, number(request.node), request.address)
        self._exchange.ask(contact, Seek(self.key, self.kind, last), self, now)

    def _read(self, blob: bytes, now: Seconds) -> bytes:
        """Return the owner of a record that belongs here; empty for any other."""
        if blob in self._heard:
            return next((record.owner for record in self.records.values() if record.blob == blob), b"")
        self._heard.add(blob)
        try:
            record = self._exchange.prove(blob)
        except BadRecord:
            return b""
        wall = self._exchange.wall(now)
        timely = not record.owner or (record.body.issued <= wall + CLOCK and record.until > wall)
        known = not record.owner or self._exchange.rules.member(record.owner)
        if record.body.kind != self.kind or record.key != self.key or not timely or not known:
            self._exchange.counters["record.unfit"] += 1
            return b""
        self._keep(record)
        return record.owner

    def _keep(self, record: Record) -> None:
        held = self.records.get(record.owner)
        if held is None or held.body.seq < record.body.seq:
            self.records[record.owner] = record
            self._watcher.found(self, record)


class Publication:
    """Keeps a record at the nodes closest to its key: walks there, then stores it at each that answered."""

    def __init__(self, exchange: Exchange, record: Record, expected: int, watcher: "Listener", now: Seconds) -> None:
        self.record = record
        self.expected = expected
        self.stored = 0
        self.behind = 0
        self.refused: dict[Code, int] = {}
        self.done = False
        self.search = Search(exchange, record.key, 0, self, now)
        self._exchange = exchange
        self._watcher = watcher
        self._body = Put(record.blob, expected)
        self._open = 0

    def start(self, now: Seconds) -> None:
        """Begin."""
        self.search.start(now)

    def found(self, search: Search, record: Record) -> None:
        """A walk that seeks no records finds none."""

    def complete(self, search: Search, now: Seconds) -> None:
        """Store the record at the closest nodes, and here if this is one of them."""
        exchange = self._exchange
        nearest = search.walk.closest()
        if exchange.rules.serves and self._is_near(nearest):
            code, behind = exchange.store.put(self.record, exchange.wall(now), self.expected)
            self._count(Code(code), behind)
        self._open = len(nearest)
        for contact in nearest:
            exchange.ask(contact, self._body, self, now)
        self._settle(now)

    def answered(self, request: Request, answer: Answer, now: Seconds) -> None:
        """Count what a node says."""
        self._count(Code(answer.code) if answer.code in Code.__members__.values() else Code.INVALID, answer.seq)
        if request.tries < 2:
            self._open -= 1
        self._settle(now)

    def silent(self, _request: Request, now: Seconds) -> None:
        """Wait no longer for a node; it may still store the record."""
        self._open -= 1
        self._settle(now)

    def failed(self, request: Request, now: Seconds) -> None:
        """Go on without a node."""
        if request.tries < 2:
            self._open -= 1
        self._settle(now)

    def _is_near(self, nearest: list[Contact]) -> bool:
        key = self.search.walk.key
        return len(nearest) < CLOSEST or self._exchange.table.own ^ key < nearest[-1].number ^ key

    def _count(self, code: Code, behind: int) -> None:
        if code == Code.OK:
            self.stored += 1
        else:
            self.refused[code] = self.refused.get(code, 0) + 1
            self.behind = max(self.behind, behind)

    def _settle(self, now: Seconds) -> None:
        if self._open <= 0 and not self.done:
            self.done = True
            self._watcher.published(self, now)


class Listener(Protocol):
    """Is told when a publication is complete."""

    def published(self, publication: Publication, now: Seconds, /) -> None:
        """Take note of how many nodes keep the record, and why others do not."""
        ...
