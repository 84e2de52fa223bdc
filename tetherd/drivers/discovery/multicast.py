"""The process that speaks mDNS for a daemon: hears announcements of peers, makes the daemon's own, reports in lines.

Anyone on the network can send it anything, so it is a process of its own: low in priority, bounded in memory, ended
when its standard input ends. It keeps no more than the announcements of one network, and believes none of them.
"""

import asyncio
import os
import resource
import sys
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable
from ipaddress import ip_address
from random import uniform
from typing import Final

import ifaddr
from zeroconf import (
    DNSAddress,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSRecord,
    InterfaceChoice,
    IPVersion,
    RecordUpdate,
    RecordUpdateListener,
    Zeroconf,
    current_time_millis,
)
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from tetherd.discovery.addresses import MAX_PER_NODE, Address, refusal
from tetherd.discovery.announcement import (
    SERVICE,
    Announcement,
    Found,
    Gone,
    Orders,
    Report,
    Tally,
    Turned,
    decode_orders,
    encode,
    endpoints,
    instance_of,
    read,
    server_of,
)
from tetherd.discovery.hints import Drop, Reason
from tetherd.errors import InvalidInput
from tetherd.types import Seconds

MEMORY: Final = 96 << 20
"""Bytes of data; a process that would need more ends, and its daemon starts another."""

MAX_KNOWN: Final = 256
MAX_ASKING: Final = 8
MAX_RECORDS: Final = 1024
"""Records of others that are kept before the cache is swept; each may have 9 KB."""

MAX_TOLD: Final = 16
"""Drops that are told one by one between two tallies; the rest is counted."""

FRESH: Final[Seconds] = 30.0
_CALM: Final[Seconds] = 1.0
"""An instance is told again so often if nothing changed, and at most so often if it changes its mind."""

_STARTUP: Final = (0.0, 1.0, 3.0)
_PERIOD: Final[Seconds] = 60.0
_TALLY: Final[Seconds] = 1.0
_WATCH: Final[Seconds] = 15.0
_AGAIN: Final[Seconds] = 5.0
_ASK_MS: Final = 2000
_QUERY: Final = 0
_PTR, _IN = 12, 1
_RATE: Final = 20.0
_BURST: Final = 100.0


class Counted(Zeroconf):
    """Zeroconf that counts what it sends."""

    sent = 0

    def async_send(self, *args: object, **kwargs: object) -> None:
        """Send, and count."""
        self.sent += 1
        super().async_send(*args, **kwargs)  # type: ignore[arg-type]


class Known:
    """One instance of this network: the pointer it was heard by, and what was last reported of it."""

    __slots__ = ("found", "pointer", "server", "told")

    def __init__(self, pointer: DNSPointer, server: str, found: Found, told: Seconds) -> None:
        self.pointer = pointer
        self.server = server
        self.found = found
        self.told = told


