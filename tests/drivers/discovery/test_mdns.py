"""Two nodes and an attacker on the loopback interface: real processes, real multicast."""

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tetherd.discovery.announcement import SERVICE, Orders, instance_of, network_tag
from tetherd.discovery.hints import Drop, Hint, Source
from tetherd.discovery.peers import Live, PeerTable
from tetherd.drivers.discovery.mdns import Mdns
from tetherd.drivers.discovery.multicast import MAX_KNOWN
from tetherd.drivers.host.clock import SystemClock

GROUP = ("224.0.0.251", 5353)
A, B = "a" * 64, "b" * 64
TAG, OTHER = network_tag("1" * 16), network_tag("2" * 16)
PTR, TXT, SRV, ADDRESS = 12, 16, 33, 1


class Ears:
    """Keeps what is heard, and wakes whoever waits for more of it."""

    def __init__(self, me: str) -> None:
        self.table = PeerTable(me)
        self.hints: list[Hint] = []
        self.gone: list[str] = []
        self.drops: list[Drop] = []
        self._news = asyncio.Event()

    def hear(self, hint: Hint) -> None:
        self.hints.append(hint)
        self.table.hear(hint, 0.0)
        self._news.set()

    def vanish(self, source: Source, origin: str, node: str) -> None:
        self.gone.append(node)
        self.table.vanish(source, origin, node)
        self._news.set()

    def drop(self, drop: Drop) -> None:
        self.drops.append(drop)
        self.table.drop(drop)
        self._news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()


def orders(node: str, tag: str = TAG, address: str = "10.7.7.7") -> Orders:
    return Orders(tag, node, {"rpc": 7443, "bulk": 7445}, ("127.0.0.1",), (address,))


@asynccontextmanager
async def running(mdns: Mdns) -> AsyncIterator[Mdns]:
    task = asyncio.create_task(mdns.run())
    try:
        yield mdns
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture(autouse=True)
def _multicast() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            probe.sendto(b"", GROUP)
        except OSError as error:
            pytest.skip(f"this host sends no multicast over loopback: {error}")


