"""The records that this node keeps for others: which are taken, which give way, and how they are handed out.

Records are proven before they come here. Whatever anyone sends, there are at most ``MAX_RECORDS``.
"""

from bisect import bisect_left, insort
from typing import Final, TypeAlias

from tetherd.discovery.ids import number
from tetherd.types import Seconds
from tetherd.wire.datagrams import Code
from tetherd.wire.records import IMMUTABLE, MAX_TTL, Kind, Record

PER_KEY: Final = 20
MAX_RECORDS: Final = 10_000
PER_OWNER: Final = 1_000
CLOCK: Final = 300
"""Seconds that the clock of a record's owner may be ahead of ours."""

STRIDE: Final = 2**20
"""By how much a sequence number may grow in a day: no owner can be locked out of its own record for ever."""

DAY: Final = 86_400
RECORD_COST: Final = 4
"""Bytes that a record takes in an answer beyond its own."""

_Place: TypeAlias = tuple[Kind, bytes]


class _Entry:
    """A record, when it came, and until when an older one of its owner would still pass for valid."""

    __slots__ = ("at", "guard", "record")

    def __init__(self, record: Record, at: Seconds, guard: Seconds) -> None:
        self.record = record
        self.at = at
        self.guard = guard


class Store:
    """Records by kind and key, then by owner, the least recently written first."""

    def __init__(self, own: bytes, capacity: int = MAX_RECORDS) -> None:
        self._own = number(own)
        self._capacity = capacity
        self._places: dict[_Place, dict[bytes, _Entry]] = {}
        self._far: list[tuple[int, _Place]] = []
        self._owned: dict[bytes, int] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, record: Record, wall: Seconds, expected: int = -1) -> tuple[Code, int]:
        """Keep a record, or say why not and which sequence number stands in its way (0 = none)."""
        place: _Place = (record.body.kind, record.key)
        held = self._places.get(place, {}).get(record.owner)
        code = _timely(record, wall) or _in_order(record, held, wall, expected)
        if code:
            return code, held.record.body.seq if held else 0
        if held is None and not self._make_room(place, record.owner):
            return Code.FULL, 0
        until = wall + MAX_TTL if record.body.kind == IMMUTABLE else record.until
        self._insert(place, record, _Entry(record, wall, max(until, held.guard if held else 0)))
        return Code.OK, 0

    def find(self, kind: Kind, key: bytes, wall: Seconds) -> list[Record]:
        """Return what is kept under a key and has not expired, by owner; what was taken back is among it."""
        held = self._places.get((kind, key))
        if not held:
            return []
        live = [entry.record for entry in held.values() if _until(entry) > wall]
        return sorted(live, key=lambda record: record.owner)

    def page(self, found: list[Record], after: bytes | None, room: int) -> tuple[list[bytes], bool]:
        """Return the records behind owner ``after`` that fit ``room`` bytes, and whether some were left over."""
        taken: list[bytes] = []
        for record in found:
            if after and record.owner <= after:
                continue
            room -= len(record.blob) + RECORD_COST
            if room < 0:
                return taken, True
            taken.append(record.blob)
        return taken, False

    def expire(self, wall: Seconds) -> None:
        """Forget what expired, once nothing older of its owner could come back."""
        gone = [
            (place, owner)
            for place, held in self._places.items()
            for owner, entry in held.items()
            if entry.guard <= wall
        ]
        for place, owner in gone:
            self._remove(place, owner)

    def _insert(self, place: _Place, record: Record, entry: _Entry) -> None:
        held = self._places.get(place)
        if held is None:
            held = self._places[place] = {}
            insort(self._far, (self._own ^ number(place[1]), place))
        if held.pop(record.owner, None) is None:
            self._size += 1
            self._owned[record.owner] = self._owned.get(record.owner, 0) + 1
        held[record.owner] = entry

    def _make_room(self, place: _Place, owner: bytes) -> bool:
        """Let another record give way where need be: the oldest of the same key, else of the farthest one."""
        if self._owned.get(owner, 0) >= PER_OWNER:
            return False
        held = self._places.get(place, {})
        if len(held) >= PER_KEY:
            self._remove(place, next(iter(held)))
        if self._size >= self._capacity:
            distance, farthest = self._far[-1]
            if distance < self._own ^ number(place[1]):
                return False
            self._remove(farthest, next(iter(self._places[farthest])))
        return True

    def _remove(self, place: _Place, owner: bytes) -> None:
        held = self._places[place]
        del held[owner]
        self._size -= 1
        self._owned[owner] -= 1
        if not self._owned[owner]:
            del self._owned[owner]
        if not held:
            del self._places[place]
            del self._far[bisect_left(self._far, (self._own ^ number(place[1]), place))]


def _until(entry: _Entry) -> Seconds:
    return entry.at + MAX_TTL if entry.record.body.kind == IMMUTABLE else entry.record.until


def _timely(record: Record, wall: Seconds) -> Code:
    if record.body.kind == IMMUTABLE:
        return Code.OK
    if record.body.issued > wall + CLOCK:
        return Code.CLOCK
    return Code.EXPIRED if record.until <= wall else Code.OK


def _in_order(record: Record, held: _Entry | None, wall: Seconds, expected: int) -> Code:
    """Decide whether a record may follow the one that is held."""
    seq = record.body.seq
    last, at = (held.record.body.seq, held.at) if held else (0, 0.0)
    if expected >= 0 and expected != last:
        return Code.CHANGED
    if held and seq < last:
        return Code.SEQ_LOW
    if held and seq == last and record.blob != held.record.blob and record.body != held.record.body:
        return Code.SEQ_REUSED
    if seq > last + STRIDE * (1 + int((wall - at) // DAY)):
        return Code.SEQ_FAR
    return Code.OK
