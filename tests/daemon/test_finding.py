"""How a node keeps to its peers: connections are shown, and those that break are led to where the peer is now."""

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tetherd.config.load import load_text
from tetherd.daemon.finding import Finding, diagnosis
from tetherd.discovery.exchange import Conflict
from tetherd.discovery.hints import Hint
from tetherd.discovery.peers import Arrival
from tetherd.discovery.racing import Relay
from tetherd.drivers.discovery import remembered
from tetherd.drivers.discovery.udp import Dht
from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.identity import certificates
from tetherd.drivers.rpc.reaching import TLS
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.drivers.tcp import mutual
from tetherd.policy.membership import Standing
from tetherd.roles.membership import Membership
from tetherd.types import Credentials, RoleName
from tetherd.types import Finding as Examined
from tetherd.wire.peering import Pong
from tetherd.wire.roster import Member, Roster, SignedRoster


def credentials(number: int) -> list[Credentials]:
    """Return those of so many nodes of one network."""
    now = time.time()
    root = certificates.make_root(now)
    issuing = certificates.make_issuing(root, now)
    made = []
    for _ in range(number):
        key = certificates.new_key()
        leaf = certificates.issue(issuing, certificates.spki_of(key.public_key()), now)
        node = leaf.subject.rdns[0].rfc4514_string().removeprefix("CN=")
        chain = certificates.pem(leaf, issuing.certificate)
        made.append(Credentials(node, certificates.key_pem(key).decode(), chain, certificates.pem(root.certificate)))
    return made


ME, PEER = credentials(2)


class Club:
    """Stands for the membership of a network of two."""

    def __init__(self, address: str) -> None:
        peer = Member(node=PEER.node, name="peer", roles=("orchestrator",), addresses=(address,))
        roster = Roster(network="0" * 16, name="home", epoch=1, issued=0.0, members=(peer,), roots=())
        self.roles: tuple[RoleName, ...] = ("worker",)
        self.standing = Standing(
            network="0" * 16,
            node=ME.node,
            roster=roster,
            signed=SignedRoster(b"", b"", b""),
            credentials=ME,
            issued=0.0,
            expires=1.0,
        )

    def roles_of(self, node: str) -> tuple[RoleName, ...] | None:
        return None

    async def changes(self) -> None:
        await asyncio.get_running_loop().create_future()


class Caller:
    """Stands for the connection to the peer."""

    def __init__(self, address: str, *, connected: bool) -> None:
        self.address = f"{TLS}{address}"
        self.connected = connected
        self.moved: asyncio.Queue[str] = asyncio.Queue()

    def move(self, address: str) -> None:
        self.address = address
        self.moved.put_nowait(address)

    async def call(self, *_: Any, **__: Any) -> Pong:
        return Pong(time.time(), "9.9")


