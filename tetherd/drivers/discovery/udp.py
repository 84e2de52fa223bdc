"""The distributed hash table on real sockets: moves datagrams between UDP and the state machine, and wakes it in time.

Decides nothing. What it finds are hints where to try; who is there, a TLS handshake proves.
"""

import asyncio
import errno
import os
import socket
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Final, Self, TypeAlias

from tetherd.discovery.contacts import Address, Contact, is_six
from tetherd.discovery.exchange import Conflict, Rules
from tetherd.discovery.ids import number
from tetherd.discovery.node import Complete, Found, Node, Published
from tetherd.discovery.standing import Subject
from tetherd.errors import Conflict as Changed
from tetherd.errors import InUse, InvalidInput, Unavailable
from tetherd.types import Seconds
from tetherd.wire.datagrams import SPEAKS4, SPEAKS6, Code, Keyring
from tetherd.wire.records import ANNOUNCEMENT, IMMUTABLE, MAX_TTL, MUTABLE, Kind, Record, immutable_key, mutable_key
from tetherd.wire.signatures import Signer

BUFFER: Final = 1024 * 1024
"""Bytes of datagrams that may wait in the kernel while the loop is busy."""

AT_ONCE: Final = 64
"""Datagrams taken in before other work of the loop gets its turn."""

GOODBYE: Final[Seconds] = 1.0
_LARGEST: Final = 1500

MAX_CONFLICTS: Final = 64
MAX_BARRED: Final = 256
BARRED: Final[Seconds] = 60.0
"""For how long an address is not tried that the kernel knows no way to; a host of one family has many."""

_NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL})

_Waiting: TypeAlias = "asyncio.Queue[Found | Complete | Published | None]"
"""What a task is told; None = the node closed under it."""


