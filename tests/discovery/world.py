"""A network of nodes that exists in arithmetic only: its time, its losses and its keys come from one seed."""

import random
from collections.abc import Callable, Iterable
from hashlib import sha256
from heapq import heappop, heappush

from tetherd.discovery.contacts import Address, is_six
from tetherd.discovery.exchange import Rules
from tetherd.discovery.node import Complete, Event, Node, Published
from tetherd.wire.datagrams import SPEAKS4, SPEAKS6, Keyring
from tetherd.wire.records import ANNOUNCEMENT, Kind, Record
from tetherd.wire.signatures import PUBLIC_SIZE

NETWORK = "0123456789abcdef"
KEY = b"k" * 32
EPOCH = 1.7e9
"""Seconds since the epoch when the world begins."""


class Pretender:
    """Signs without cryptography, for thousands of nodes: whoever knows the public key could, and nobody here does."""

    def __init__(self, seed: bytes) -> None:
        self.public = (sha256(seed).digest() * 3)[:PUBLIC_SIZE]

    def sign(self, message: bytes) -> bytes:
        return sha256(self.public + message).digest()


def pretended(public: bytes, signature: bytes, message: bytes) -> bool:
    return signature == sha256(public + message).digest()


def rules(*, serves: bool = True, member: Callable[[bytes], bool] = lambda _: True, speaks: int = 0) -> Rules:
    def reaches(address: Address) -> bool:
        return not speaks or bool(speaks & (SPEAKS6 if is_six(address) else SPEAKS4))

    return Rules(serves, member, reaches, pretended, speaks)


class World:
    """Nodes by address, datagrams on their way, and the time."""

    def __init__(self, seed: int, loss: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.nodes: dict[Address, Node] = {}
        self.events: dict[Address, list[Event]] = {}
        self.taps: dict[Address, list[bytes]] = {}
        self.largest = 0
        self.sent = 0
        self._sixes: dict[Address, Address] = {}  # the IPv6 address of whom we know by an IPv4 one
        self._fours: dict[Address, Address] = {}
        self._born = 0
        self._flying: list[tuple[float, int, Address, bytes, Address]] = []
        self._wakes: list[tuple[float, int, Address]] = []
        self._planned: dict[Address, float] = {}

    def add(self, seeds: Iterable[Address] = (), who: Rules | None = None, keyring: Keyring | None = None) -> Address:
        """Bring a node to life, of the families that its rules say; return its address, of IPv4 if it has both."""
        self._born += 1
        address, six = (f"10.{self._born >> 16}.{self._born >> 8 & 255}.{self._born & 255}", 7443), self._six()
        who = who or rules()
        if who.speaks == SPEAKS6:
            address = six
        elif who.speaks & SPEAKS6:
            self._sixes[address], self._fours[six] = six, address
        signer = Pretender(b"%d|%d" % (self._born, self.random.getrandbits(64)))
        node = Node(signer, keyring or Keyring(NETWORK, {1: KEY}), who, self.random.randbytes)
        self.nodes[address] = node
        self.events[address] = []
        node.tick(self.now, EPOCH)
        node.join(seeds, (), self.now)
        self.settle(address)
        return address

    def grow(self, count: int, over: float = 0.5) -> list[Address]:
        """Bring ``count`` nodes to life one after the other, all joining by the first two."""
        born = [self.add()]
        while len(born) < count:
            self.run(over / count)
            born.append(self.add(born[:2]))
        return born

    def kill(self, address: Address) -> None:
        """End a node without a word."""
        del self.nodes[address]

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.until(lambda: False, seconds)

    def until(self, done: Callable[[], bool], seconds: float = 20.0) -> None:
        """Let time pass until ``done``, at most ``seconds``."""
        end = self.now + seconds
        while not done():
            moment = min(self._flying[0][0] if self._flying else end, self._wakes[0][0] if self._wakes else end)
            if moment >= end:
                self.now = end
                return
            self.now = max(self.now, moment)
            if self._flying and self._flying[0][0] <= moment:
                _, _, to, data, source = heappop(self._flying)
                if to in self.nodes:
                    self.nodes[to].receive(data, source, self.now)
                    self.settle(to)
                elif to in self.taps:
                    self.taps[to].append(data)
            else:
                self._wake()

    def settle(self, address: Address) -> None:
        """Put what a node sends on its way, keep its events, and plan its next wake."""
        node = self.nodes[address]
        for data, to in node.exchange.outbox:
            self.send(data, address, to)
        node.exchange.outbox.clear()
        self.events[address] += node.events
        node.events.clear()
        wake = node.wake()
        if wake < self._planned.get(address, float("inf")):
            self._planned[address] = wake
            heappush(self._wakes, (wake, self.sent, address))

    def send(self, data: bytes, source: Address, to: Address) -> None:
        """Put a datagram on its way, or lose it."""
        self.sent += 1
        self.largest = max(self.largest, len(data))
        if is_six(to) != is_six(source):
            if source not in self._sixes:
                return
            source = self._sixes[source]
        to = self._fours.get(to, to)
        if self.random.random() >= self.loss:
            heappush(self._flying, (self.now + self.random.uniform(0.002, 0.02), self.sent, to, data, source))

    def six(self, address: Address) -> Address:
        """Return the IPv6 address of a node of both families."""
        return self._sixes[address]

    def _six(self) -> Address:
        return f"2001:db8::{self._born:x}", 7443

    def announce(self, address: Address, topic: bytes, value: bytes = b"here", ttl: int = 600) -> Published:
        """Announce at a node, and wait for it."""
        return self.published(address, self.nodes[address].publish((ANNOUNCEMENT, topic), value, ttl, self.now))

    def unannounce(self, address: Address, topic: bytes) -> Published:
        """Take an announcement back, and wait for it."""
        return self.published(address, self.nodes[address].withdraw((ANNOUNCEMENT, topic), self.now))

    def published(self, address: Address, task: int) -> Published:
        """Wait for a publication."""
        done = self._outcome(address, task)
        assert isinstance(done, Published)
        return done

    def lookup(self, address: Address, key: bytes, kind: Kind = ANNOUNCEMENT) -> list[Record]:
        """Look a key up from a node to the end; return what is not gone."""
        done = self._outcome(address, self.nodes[address].search(kind, key, self.now))
        assert isinstance(done, Complete)
        return [record for record in done.records if not record.body.gone]

    def counters(self, address: Address) -> dict[str, int]:
        """Return what a node counted."""
        return self.nodes[address].exchange.counters

    def _outcome(self, address: Address, task: int) -> Event:
        found: list[Event] = []

        def done() -> bool:
            if address in self.nodes:
                self.settle(address)
            events = self.events[address]
            found.extend(each for each in events if isinstance(each, Complete | Published) and each.task == task)
            events[:] = [each for each in events if getattr(each, "task", task) != task]
            return bool(found)

        self.until(done)
        return found[0]

    def _wake(self) -> None:
        moment, _, address = heappop(self._wakes)
        if self._planned.get(address) != moment:
            return
        del self._planned[address]
        if address in self.nodes:
            self.nodes[address].tick(self.now, EPOCH)
            self.settle(address)
