"""Requests and answers of one node: seals and opens datagrams, matches answers, proves who answers, counts the rest.

Datagrams and time come in by ``receive`` and ``tick``; what is to be sent lies in ``outbox``.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from tetherd.discovery.contacts import Address, Contact, is_six, unpack_address
from tetherd.discovery.limits import Limits
from tetherd.discovery.requests import Asker, Request, Requests
from tetherd.discovery.responder import Responder
from tetherd.discovery.store import Store
from tetherd.discovery.table import MAX_FAILURES, Peer, Table
from tetherd.discovery.tokens import EPOCH, Tokens
from tetherd.types import Seconds
from tetherd.wire.datagrams import (
    NONCE,
    OVERHEAD,
    PROVE,
    SERVES,
    Answer,
    Ask,
    BadDatagram,
    Code,
    Keyring,
    Ping,
    Put,
    Seek,
    decode,
    encode,
    hello,
    padded,
)
from tetherd.wire.records import BadRecord, Record, read
from tetherd.wire.signatures import Signer, Verify, identify, verify

MAX_KNOWN: Final = 512
MAX_GREETINGS: Final = 32
GREET_AGAIN: Final[Seconds] = 10.0
FORGIVE: Final[Seconds] = 30.0
"""For how long a node that failed twice is left alone."""

ALIVE: Final[Seconds] = 30.0
"""A node heard within this time is not believed to have moved."""

FRESH: Final[Seconds] = 300.0
"""What a peer said for so long ago of our address, it may say otherwise now."""

_PUT_COST: Final = 5.0
_TID: Final = 8


class Rules(NamedTuple):
    """What a node is and whom it deals with.

    ``serves``: it can be dialled, so it answers, keeps records and stands in the tables of others. ``member`` tells
    whether a node id belongs to the network, ``allow`` whether an address that others name may be sent to. ``speaks``:
    the families that it reaches (flags of requests), 0 = whatever others name.
    """

    serves: bool
    member: Callable[[bytes], bool]
    allow: Callable[[Address], bool]
    verify: Verify = verify
    speaks: int = 0


class Conflict(NamedTuple):
    """Two addresses claim one node id. ``proven``: both hold its key, so that it was copied; else one is lying."""

    node: bytes
    address: Address
    other: Address
    proven: bool


def claim(conflict: Conflict) -> str:
    """Say a conflict in words."""
    if conflict.proven:
        places = f"{conflict.address[0]} and {conflict.other[0]}"
        return f"its key is at {places}: either that is one host, or the key was copied and the node is to be revoked"
    return f"a host at {conflict.other[0]} claims its id without its key"


class Exchange:
    """The traffic of one node, and the peers it knows by it."""

    def __init__(self, signer: Signer, keyring: Keyring, rules: Rules, entropy: Callable[[int], bytes]) -> None:
        self.id = identify(signer.public)
        self.rules = rules
        self.table = Table(self.id)
        self.store = Store(self.id)
        self.requests = Requests()
        self.outbox: list[tuple[bytes, Address]] = []
        self.conflicts: list[Conflict] = []
        self.counters: Counter[str] = Counter()
        self.keyring = keyring
        self.entropy = entropy
        self.offset: Seconds = 0.0
        self._count = 0
        self._slowest = -1.0
        self._known: dict[bytes, Peer] = {}
        self._limits = Limits()
        self._greeter = _Greeter()
        self._greeted: dict[tuple[bytes, Address], Seconds] = {}
        tables = (self.table, self.store, Tokens(entropy(32)))
        self._responder = Responder(signer, keyring.network, tables, self.prove, rules.member)

    def wall(self, now: Seconds) -> Seconds:
        """Return seconds since the epoch."""
        return now + self.offset

    def prove(self, blob: bytes) -> Record:
        """Decode and prove a record. Raises BadRecord, and counts it."""
        try:
            return read(blob, self.keyring.network, self.rules.verify)
        except BadRecord as bad:
            self.counters[f"record.{bad.reason}"] += 1
            raise

    def ask(self, contact: Contact | Address, body: Ping | Seek | Put, asker: Asker, now: Seconds) -> None:
        """Send a request to a node, or to whoever is at an address."""
        self.counters["asked"] += 1
        node, address = (contact.id, contact.address) if isinstance(contact, Contact) else (b"", contact)
        peer = self._at(node, address)
        request = Request(node, address, body, asker, self._rtt(peer))
        request.proven = peer is not None
        self.requests.begin(request, self.entropy(_TID), now)
        self._transmit(request, now)

    def receive(self, data: bytes, source: Address, now: Seconds) -> None:
        """Take a datagram in."""
        self.counters["heard"] += 1
        try:
            epoch, plain = self.keyring.open(data)
            message = decode(plain)
        except BadDatagram as bad:
            self._drop(bad.reason)
            return
        if type(message) is Answer:
            self._answered(message, source, epoch, now)
        elif type(message) is Ask:
            self._asked(message, source, (epoch, len(data)), now)

    def tick(self, now: Seconds) -> None:
        """Send again what is overdue, and give up what is hopeless."""
        for request in self.requests.due(now):
            if now >= request.fail:
                self._failed(request, now)
                continue
            peer = self._at(request.node, request.address)
            if peer:
                peer.doubted = True
            if request.tries == 2:
                request.asker.silent(request, now)
            self._transmit(request, now)

    def usable(self, contact: Contact, now: Seconds) -> bool:
        """Tell whether a contact that somebody named is worth asking."""
        if contact.id == self.id or not self.rules.allow(contact.address) or not self.rules.member(contact.id):
            return False
        peer = self._at(contact.id, contact.address)
        return peer is None or peer.failures < MAX_FAILURES or now - peer.failed > FORGIVE

    def placed(self, contact: Contact) -> Contact:
        """Return a contact at the address that we know it by, whichever one others named."""
        peer = self._known.get(contact.id)
        return contact if peer is None or peer.failures else Contact(peer.id, peer.number, peer.address)

    def doubts(self, contact: Contact) -> bool:
        """Tell whether a contact kept us waiting last time."""
        peer = self._at(contact.id, contact.address)
        return peer is not None and (peer.doubted or peer.failures > 0)

    def observed(self, now: Seconds) -> list[tuple[Address, Address]]:
        """Return the address of every peer heard of late, and the one that it heard us from."""
        heard = [peer for peer in self._known.values() if now - peer.seen < FRESH and len(peer.saw) in (6, 18)]
        return [(peer.address, unpack_address(peer.saw)) for peer in heard]

    def _at(self, node: bytes, address: Address) -> Peer | None:
        peer = self._known.get(node)
        return peer if peer is not None and peer.address == address else None

    def _rtt(self, peer: Peer | None) -> Seconds:
        """Return the round trip to expect: that of the peer, else that of the slowest ones heard of late."""
        return peer.rtt if peer is not None and peer.rtt >= 0 else self._slowest

    def _drop(self, reason: str) -> None:
        self.counters[f"dropped.{reason}"] += 1

    def _transmit(self, request: Request, now: Seconds) -> None:
        peer = self._at(request.node, request.address)
        fresh = peer is not None and now - peer.token_at < EPOCH and (request.tries == 1 or type(request.body) is Put)
        token = peer.token if peer and fresh else b""
        self._count = self._count + 1 if self._count else int(self.wall(now) * 1e6)
        flags = (SERVES if self.rules.serves else 0) | (0 if request.proven else PROVE) | self.rules.speaks
        ask = Ask(request.tid, self.id, flags, self._count, int(self.wall(now) * 1000), token, request.body)
        self._send(encode(ask) if token else padded(ask), self._epoch(request, peer), request.address)

    def _epoch(self, request: Request, peer: Peer | None) -> int:
        """Return the key for one try. While keys turn, not everybody has the newest, and not everybody the oldest.

        What matters goes under the key that the peer used last; whether it has the newest, pings find out.
        """
        epochs = self.keyring.epochs
        if len(epochs) == 1:
            return epochs[0]
        settled = peer is not None and peer.epoch in epochs and type(request.body) is not Ping
        first = peer.epoch if peer is not None and settled else epochs[0]
        second = next(epoch for epoch in epochs if epoch != first)
        return first if request.tries % 2 else second

    def _send(self, plain: bytes, epoch: int, address: Address) -> None:
        self.counters["sent"] += 1
        self.outbox.append((self.keyring.seal(plain, self.entropy(NONCE), epoch), address))

    # --- the answering side ---

    def _asked(self, ask: Ask, source: Address, envelope: tuple[int, int], now: Seconds) -> None:
        epoch, length = envelope
        reason = self._refusal(ask, source, now)
        if reason:
            self._drop(reason)
            return
        peer = self._at(ask.sender, source)
        if peer is not None:
            peer.epoch = epoch
        answer, verified = self._responder.answer(ask, source, length, now, self.wall(now))
        plain = encode(answer)
        if not verified and len(plain) + OVERHEAD > length:
            self._drop("amplification")
            return
        self._send(plain, epoch, source)
        if ask.flags & SERVES:
            self._meet(Contact(ask.sender, int.from_bytes(ask.sender), source), now)

    def _refusal(self, ask: Ask, source: Address, now: Seconds) -> str:
        if not self.rules.serves:
            return "client"
        if ask.sender == self.id:
            return "self"
        if not self.rules.member(ask.sender):
            return "stranger"
        cost = _PUT_COST if type(ask.body) is Put else 1.0
        return self._limits.refuse(source, ask.count, ask.sent / 1000, cost, (now, self.wall(now)))

    def _meet(self, contact: Contact, now: Seconds) -> None:
        """Greet whoever asked and serves, so that it can prove who it is: one that is new, that failed, that moved."""
        peer = self._known.get(contact.id)
        if peer is not None and peer.address == contact.address and not peer.failures and peer in self.table:
            return
        moved = peer is not None and peer.address != contact.address
        if not (moved or self.table.wants(contact.number)) or not self.rules.allow(contact.address):
            return
        if len(self._greeted) >= MAX_GREETINGS:
            self._greeted = {each: at for each, at in self._greeted.items() if now - at < GREET_AGAIN}
        key = (contact.id, contact.address)
        if len(self._greeted) < MAX_GREETINGS and now - self._greeted.get(key, -GREET_AGAIN) >= GREET_AGAIN:
            self._greeted[key] = now
            self.ask(contact, Ping(), self._greeter, now)

    # --- the asking side ---

    def _answered(self, answer: Answer, source: Address, epoch: int, now: Seconds) -> None:
        request = self.requests.end(answer.tid, source)
        if request is None:
            self._drop("unexpected")
            return
        reason = self._doubt(request, answer)
        if reason:
            self._drop(reason)
            self._failed(request, now)
            return
        peer = self._acquaint(answer.sender, source, now)
        if peer is not None:
            peer.token, peer.token_at, peer.epoch, peer.saw = answer.token, now, epoch, answer.seen
            rtt = now - request.sent if request.tries == 1 else -1.0
            peer.answered(now, rtt)
            self._slowest = max(rtt, 0.98 * self._slowest + 0.02 * rtt) if rtt >= 0 else self._slowest
            if answer.flags & SERVES:
                self.table.add(peer)
        request.node = answer.sender
        if answer.code == Code.UNVERIFIED and not request.again:
            self._repeat(request, now)
        else:
            request.asker.answered(request, answer, now)

    def _doubt(self, request: Request, answer: Answer) -> str:
        """Return why an answer is not believed, in one word; empty if it is."""
        node = answer.sender
        if node == self.id:
            return "self"
        if request.node and request.node != node:
            return "impostor"
        if not self.rules.member(node):
            return "stranger"
        if request.proven:
            return ""
        message, proof = hello(self.keyring.network, request.tid, self.id, node), answer.proof
        if proof and identify(proof.public) == node and self.rules.verify(proof.public, proof.signature, message):
            return ""
        known = self._known.get(node)
        if known:
            self.conflicts.append(Conflict(node, known.address, request.address, proven=False))
        return "unproven"

    def _acquaint(self, node: bytes, address: Address, now: Seconds) -> Peer | None:
        """Return the peer that proved to be ``node`` at ``address``; None while it is still alive at another one."""
        peer = self._known.get(node)
        if peer is None:
            if len(self._known) >= MAX_KNOWN:
                self._forget()
            peer = self._known[node] = Peer(node, address, now)
        elif peer.address != address:
            if not peer.failures and now - peer.seen < ALIVE:
                if is_six(peer.address) != is_six(address):
                    peer.meet(address, now)  # a host of both families, not two hosts
                    return None
                self.conflicts.append(Conflict(node, peer.address, address, proven=True))
                return None
            peer.move(address)
        return peer

    def _forget(self) -> None:
        """Forget the peer known for longest that is not in the table."""
        node = next((node for node, peer in self._known.items() if peer not in self.table), None)
        if node is not None:
            del self._known[node]

    def _repeat(self, request: Request, now: Seconds) -> None:
        """Ask again, with the token that the refusal brought."""
        peer = self._at(request.node, request.address)
        again = Request(request.node, request.address, request.body, request.asker, self._rtt(peer))
        again.proven, again.again = True, True
        self.requests.begin(again, self.entropy(_TID), now)
        self._transmit(again, now)

    def _failed(self, request: Request, now: Seconds) -> None:
        peer = self._at(request.node, request.address)
        if peer:
            peer.failures += 1
            peer.failed = now
            if peer.failures >= MAX_FAILURES:
                self.table.remove(peer)
        request.asker.failed(request, now)


class _Greeter:
    """Asks only to learn who is there: the exchange itself takes note of the answer."""

    def answered(self, request: Request, answer: Answer, now: Seconds) -> None:
        """Nothing is left to do."""

    def silent(self, request: Request, now: Seconds) -> None:
        """Nothing waits for it."""

    def failed(self, request: Request, now: Seconds) -> None:
        """Nothing waits for it."""