class Dht:
    """One node on its sockets. Use as an async context manager; one event loop, one thread."""

    def __init__(self, signer: Signer, keyring: Keyring, rules: Rules, listen: Sequence[Address]) -> None:
        self.conflicts: deque[Conflict] = deque(maxlen=MAX_CONFLICTS)
        self._allow = rules.allow
        self._speaks = {is_six(address): SPEAKS6 if is_six(address) else SPEAKS4 for address in listen}
        rules = rules._replace(allow=self._is_allowed, speaks=sum(self._speaks.values()))
        self._node = Node(signer, keyring, rules, os.urandom)
        self._listen = listen
        self._barred: dict[Address, Seconds] = {}  # where no way leads from here, and until when that is believed
        self._sockets: dict[int, socket.socket] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._failed: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._open = False

    async def __aenter__(self) -> Self:
        """Bind the sockets, one for each family. Raises InUse, Unavailable, InvalidInput."""
        self._loop = asyncio.get_running_loop()
        try:
            for address in self._listen:
                self._bind(address)
        except BaseException:
            self._shut()
            raise
        self._open = True
        self._node.tick(time.monotonic(), time.time() - time.monotonic())
        self._flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take back what this node announced, so far as others answer in time, and close."""
        now = time.monotonic()
        tasks = [self._node.withdraw(subject, now) for subject in self._node.standing.subjects()]
        queues = [self._wait(task) for task in tasks if task]
        self._flush()
        try:
            async with asyncio.timeout(GOODBYE):
                for queue in queues:
                    await queue.get()
        except TimeoutError:
            self._failed["goodbye"] += 1
        finally:
            self._shut()

    @property
    def id(self) -> str:
        """The node id."""
        return self._node.exchange.id.hex()

    @property
    def addresses(self) -> list[Address]:
        """Where this node listens, with the ports that it got."""
        return [each.getsockname()[:2] for each in self._sockets.values()]

    def join(self, seeds: Iterable[Address], remembered: Iterable[tuple[str, Address]] = ()) -> None:
        """Enter the network: by ``seeds`` (IP and port) and by nodes that were known before (see ``peers``)."""
        ids = [(bytes.fromhex(node), address) for node, address in remembered]
        contacts = [Contact(node, number(node), address) for node, address in ids if len(node) == 32]
        self._node.join(seeds, contacts, time.monotonic())
        self._flush()

    def hint(self, seed: Address) -> None:
        """Try another address, heard from any other source."""
        self._node.upkeep.seed(seed)
        self._flush()

    def rekey(self, keyring: Keyring) -> None:
        """Use other network keys from here on."""
        self._node.rekey(keyring)

    async def announce(self, topic: bytes, value: bytes, ttl: int) -> int:
        """Announce ``value`` under ``topic`` (32 bytes) until ``unannounce``; return how many nodes keep it now.

        ``ttl`` in seconds is how long it outlives this node. Raises InvalidInput, TooLarge.
        """
        return (await self._publish((ANNOUNCEMENT, topic), value, ttl)).stored

    async def unannounce(self, topic: bytes) -> int:
        """Take an announcement back; return how many nodes know that it is gone."""
        return await self._withdraw((ANNOUNCEMENT, topic))

    async def lookup(self, topic: bytes) -> AsyncGenerator[Record, None]:
        """Yield the announcements under ``topic`` as they are found, a newer one of an owner again; then end.

        Every one is proven to come from the node ``owner``. What was taken back is left out.
        """
        async with aclosing(self._search(ANNOUNCEMENT, topic)) as events:
            async for event in events:
                if isinstance(event, Found) and not event.record.body.gone:
                    yield event.record

    async def put(self, name: bytes, value: bytes, ttl: int = MAX_TTL, expected: int = -1) -> int:
        """Keep a value of this node under a name, until ``remove``; return its sequence number.

        ``expected``: only if that is the sequence number which is kept now. Raises Conflict when it is not,
        InvalidInput, TooLarge.
        """
        done = await self._publish((MUTABLE, name), value, ttl, expected)
        if Code.CHANGED in done.refused and not done.stored:
            raise Changed(f"the value is not at number {expected} any more", fix="get it, and decide again")
        return done.record.body.seq

    async def remove(self, name: bytes) -> int:
        """Take a value of this node back; return how many nodes know that it is gone."""
        return await self._withdraw((MUTABLE, name))

    async def get(self, node: str, name: bytes) -> Record | None:
        """Return the newest value that ``node`` keeps under a name; None if there is none."""
        newest = None
        async with aclosing(self._search(MUTABLE, mutable_key(bytes.fromhex(node), name))) as events:
            async for event in events:
                if isinstance(event, Complete) and event.records and not event.records[0].body.gone:
                    newest = event.records[0]
        return newest

    async def put_immutable(self, value: bytes) -> bytes:
        """Keep a value under its SHA-256 for as long as this node runs; return that. Raises InvalidInput, TooLarge."""
        await self._publish((IMMUTABLE, value), value, MAX_TTL)
        return immutable_key(value)

    async def get_immutable(self, key: bytes) -> bytes | None:
        """Return the value whose SHA-256 is ``key``; None if nobody has it."""
        async with aclosing(self._search(IMMUTABLE, key)) as events:
            async for event in events:
                if isinstance(event, Found):
                    return event.record.body.value
        return None

    def peers(self) -> list[tuple[str, Address]]:
        """Return the nodes in the routing table, the last heard first: what to remember for the next start."""
        found = sorted(self._node.exchange.table, key=lambda peer: -peer.seen)
        return [(peer.id.hex(), peer.address) for peer in found if not peer.failures]

    def observed(self) -> list[tuple[Address, Address]]:
        """Return the address of every peer heard of late, and the one that it heard this node from."""
        return self._node.exchange.observed(time.monotonic())

    def counters(self) -> dict[str, int]:
        """Return what was sent and heard, and by reason what was dropped, refused or could not be sent."""
        return dict(self._node.exchange.counters + self._failed)

    # --- tasks ---

    def _wait(self, task: int) -> _Waiting:
        queue: _Waiting = asyncio.Queue()
        self._waiting[task] = queue
        return queue

    async def _publish(self, subject: Subject, value: bytes, ttl: int, expected: int = -1) -> Published:
        return await self._published(self._node.publish(subject, value, ttl, self._now(), expected))

    async def _withdraw(self, subject: Subject) -> int:
        task = self._node.withdraw(subject, self._now())
        return (await self._published(task)).stored if task else 0

    async def _published(self, task: int) -> Published:
        queue = self._wait(task)
        self._flush()
        try:
            event = await queue.get()
        finally:
            self._waiting.pop(task, None)
        if not isinstance(event, Published):
            raise _closed()
        return event

    async def _search(self, kind: Kind, key: bytes) -> AsyncGenerator[Found | Complete, None]:
        if len(key) != 32:
            raise InvalidInput(f"a key of {len(key)} bytes", fix="keys have 32 bytes")
        task = self._node.search(kind, key, self._now())
        queue = self._wait(task)
        self._flush()
        try:
            while True:
                event = await queue.get()
                if event is None:
                    raise _closed()
                if not isinstance(event, Published):
                    yield event
                if isinstance(event, Complete):
                    return
        finally:
            self._waiting.pop(task, None)
            self._node.cancel(task)

    def _now(self) -> Seconds:
        if not self._open:
            raise _closed()
        return time.monotonic()

    # --- sockets ---

    def _bind(self, address: Address) -> None:
        host, port = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        if family in self._sockets:
            raise InvalidInput(
                f"a second address of one family: {host}",
                fix="listen on one IPv4 and one IPv6 address, or on a wildcard",
            )
        found = socket.socket(family, socket.SOCK_DGRAM)
        try:
            found.setblocking(False)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            if family == socket.AF_INET6:
                found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            found.bind((host, port))
        except OSError as error:
            found.close()
            if error.errno == errno.EADDRINUSE:
                raise InUse(f"UDP {host} port {port} is taken", fix="stop what uses it, or set another port") from None
            raise Unavailable(f"UDP {host} port {port} cannot be used: {error.strerror}") from None
        self._sockets[family] = found
        self._loop.add_reader(found, self._read, found)

    def _shut(self) -> None:
        self._open = False
        if self._timer:
            self._timer.cancel()
        for each in self._sockets.values():
            self._loop.remove_reader(each)
            each.close()
        self._sockets.clear()
        for queue in self._waiting.values():
            queue.put_nowait(None)

    def _read(self, source: socket.socket) -> None:
        now = time.monotonic()
        receive = self._node.receive
        for _ in range(AT_ONCE):
            try:
                data, address = source.recvfrom(_LARGEST)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:  # what an earlier datagram met on its way
                self._failed[f"unreachable.{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1
                continue
            receive(data, address[:2], now)
        self._flush()

    def _flush(self) -> None:
        """Send what is to be sent, pass events on, and see to it that the state machine is woken in time."""
        node = self._node
        outbox = node.exchange.outbox
        for data, address in outbox:
            self._send(data, address)
        outbox.clear()
        if node.events:
            self._dispatch()
        at = node.wake()
        if at < self._timer_at and self._open:
            if self._timer:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._wake)

    def _is_allowed(self, address: Address) -> bool:
        if is_six(address) not in self._speaks or self._barred.get(address, 0.0) > time.monotonic():
            return False
        return self._allow(address)

    def _send(self, data: bytes, address: Address) -> None:
        try:
            self._sockets[socket.AF_INET6 if is_six(address) else socket.AF_INET].sendto(data, address)
        except KeyError:
            self._failed["unreachable.family"] += 1
        except OSError as error:
            if error.errno in _NO_WAY:
                self._bar(address, time.monotonic())
            self._failed[f"unreachable.{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1

    def _bar(self, address: Address, now: Seconds) -> None:
        """Leave an address alone for a while, for which the kernel knows no way."""
        if len(self._barred) >= MAX_BARRED:
            self._barred = {each: until for each, until in self._barred.items() if until > now}
        if len(self._barred) < MAX_BARRED:
            self._barred[address] = now + BARRED

    def _dispatch(self) -> None:
        events = self._node.events
        for event in events:
            if isinstance(event, Conflict):
                self.conflicts.append(event)
            elif event.task in self._waiting:
                self._waiting[event.task].put_nowait(event)
        events.clear()

    def _wake(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        now = time.monotonic()
        self._node.tick(now, time.time() - now)
        self._flush()


def _closed() -> Unavailable:
    return Unavailable("the distributed hash table is closed", fix="try again when the daemon runs")