@contextlib.asynccontextmanager
async def finding(
    tmp_path: Path, caller: Caller, *seeds: str, arrivals: Sequence[Arrival] = (), relays: Sequence[Relay] = ()
) -> AsyncIterator[Finding]:
    text = f'[node]\nstate_dir = "{tmp_path}"\n[cluster]\nlisten = "127.0.0.1:7443"\nmdns = false\ndht = false\n'
    config = load_text(f"{text}seeds = {list(seeds)}".encode(), "test.toml").config
    (tmp_path / "identity").mkdir()
    club = cast("Membership", Club(caller.address.removeprefix(TLS)))
    callers = cast("dict[str, RemoteCaller]", {PEER.node: caller})
    found = Finding(config, SystemClock(), club, callers=callers, relays=lambda _: relays, arrivals=lambda: arrivals)
    tasks = [asyncio.create_task(duty(lambda: None)) for duty in found.duties]
    try:
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def listener() -> AsyncIterator[str]:
    """Yield where the peer listens."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=mutual.listening(PEER))
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_a_broken_connection_is_led_to_where_the_peer_is_now(tmp_path: Path) -> None:
    caller = Caller(free_address(), connected=False)
    async with listener() as address, finding(tmp_path, caller, address), asyncio.timeout(20):
        assert await caller.moved.get() == f"{TLS}{address}"


async def test_a_connection_that_is_back_is_left_alone(tmp_path: Path) -> None:
    caller = Caller(free_address(), connected=False)
    async with listener() as address, finding(tmp_path, caller) as found, asyncio.timeout(20):
        while found.peering.table.peer(PEER.node) is None:  # noqa: ASYNC110  # a table has no events
            await asyncio.sleep(0.01)
        found.peering.hear(Hint(source="mdns", node=PEER.node, addresses=(address,)))
        search = asyncio.create_task(found._search(PEER.node))
        await asyncio.sleep(0)  # the race has begun
        caller.connected = True
        await search
        assert caller.moved.empty()


async def test_a_connection_that_holds_is_shown_and_left_alone(tmp_path: Path) -> None:
    caller = Caller(free_address(), connected=True)
    async with finding(tmp_path, caller) as found, asyncio.timeout(20):
        while (live := found.peering.table.live(PEER.node)) is None:  # noqa: ASYNC110  # a table has no events
            await asyncio.sleep(0.01)
        assert (live.path, live.address) == ("local", caller.address.removeprefix(TLS))
        assert live.rtt > 0
        caller.connected = False
        while found.peering.table.live(PEER.node):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert caller.moved.empty()


async def test_a_connection_shows_which_relay_carries_it_now(tmp_path: Path) -> None:
    caller = Caller(free_address(), connected=False)
    async with listener() as door, asyncio.timeout(20):
        relays = [Relay("one", door)]
        async with finding(tmp_path, caller, relays=relays) as found:

            async def shows(path: str) -> None:
                while (live := found.peering.table.live(PEER.node)) is None or live.path != path:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

            assert await caller.moved.get() == f"{TLS}{door}"
            caller.connected = True
            await shows("relay:one")
            relays[:] = [Relay("other", door)]
            await shows("relay:other")


async def test_a_connection_that_came_in_is_shown(tmp_path: Path) -> None:
    caller, arrivals = Caller(free_address(), connected=False), [Arrival(PEER.node, "10.0.0.7")]
    async with finding(tmp_path, caller, arrivals=arrivals) as found, asyncio.timeout(20):
        while (peer := found.peering.table.peer(PEER.node)) is None or not peer.path:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (peer.path, peer.arrived, peer.dialled) == ("lan", "10.0.0.7", "")
        assert found._wanted() == [PEER.node], "it is still looked for: it could be asked, too"


async def test_ids_that_several_hosts_claim_are_shown(tmp_path: Path) -> None:
    node, (host, port) = bytes.fromhex(PEER.node), ("10.0.0.7", 7443)
    claims = [
        Conflict(node, (host, port), ("10.0.0.8", 7443), proven=False),
        Conflict(node, (host, port), ("10.0.0.9", 7443), proven=True),
        Conflict(node, (host, port), (host, 7444), proven=True),
    ]
    caller = Caller(f"{host}:{port}", connected=True)  # where it told the authority that it is
    async with finding(tmp_path, caller) as found, asyncio.timeout(20):
        while found.peering.table.peer(PEER.node) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        dht = SimpleNamespace(conflicts=deque(claims))
        alarm = asyncio.create_task(found._alarm(cast("Dht", dht)))
        while dht.conflicts:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        alarm.cancel()
        peer = found.peering.table.peer(PEER.node)
        assert peer is not None
        shown = {drop.address: drop.detail for drop in peer.drops if drop.reason == "conflict"}
        assert shown.keys() == {"10.0.0.8:7443", "10.0.0.9:7443"}, "one host may have several addresses"
        assert "without its key" in shown["10.0.0.8:7443"]
        assert "copied" in shown["10.0.0.9:7443"]


async def test_an_address_that_is_none_is_nobodys(tmp_path: Path) -> None:
    async with finding(tmp_path, Caller("a..b:7443", connected=False)) as found:
        assert not found._is_at(PEER.node, "10.0.0.7")


async def test_what_was_remembered_is_known_at_the_start(tmp_path: Path) -> None:
    caller = Caller(free_address(), connected=True)
    async with finding(tmp_path, caller) as found, asyncio.timeout(20):
        while not found.peering.table.live(PEER.node):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        kept = found.peering.table.remembered()
        remembered.save(tmp_path / "identity", kept)
    assert [one.node for one in remembered.load(tmp_path / "identity")] == [PEER.node]


@pytest.mark.parametrize("member", [True, False])
async def test_a_host_is_examined_in_a_network_and_outside(tmp_path: Path, member: bool) -> None:
    caller = Caller(free_address(), connected=True)
    async with finding(tmp_path, caller) as found:
        club = cast("Membership", Club("x:1"))
        made = diagnosis(
            found._config,
            SystemClock(),
            club,
            found if member else None,
            relays=list,
            examine=lambda _: Examined("none", ""),
        )
        assert {route.path for route in made.routes()} == {"/api/v1/netcheck", "/api/v1/ping/{node}", "/api/v1/doctor"}
        assert found.multicast() is None
        assert found.datagrams() is None
