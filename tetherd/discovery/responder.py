"""The answering side of a node: what it says to requests that were found worth an answer. Sends nothing by itself."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

from tetherd.discovery.contacts import SIZE4, SIZE6, Address, pack_address
from tetherd.discovery.ids import SIZE, number
from tetherd.discovery.store import Store
from tetherd.discovery.table import Table
from tetherd.discovery.tokens import Tokens
from tetherd.types import Seconds
from tetherd.wire.datagrams import (
    MAX_DATAGRAM,
    OVERHEAD,
    PROVE,
    SERVES,
    SPEAKS4,
    SPEAKS6,
    Answer,
    Ask,
    Code,
    Proof,
    Put,
    Seek,
    hello,
)
from tetherd.wire.records import BadRecord, Record
from tetherd.wire.signatures import Signer

ROOM: Final = MAX_DATAGRAM - OVERHEAD - 120
"""Bytes for contacts, records and a proof, beside the fields that every answer has."""

PROOF: Final = 172


class Responder:
    """Answers from the routing table and the store of one node.

    ``prove`` decodes and proves a record, or raises BadRecord; ``member`` tells whether a node id may take part.
    """

    def __init__(
        self, signer: Signer, network: str, tables: tuple[Table, Store, Tokens],
        prove: Callable[[bytes], Record], member: Callable[[bytes], bool],
    ) -> None:  # fmt: skip
        self._signer = signer
        self._network = network
        self._table, self._store, self._tokens = tables
        self._own = self._table.own.to_bytes(SIZE)
        self._prove = prove
        self._member = member

    def answer(self, ask: Ask, source: Address, length: int, now: Seconds, wall: Seconds) -> tuple[Answer, bool]:
        """Return the answer to a request of ``length`` bytes, and whether its source is verified.

        A source is verified when it shows a token that was sent there. Any other gets at length only what is no longer
        than its own request, and has nothing stored.
        """
        host, body = source[0], ask.body
        verified = self._tokens.valid(ask.token, host, now)
        answer = Answer(ask.tid, self._own, SERVES, self._tokens.issue(host, now), pack_address(source))
        if not verified and (length < MAX_DATAGRAM or type(body) is Put):
            answer.code = Code.UNVERIFIED
            return answer, False
        if ask.flags & PROVE:
            signed = self._signer.sign(hello(self._network, ask.tid, ask.sender, self._own))
            answer.proof = Proof(self._signer.public, signed)
        if type(body) is Seek:
            self._seek(answer, body, ask.flags & (SPEAKS4 | SPEAKS6), (now, wall))
        elif type(body) is Put:
            answer.code, answer.seq = self._put(body, wall)
        return answer, verified

    def _seek(self, answer: Answer, seek: Seek, speaks: int, times: tuple[Seconds, Seconds]) -> None:
        (now, wall), room = times, ROOM - PROOF if answer.proof else ROOM
        if seek.after is None:
            target = number(seek.target)
            if speaks in (0, SPEAKS4 | SPEAKS6):
                packed = [peer.packed for peer in self._table.closest(target)]
            else:
                fits = self._table.closest(target, is_wanted=lambda peer: peer.shown(speaks, now))
                packed = [peer.shown(speaks, now) for peer in fits]
            answer.near4 = b"".join([each for each in packed if len(each) == SIZE4])
            if len(answer.near4) < SIZE4 * len(packed):
                answer.near6 = b"".join([each for each in packed if len(each) == SIZE6])
            room -= len(answer.near4) + len(answer.near6)
        found = self._store.find(seek.kind, seek.target, wall) if seek.kind else []
        if found:
            answer.records, answer.more = self._store.page(found, seek.after, room)
            if answer.more:
                answer.digest = _digest(found)

    def _put(self, put: Put, wall: Seconds) -> tuple[Code, int]:
        try:
            record = self._prove(put.record)
        except BadRecord:
            return Code.INVALID, 0
        if record.owner and not self._member(record.owner):
            return Code.STRANGER, 0
        return self._store.put(record, wall, put.expected)


def _digest(found: Sequence[Record]) -> bytes:
    """Return what differs when the records do, so that the same ones are not fetched from every node."""
    return blake2b(b"".join([each.owner + each.body.seq.to_bytes(8) for each in found]), digest_size=8).digest()