async def wait_for(condition: Callable[[], object]) -> None:
    """Wait for what only a count that comes once a second shows."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # the tally comes by itself, no event tells of it
            await asyncio.sleep(0.05)


async def test_two_nodes_find_each_other_and_say_goodbye() -> None:
    first, second = Ears(A), Ears(B)
    async with running(Mdns(orders(A), first, SystemClock())) as one:
        async with running(Mdns(orders(B), second, SystemClock())):
            await first.until(lambda: first.hints)
            await second.until(lambda: second.hints)
            (hint,) = first.hints
            assert (hint.source, hint.node, hint.addresses) == ("mdns", B, ("10.7.7.7:7443",))
            assert hint.ports == {"bulk": 7445}
            assert hint.origin == instance_of(B).lower()
            await wait_for(lambda: one.tally.own)
            assert one.tally.sent > 0
            assert one.tally.heard > 0
            await wait_for(lambda: one.tally.known == 1)
            assert one.tally.interfaces == ("127.0.0.1",)
        await first.until(lambda: first.gone)
        assert first.gone == [B]


async def test_another_network_is_dropped_with_its_reason() -> None:
    mine = Ears(A)
    async with (
        running(Mdns(orders(A), mine, SystemClock())) as mdns,
        running(Mdns(orders(B, OTHER), Ears(B), SystemClock())),
    ):
        await mine.until(lambda: mine.drops)
        assert mine.drops[0].reason == "other-network"
        assert OTHER in mine.drops[0].detail
        await wait_for(lambda: mdns.tally.dropped.get("other-network"))
        assert mine.hints == []


async def test_a_node_that_only_listens_is_not_heard() -> None:
    hidden, other = Ears(A), Ears(B)
    silent = Orders(TAG, A, {}, ("127.0.0.1",))
    async with (
        running(Mdns(silent, hidden, SystemClock())),
        running(Mdns(orders(B), other, SystemClock())) as mdns,
    ):
        await hidden.until(lambda: hidden.hints)
        await wait_for(lambda: mdns.tally.own >= 2)
        assert other.hints == []


async def test_it_is_started_again_when_it_is_killed() -> None:
    mine, other = Ears(A), Ears(B)
    async with (
        running(Mdns(orders(A), mine, SystemClock())) as mdns,
        running(Mdns(orders(B), other, SystemClock())),
    ):
        await mine.until(lambda: mine.hints)
        os.kill(mdns.pid, signal.SIGKILL)
        heard = len(mine.hints)
        await mine.until(lambda: len(mine.hints) > heard)
        assert mdns.starts == 2


async def test_without_multicast_it_says_so() -> None:
    mine = Ears(A)
    async with running(Mdns(Orders(TAG, A, {"rpc": 7443}, ("192.0.2.1",)), mine, SystemClock())) as mdns:
        await wait_for(lambda: mdns.tally.fault)
        assert mdns.starts == 1


async def test_it_ends_with_its_daemon() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tetherd.drivers.discovery.multicast", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(b'{"tag":"00000000","node":"' + A.encode() + b'","interfaces":["127.0.0.1"]}\n')
    await process.stdin.drain()
    process.stdin.close()
    async with asyncio.timeout(10):
        assert await process.wait() == 0


def test_the_daemon_does_not_load_the_library() -> None:
    code = "import sys, tetherd.drivers.discovery.mdns; print([name for name in sys.modules if 'zeroconf' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The attacker


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.rstrip(".").split(".")) + b"\0"


def record(owner: str, kind: int, data: bytes, ttl: int = 4500) -> bytes:
    return name(owner) + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def answers(*records: bytes) -> bytes:
    return struct.pack("!6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def announcement(instance: str, node: str, address: str, tag: str = TAG, padding: int = 0) -> bytes:
    host = f"h-{instance[:20]}.local."
    text = b"".join(bytes([len(t)]) + t for t in (b"net=" + tag.encode(), b"node=" + node.encode()))
    text += (b"\xff" + b"x" * 255) * padding
    full = f"{instance}.{SERVICE}"
    return answers(
        record(SERVICE, PTR, name(full)),
        record(full, SRV, struct.pack("!3H", 0, 0, 7443) + name(host)),
        record(full, TXT, text),
        record(host, ADDRESS, socket.inet_aton(address)),
    )


def pointer_chain() -> bytes:
    body = b"\xc0\x0c" + b"".join(struct.pack("!H", 0xC000 | (12 + 2 * i)) for i in range(1500))
    return struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0) + body + struct.pack("!HHIH", PTR, 1, 4500, 2) + b"\xc0\x0c"


def rss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def attacker() -> socket.socket:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    return sender


async def flood(packets: int, make: Callable[[int], bytes], between: Callable[[], Awaitable[None]]) -> None:
    with attacker() as sender:
        for i in range(packets):
            sender.sendto(make(i), GROUP)
            if i % 200 == 199:
                await between()


KINDS: dict[str, Callable[[int], bytes]] = {
    "pointers": lambda _: pointer_chain(),
    "names": lambda i: answers(record(f"u{i}.example.local.", ADDRESS, socket.inet_aton("10.0.0.1"))),
    "instances": lambda i: announcement(f"i{i}", f"{i:064x}", f"10.1.{i // 250 % 250}.{i % 250 + 1}"),
    "texts": lambda i: announcement(f"t{i}", f"{i:064x}", "10.1.1.1", padding=30),
    "strangers": lambda i: announcement(f"s{i}", f"{i:064x}", "10.1.1.1", OTHER),
    "hosts": lambda i: answers(
        *(record(f"u{i}-{j}.local.", ADDRESS, socket.inet_aton("10.0.0.1")) for j in range(300))
    ),
    "claims": lambda i: announcement(f"c{i}", B, f"10.9.{i // 250 % 250}.{i % 250 + 1}"),
    "bitmaps": lambda i: answers(record(f"n{i}.local.", 47, name(f"n{i}.local.") + b"\x00\xff" + b"\xff" * 255)),
    "truncated": lambda i: (
        struct.pack("!6H", i % 65536, 0x0200, 1, 0, 0, 0) + name(SERVICE) + struct.pack("!2H", PTR, 1)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_flood_costs_little_and_drops_no_live_peer(kind: str) -> None:
    mine = Ears(A)
    async with (
        running(Mdns(orders(A), mine, SystemClock())) as mdns,
        running(Mdns(orders(B), Ears(B), SystemClock())),
    ):
        await mine.until(lambda: mine.hints)
        mine.table.connected(B, Live("lan", "10.7.7.7:7443"))
        mine.table.proved(B, "10.7.7.7:7443", 0.0)
        before, daemon = rss(mdns.pid), rss(os.getpid())
        pid, heard = mdns.pid, mdns.tally.heard
        await flood(100_000 if kind == "names" else 11_000, KINDS[kind], lambda: asyncio.sleep(0.002))
        with attacker() as sender:
            for _ in range(20):
                sender.sendto(answers(record(SERVICE, PTR, name(instance_of(B)), ttl=0)), GROUP)
        await wait_for(lambda: mdns.tally.heard > heard)
        assert rss(pid) - before < 32 * 2**20
        assert rss(os.getpid()) - daemon < 32 * 2**20
        peer = mine.table.peer(B)
        assert peer is not None
        assert peer.path == "lan"
        assert next(one for one in peer.addresses if one.address == "10.7.7.7:7443").proven
        assert len(mine.table.peers()) <= MAX_KNOWN + 1
        assert mdns.tally.known <= MAX_KNOWN
        assert mdns.pid == pid, "it lived through it"


async def test_a_forged_goodbye_is_asked_about() -> None:
    mine = Ears(A)
    async with (
        running(Mdns(orders(A), mine, SystemClock())),
        running(Mdns(orders(B), Ears(B), SystemClock())),
    ):
        await mine.until(lambda: mine.hints)
        mine.hints.clear()
        with attacker() as sender:
            sender.sendto(answers(record(SERVICE, PTR, name(instance_of(B)), ttl=0)), GROUP)
        await mine.until(lambda: mine.gone)
        await mine.until(lambda: mine.hints)
        assert mine.hints[0].node == B


async def test_somebody_elses_claim_on_this_node_is_told() -> None:
    mine = Ears(A)
    async with running(Mdns(orders(A), mine, SystemClock())) as mdns:
        await wait_for(lambda: mdns.tally.own)
        with attacker() as sender:
            sender.sendto(announcement("thief", A, "10.6.6.6"), GROUP)
        await mine.until(lambda: [drop for drop in mine.drops if drop.reason == "conflict"])
        assert mine.hints == []


async def test_this_nodes_own_name_at_another_address_is_told() -> None:
    mine = Ears(A)
    async with running(Mdns(orders(A), mine, SystemClock())) as mdns:
        await wait_for(lambda: mdns.tally.own)
        assert mine.drops == []
        async with running(Mdns(orders(A, address="10.6.6.6"), Ears(B), SystemClock())):
            await mine.until(lambda: mine.drops)
    assert mine.drops[0].reason == "conflict"
    assert "at 10.6.6.6" in mine.drops[0].detail
    assert mine.hints == []
