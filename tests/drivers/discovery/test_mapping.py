"""The driver against routers on loopback, which answer as real ones do, as broken ones do, and as strangers do."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tetherd.discovery.addresses import Address
from tetherd.discovery.mapping import Report, Want
from tetherd.drivers.discovery import mapping
from tetherd.drivers.discovery.mapping import PortMapping, default_router, read_routes
from tetherd.drivers.host.clock import SystemClock
from tetherd.wire.portmapping import PORT

ROUTER = "127.77.0.1"
WANTS = (Want("rpc", "tcp", 7443), Want("dht", "udp", 7443))
OUTSIDE = b"\x0b\0\0\1"
PLACES = {"rpc": Address("11.0.0.1", 17443), "dht": Address("11.0.0.1", 17443)}
SHIFT = 10000


def pcp(ask: bytes) -> bytes:
    """Answer as a router does that speaks PCP; it gives another port than it was asked for."""
    lifetime = ask[4:8]
    inner = int.from_bytes(ask[40:42], "big")
    head = b"\x02\x81\0\0" + lifetime + struct.pack("!I12x", 77)
    return head + ask[24:42] + struct.pack("!H", inner + SHIFT) + bytes(10) + b"\xff\xff" + OUTSIDE


def nat_pmp(ask: bytes) -> bytes:
    """Answer as a router does that speaks NAT-PMP alone."""
    if ask[0] != 0:
        return struct.pack("!BBHI", 0, 0x80 | ask[1], 1, 77)
    if ask[1] == 0:
        return struct.pack("!BBHI", 0, 0x80, 0, 77) + OUTSIDE
    inner, _, lifetime = struct.unpack("!HHI", ask[4:])
    return struct.pack("!BBHIHHI", 0, 0x80 | ask[1], 0, 77, inner, inner + SHIFT if lifetime else 0, lifetime)


class Router(asyncio.DatagramProtocol):
    """Answers on loopback where a router would; ``asked`` is what came, ``end`` is set when the last mapping ended."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.ended = 0
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, place: Any) -> None:
        self.asked.append(data)
        if data[4:8] == bytes(4) if data[0] else len(data) == 12 and data[8:] == bytes(4):
            self.ended += 1
        if answer := self.answer(data):
            self.transport.sendto(answer, place)


@asynccontextmanager
async def router(answer: Callable[[bytes], bytes], host: str = ROUTER) -> Any:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: Router(answer), local_addr=(host, PORT))
    try:
        yield protocol
    finally:
        transport.close()


class Client:
    """The driver, and what it says has changed."""

    def __init__(self, find: Callable[[], str] = lambda: ROUTER) -> None:
        self.news: asyncio.Queue[dict[str, Address]] = asyncio.Queue()
        self.mapping = PortMapping(
            WANTS,
            SystemClock(),
            changed=lambda: self.news.put_nowait(self.mapping.places()),
            methods=("pcp", "nat-pmp"),
            router=find,
        )

    async def until(self, condition: Callable[[Report], bool]) -> None:
        while not condition(self.mapping.report()):  # noqa: ASYNC110  nothing tells of what has no effect
            await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self) -> Any:
        task = asyncio.create_task(self.mapping.run(lambda: None))
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.mark.parametrize("answer", [pcp, nat_pmp])
async def test_ports_are_mapped_and_the_mappings_ended(answer: Callable[[bytes], bytes]) -> None:
    async with router(answer) as asked, Client().running() as client:
        assert await client.news.get() == PLACES
        report = client.mapping.report()
        assert (report.router, report.fault) == (ROUTER, "")
        assert not asked.ended
    assert asked.ended == len(WANTS)
    assert client.mapping.places() == {}
    assert await client.news.get() == {}


async def test_a_router_that_says_nothing_is_said_to() -> None:
    heard = asyncio.Event()

    def nothing(_: bytes) -> bytes:
        heard.set()
        return b""

    async with router(nothing) as asked, Client().running() as client:
        await heard.wait()
        assert client.mapping.report().router == ROUTER
        assert client.mapping.places() == {}
    assert asked.ended == len(WANTS)  # an answer may have been lost on its way


async def test_where_nobody_listens_it_goes_on_and_ends() -> None:
    async with Client().running() as client:
        await client.until(lambda report: report.sent > 0)
        assert client.mapping.places() == {}


async def test_a_host_without_a_router_says_so() -> None:
    async with Client(lambda: "").running() as client:
        await client.until(lambda report: "no route" in report.fault)


async def test_nonsense_is_counted_and_the_answer_after_it_taken() -> None:
    async with router(lambda _: b"") as asked:

        def first_nonsense(ask: bytes) -> bytes:
            for nonsense in (b"\xff" * 60, bytes(2000), pcp(ask)[:40], pcp(ask)[:24] + bytes(12) + pcp(ask)[36:]):
                asked.transport.sendto(nonsense, client_place(asked))
            return pcp(ask)

        asked.answer = first_nonsense
        async with Client().running() as client:
            assert await client.news.get() == PLACES
            dropped = client.mapping.report().dropped
        assert dropped["malformed"] == 2 * 3
        assert dropped["nonce"] == 2


async def test_only_the_router_is_heard() -> None:
    """A stranger knows everything, the nonce too, and answers first."""
    with stranger() as link:
        async with router(lambda _: b"") as asked:

            def after_a_stranger(ask: bytes) -> bytes:
                forged = pcp(ask)[:-4] + b"\x0b\6\6\6"
                link.sendto(forged, client_place(asked))
                return pcp(ask)

            asked.answer = after_a_stranger
            async with Client().running() as client:
                assert await client.news.get() == PLACES
                assert client.mapping.report().heard == len(WANTS)


async def test_another_router_is_asked_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "LOOK", 0.01)
    there = [ROUTER]
    async with router(pcp) as first, router(nat_pmp, "127.77.0.2") as second:
        async with Client(lambda: there[0]).running() as client:
            assert await client.news.get() == PLACES
            there[0] = "127.77.0.2"
            assert await client.news.get() == {}
            assert first.ended == len(WANTS)
            assert await client.news.get() == PLACES
        assert second.ended == len(WANTS)


def client_place(asked: Router) -> Any:
    """Return where the driver's socket is, as the kernel has it: the only one that is connected to the router."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        mine, other = line.split()[1:3]
        if other == f"{int.from_bytes(socket.inet_aton(ROUTER), 'little'):08X}:{PORT:04X}":
            host, port = mine.split(":")
            return socket.inet_ntoa(int(host, 16).to_bytes(4, "little")), int(port, 16)
    raise AssertionError("nobody asks the router")


@contextmanager
def stranger() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind(("127.77.0.66", PORT))
        yield link


HEAD = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"


def test_the_best_default_route_leads_to_the_router() -> None:
    rows = [
        "eth1 00000000 0200A8C0 0003 0 0 600 00000000 0 0 0",
        "eth0 00000000 0100A8C0 0003 0 0 100 00000000 0 0 0",
        "eth0 0000A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0",
        "tun0 00000000 00000000 0001 0 0 0 00000000 0 0 0",
        "tun0 00000000 0300A8C0 0003 0 0 0 00000080 0 0 0",
    ]
    assert read_routes(HEAD + "\n".join(rows)) == "192.168.0.1"
    assert read_routes(HEAD) == ""
    assert read_routes("") == ""


def test_the_route_of_this_host_can_be_read() -> None:
    assert default_router() == "" or socket.inet_aton(default_router())