class Listener(RecordUpdateListener):
    """Turns records into reports, with bounds on everything that a sender could make grow."""

    def __init__(self, orders: Orders, zc: Counted, hosts: Collection[str]) -> None:
        self._orders = orders
        self._zc = zc
        self._own = instance_of(orders.node).lower()
        self._self = server_of(orders.node).lower()
        self._here = frozenset((*hosts, *orders.addresses))
        self._loop = asyncio.get_running_loop()
        self._pointers: dict[str, DNSPointer] = {}  # of the packet that is being read
        self._touched: set[str] = set()
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._servers: dict[str, set[str]] = {}  # host name to known instances on it
        self._asking: set[asyncio.Task[None]] = set()
        self._records = 0
        self._credit, self._credited = _BURST, self._loop.time()
        self._told = 0
        self._heard = self._came_back = 0
        self._dropped: Counter[str] = Counter()
        self.goodbye = asyncio.Event()

    def async_update_records(self, _zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Note which instances a packet is about. Zeroconf calls this before it has kept the records."""
        self._heard += 1
        self._records += len(records)
        for update in records:
            record = update.new
            name = record.name.lower()
            if isinstance(record, DNSPointer) and name == SERVICE:
                self._point(record, now)
            elif name.endswith(SERVICE):
                self._touched.add(name)
            elif isinstance(record, DNSAddress):
                self._touched.update(self._servers.get(name, ()))
                if name == self._self and not record.is_expired(now):
                    self._compare(record)

    def async_update_records_complete(self) -> None:
        """Look at the instances that the packet was about, now that zeroconf keeps its records."""
        touched, pointers = self._touched | self._pointers.keys(), self._pointers
        self._touched, self._pointers = set(), {}
        for name in touched:
            if name == self._own:
                self._came_back += 1
            elif name in self._known:
                self._refresh(name, pointers.get(name))
            elif name in pointers:
                self._meet(name, pointers[name])
        if self._records > MAX_RECORDS:
            self._sweep()

    def query(self) -> None:
        """Ask everyone to announce themselves, naming some who need not."""
        now = current_time_millis()
        out = DNSOutgoing(_QUERY)
        out.add_question(DNSQuestion(SERVICE, _PTR, _IN))
        for name in list(self._known):
            if self._known[name].pointer.is_expired(now):
                self._lose(name)
        for one in list(self._known.values())[-MAX_PER_NODE:]:
            if not one.pointer.is_stale(now):
                out.add_answer_at_time(one.pointer, now)
        self._zc.async_send(out)

    def tally(self, interfaces: tuple[str, ...]) -> Tally:
        """Return the counts, and allow drops to be told one by one again."""
        self._told = 0
        return Tally(interfaces, self._zc.sent, self._heard, self._came_back, len(self._known), dict(self._dropped), "")

    def _point(self, record: DNSPointer, now: float) -> None:
        name = record.alias.lower()
        if not name.endswith(f".{SERVICE}"):
            return
        if record.is_expired(now):
            if name in self._known:
                self._lose(name)
                self.goodbye.set()  # perhaps not its own words: it is asked
        elif len(self._pointers) < MAX_KNOWN:
            self._pointers[name] = record

    def _compare(self, record: DNSAddress) -> None:
        """Raise the alarm where somebody announces this very node at an address that is not this host's."""
        address = str(ip_address(record.address))
        if address not in self._here:
            self._drop("conflict", f"another host announces the id of this very node, at {address}", self._own)

    def _meet(self, name: str, pointer: DNSPointer) -> None:
        if not self._admit():
            self._drop("full", "more new instances than are listened to", name)
            return
        info = AsyncServiceInfo(SERVICE, pointer.alias)
        if info.load_from_cache(self._zc):
            self._judge(name, pointer, info)
        elif len(self._asking) < MAX_ASKING:
            task = self._loop.create_task(self._ask(name, pointer, info))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        else:
            self._drop("full", "too many instances leave their addresses out", name)

    async def _ask(self, name: str, pointer: DNSPointer, info: AsyncServiceInfo) -> None:
        if await info.async_request(self._zc, _ASK_MS):
            self._judge(name, pointer, info)
        else:
            self._drop("unreachable", "it announced itself and did not say where it is", name)

    def _refresh(self, name: str, pointer: DNSPointer | None) -> None:
        known = self._known[name]
        known.pointer = pointer or known.pointer
        info = AsyncServiceInfo(SERVICE, known.pointer.alias)
        if info.load_from_cache(self._zc):
            self._judge(name, known.pointer, info)

    def _judge(self, name: str, pointer: DNSPointer, info: AsyncServiceInfo) -> None:
        try:
            said = read(info.properties, info.port)
        except InvalidInput as error:
            self._drop("malformed", error.message, name)
            return
        if said.tag != self._orders.tag:
            self._drop("other-network", f"it announces network {said.tag}, this is {self._orders.tag}", name)
        elif said.node == self._orders.node:
            self._drop("conflict", "another host announces the id of this very node", name)
        else:
            self._keep(name, pointer, info, said)

    def _keep(self, name: str, pointer: DNSPointer, info: AsyncServiceInfo, said: Announcement) -> None:
        hosts = tuple(info.parsed_scoped_addresses()[: 2 * MAX_PER_NODE])
        rest = {service: port for service, port in said.ports.items() if service != "rpc"}
        found = Found(name, said.node, endpoints(hosts, said.ports["rpc"]), rest, float(pointer.ttl))
        known, now = self._forget(name), self._loop.time()
        told = known.told if known else -FRESH
        news = known is None or known.found != found
        tell = now >= told + (_CALM if news else FRESH)
        server = (info.server or "").lower()
        # What is not told now counts as unknown, so that the next packet of it is.
        kept = found if tell or known is None else known.found
        self._known[name] = Known(pointer, server, kept, now if tell else told)
        self._servers.setdefault(server, set()).add(name)
        if len(self._known) > MAX_KNOWN:
            self._forget(next(iter(self._known)))  # still a hint to the daemon, only not refreshed
        if tell:
            report(found)

    def _lose(self, name: str) -> None:
        known = self._forget(name)
        if known:
            report(Gone(name, known.found.node))

    def _forget(self, name: str) -> Known | None:
        known = self._known.pop(name, None)
        if known:
            others = self._servers[known.server]
            others.discard(name)
            if not others:
                del self._servers[known.server]
        return known

    def _drop(self, reason: Reason, detail: str, name: str) -> None:
        self._dropped[reason] += 1
        self._told += 1
        if self._told <= MAX_TOLD:
            instance = name.removesuffix(f".{SERVICE}")[:64]
            report(Turned(Drop(reason, detail, address=instance, source="mdns")))

    def _admit(self) -> bool:
        """Return whether one more unknown instance may be looked at: a few at once, then so many a second."""
        now = self._loop.time()
        self._credit = min(_BURST, self._credit + (now - self._credited) * _RATE)
        self._credited = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def _sweep(self) -> None:
        """Let go of every record that is about no known instance."""
        self._records = 0
        wanted = {SERVICE, *self._known, *self._servers}
        cache = self._zc.cache
        stale: list[DNSRecord] = []
        for records in list(cache.cache.values()):
            stale += [one for one in records if one.name.lower() not in wanted or self._is_strange(one)]
        cache.async_remove_records(stale)

    def _is_strange(self, record: DNSRecord) -> bool:
        return isinstance(record, DNSPointer) and record.alias.lower() not in self._known


def report(message: Report) -> None:
    """Write one line to the daemon; a full pipe makes this process wait, which is what it is for."""
    os.write(sys.stdout.fileno(), encode(message))


def main() -> None:
    """Run until standard input ends."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    line = sys.stdin.buffer.readline()
    if line:
        asyncio.run(_serve(decode_orders(line)))


async def _serve(orders: Orders) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), over.set)  # nothing more is said on it: what comes is its end
    while not over.is_set():
        hosts = tuple(orders.interfaces) or _hosts()
        try:
            await _session(orders, hosts, over)
        except (OSError, RuntimeError) as error:
            # No interface, no multicast route, no permission: it may come with the next network.
            report(Tally(hosts, fault=f"{type(error).__name__}: {error}"[:200]))
            await _until(over, _AGAIN)


async def _session(orders: Orders, hosts: tuple[str, ...], over: asyncio.Event) -> None:
    """Listen and announce on these interfaces until they change."""
    zc = _open(orders)
    async with AsyncZeroconf(zc=zc) as zeroconf:
        await zc.async_wait_for_start()
        listener = Listener(orders, zc, hosts)
        zc.async_add_listener(listener, None)
        if orders.ports.get("rpc"):
            await zeroconf.async_register_service(_service(orders, hosts), cooperating_responders=True)
        duties = [asyncio.create_task(_ask_again(listener)), asyncio.create_task(_count(listener, hosts))]
        try:
            while not over.is_set() and (orders.interfaces or hosts == _hosts()):
                await _until(over, _WATCH)
        finally:
            for duty in duties:
                duty.cancel()


def _open(orders: Orders) -> Counted:
    if orders.interfaces:
        return Counted(list(orders.interfaces))
    try:
        return Counted(InterfaceChoice.All, ip_version=IPVersion.All)
    except OSError:  # a host without IPv6
        return Counted(InterfaceChoice.All, ip_version=IPVersion.V4Only)


def _service(orders: Orders, hosts: tuple[str, ...]) -> AsyncServiceInfo:
    said = Announcement(orders.tag, orders.node, orders.ports)
    addresses = orders.addresses or tuple(host for host in hosts if not refusal(Address(host, said.ports["rpc"])))
    return AsyncServiceInfo(
        SERVICE,
        instance_of(orders.node),
        port=said.ports["rpc"],
        properties=said.text(),
        server=server_of(orders.node),
        parsed_addresses=list(addresses[:MAX_PER_NODE]),
    )


async def _ask_again(listener: Listener) -> None:
    """Query a few times at the start, then once a minute, and whenever somebody said goodbye."""
    for pause in _STARTUP:
        await asyncio.sleep(pause)
        listener.query()
    while True:
        await _until(listener.goodbye, _PERIOD * uniform(0.9, 1.1))  # noqa: S311  # spreads queries, hides nothing
        if listener.goodbye.is_set():
            listener.goodbye.clear()
            await asyncio.sleep(uniform(1.0, 2.0))  # noqa: S311
        listener.query()


async def _count(listener: Listener, interfaces: tuple[str, ...]) -> None:
    while True:
        report(listener.tally(interfaces))
        await asyncio.sleep(_TALLY)


async def _until(event: asyncio.Event, seconds: Seconds) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _hosts() -> tuple[str, ...]:
    """Return the addresses of this host's interfaces, without scopes."""
    found: Iterable[str] = (
        one.ip if isinstance(one.ip, str) else one.ip[0] for adapter in ifaddr.get_adapters() for one in adapter.ips
    )
    return tuple(sorted({str(ip_address(host.partition("%")[0])) for host in found}))


if __name__ == "__main__":
    main()
