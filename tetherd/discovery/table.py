"""The routing table: which nodes are known, more of them the closer they are to this one.

Only nodes that proved their id and serve are ever put in. A node leaves after failing twice in a row.
"""

from collections.abc import Callable, Iterator
from typing import Final

from tetherd.discovery.contacts import SIZE4, Address, pack_address, same
from tetherd.discovery.ids import number, shared
from tetherd.types import Seconds
from tetherd.wire.datagrams import SPEAKS4, SPEAKS6

CLOSEST: Final = 8
"""How many nodes keep each record, and how many contacts an answer carries."""

BUCKET: Final = 16
MAX_FAILURES: Final = 2
KEPT: Final[Seconds] = 600.0
"""For how long a second address of a peer is told to others after it proved itself there."""


class Peer:
    """A node that proved its id: where it is, how fast it answers (``rtt``, seconds; -1 = unknown), its write token.

    ``also``: the contact with its address of the other family, packed, where it proved itself at ``also_at``.
    ``saw``: the address it last heard us from, packed. ``epoch`` is that of the network key it used last. ``doubted``:
    it keeps us waiting now. ``failures``: how often in a row it did not answer at all.
    """

    __slots__ = (
        "address",
        "also",
        "also_at",
        "doubted",
        "epoch",
        "failed",
        "failures",
        "id",
        "number",
        "packed",
        "rtt",
        "saw",
        "seen",
        "token",
        "token_at",
    )

    def __init__(self, id: bytes, address: Address, now: Seconds) -> None:  # noqa: A002
        self.id = id
        self.number = number(id)
        self.seen = now
        self.rtt = -1.0
        self.saw = b""
        self.token = b""
        self.token_at = 0.0
        self.failures = 0
        self.failed = 0.0
        self.doubted = False
        self.epoch = -1
        self.also = b""
        self.also_at = 0.0
        self.move(address)

    def move(self, address: Address) -> None:
        """Take note of another address; what was learnt with the old one is void."""
        self.address = same(address)
        self.packed = self.id + pack_address(address)
        self.token = b""
        self.rtt = -1.0

    def meet(self, address: Address, now: Seconds) -> None:
        """Take note that it proved itself at an address of the other family, too."""
        self.also = self.id + pack_address(address)
        self.also_at = now

    def shown(self, speaks: int, now: Seconds) -> bytes:
        """Return the packed contact for somebody of these families (flags; 0 = any); empty if it is at none of them."""
        for packed, told in ((self.packed, True), (self.also, bool(self.also) and now - self.also_at < KEPT)):
            if told and (not speaks or speaks & (SPEAKS4 if len(packed) == SIZE4 else SPEAKS6)):
                return packed
        return b""

    def answered(self, now: Seconds, rtt: Seconds) -> None:
        """Take note of an answer; ``rtt`` below zero where the round trip is uncertain."""
        self.seen = now
        self.failures = 0
        self.doubted = False
        if rtt >= 0:
            self.rtt = rtt if self.rtt < 0 else 0.75 * self.rtt + 0.25 * rtt


class Table:
    """Buckets of at most ``BUCKET`` peers by the number of leading bits that they share with this node."""

    def __init__(self, own: bytes) -> None:
        self.own = number(own)
        self._buckets: list[list[Peer]] = []
        self._used: dict[int, Seconds] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Peer]:
        return (peer for bucket in self._buckets for peer in bucket)

    def __contains__(self, peer: object) -> bool:
        return isinstance(peer, Peer) and peer in self._bucket(peer.number)

    def wants(self, key: int) -> bool:
        """Tell whether a node of that id would find room."""
        if key == self.own:
            return False
        bucket = self._bucket(key)
        return len(bucket) < BUCKET or any(peer.failures for peer in bucket)

    def add(self, peer: Peer) -> bool:
        """Put a peer in, in the place of one that failed if need be; return whether it is in."""
        if peer.number == self.own:
            return False
        index = shared(self.own, peer.number)
        while len(self._buckets) <= index:
            self._buckets.append([])
        bucket = self._buckets[index]
        if peer in bucket:
            return True
        if len(bucket) >= BUCKET:
            failing = next((each for each in bucket if each.failures), None)
            if failing is None:
                return False
            self.remove(failing)
        bucket.append(peer)
        self._size += 1
        return True

    def remove(self, peer: Peer) -> None:
        """Take a peer out, if it is in."""
        bucket = self._bucket(peer.number)
        if peer in bucket:
            bucket.remove(peer)
            self._size -= 1

    def closest(self, key: int, count: int = CLOSEST, is_wanted: Callable[[Peer], object] | None = None) -> list[Peer]:
        """Return the peers closest to a key that did not fail of late and are wanted, the closest first."""
        found: list[Peer] = []
        for group in self._groups(key):
            ranked = [
                (peer.number ^ key, peer)
                for peer in group
                if not peer.failures and (is_wanted is None or is_wanted(peer))
            ]
            ranked.sort(key=_distance)
            found += [peer for _, peer in ranked]
            if len(found) >= count:
                break
        return found[:count]

    def use(self, key: int, now: Seconds) -> None:
        """Take note that a lookup went through the bucket of a key."""
        self._used[shared(self.own, key)] = now

    def idle(self, before: Seconds) -> list[int]:
        """Return the buckets, by shared bits, that no lookup went through since ``before``; at most those in use."""
        return [index for index in range(len(self._buckets)) if self._used.get(index, before) <= before]

    def _bucket(self, key: int) -> list[Peer]:
        index = shared(self.own, key)
        return self._buckets[index] if index < len(self._buckets) else []

    def _groups(self, key: int) -> Iterator[list[Peer]]:
        """Yield groups of peers such that all of one are closer to ``key`` than any of the next."""
        index = shared(self.own, key)
        if index < len(self._buckets):
            yield self._buckets[index]
        deeper = self._buckets[index + 1 :]
        if deeper:
            yield [peer for bucket in deeper for peer in bucket]
        yield from reversed(self._buckets[:index])


def _distance(ranked: tuple[int, Peer]) -> int:
    return ranked[0]
