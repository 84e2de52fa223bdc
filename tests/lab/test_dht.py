"""The distributed hash table between hosts: through NAT and loss, over IPv6, and after its seed is gone."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence

from cryptography.hazmat.primitives.asymmetric import ec
from lab import Host, Lab

from tetherd.discovery.exchange import Rules
from tetherd.discovery.nat import judge
from tetherd.drivers.discovery.udp import Dht
from tetherd.wire.datagrams import Keyring
from tetherd.wire.signatures import KeySigner

KEYRING = Keyring("1" * 16, {0: bytes(range(32))})
TOPIC = b"t" * 32
PORT = 7443
TTL = 60


@contextlib.asynccontextmanager
async def nodes(
    hosts: Iterable[Host], seeds: Sequence[str] = (), *, serves: bool = True, listen: str = "0.0.0.0"
) -> AsyncIterator[list[Dht]]:
    """Run a node on each host, which joins by the addresses of ``seeds``."""
    rules = Rules(serves=serves, member=lambda _: True, allow=lambda _: True)
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for host in hosts:
            dht = Dht(KeySigner(ec.generate_private_key(ec.SECP256R1())), KEYRING, rules, [(listen, PORT)])
            with host.space.entered():
                await stack.enter_async_context(dht)
            dht.join([(seed, PORT) for seed in seeds])
            made.append(dht)
        yield made


async def found(dht: Dht, *, patience: float = 20) -> set[bytes]:
    """Return the values that one lookup yields."""
    async with asyncio.timeout(patience):
        return {record.body.value async for record in dht.lookup(TOPIC)}


async def meet(servers: Sequence[Dht]) -> None:
    """Wait until each knows all others."""
    everybody = {server.id for server in servers}
    async with asyncio.timeout(20):
        while any({server.id, *dict(server.peers())} < everybody for server in servers):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def finds(dht: Dht, wanted: set[bytes], patience: float = 20) -> float:
    """Look up until all of ``wanted`` is found, and return how many seconds it took."""
    began = time.monotonic()
    async with asyncio.timeout(patience):
        while not wanted <= await found(dht):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_nodes_behind_nat_find_what_is_announced_in_public(lab: Lab) -> None:
    public = [lab.host(f"host{number}") for number in range(6)]
    home, office = lab.site("home", "cone"), lab.site("office", "symmetric")
    hidden = [home.host("one"), home.host("two"), office.host("three")]
    seeds = [public[0].address]
    async with nodes(public, seeds) as servers, nodes(hidden, seeds, serves=False) as clients:
        await meet(servers)
        assert await servers[1].announce(TOPIC, b"orchestrator", TTL) > 0
        for client in clients:
            assert await finds(client, {b"orchestrator"}) < 2
        for site in (home, office):
            site.rebind()
        for client in clients:
            assert await finds(client, {b"orchestrator"}) < 2
        assert await clients[0].announce(TOPIC, b"worker", TTL) > 0
        assert await finds(clients[2], {b"orchestrator", b"worker"}) < 2


async def test_what_routers_do_is_told_from_what_others_see(lab: Lab) -> None:
    public = [lab.host(f"host{number}") for number in range(5)]
    home, office = lab.site("home", "cone"), lab.site("office", "symmetric")
    hidden = [home.host("one"), office.host("two")]
    seeds = [public[0].address]
    async with nodes(public, seeds) as servers, nodes(hidden, seeds, serves=False) as clients:
        await meet(servers)
        views = []
        for host, dht in zip([public[4], *hidden], [servers[4], *clients], strict=True):
            async with asyncio.timeout(20):
                while len(dht.observed()) < 4:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            views += judge(dht.observed(), host.addresses, "")
    assert [view.kind for view in views] == ["open", "consistent", "random"]
    assert views[0].address == f"{public[4].address}:{PORT}"
    assert views[1].address.startswith(f"{home.router.address}:")
    assert views[2].address == office.router.address


async def test_what_is_announced_is_found_after_the_seed_is_gone(lab: Lab) -> None:
    seed, *public = [lab.host(f"host{number}") for number in range(5)]
    async with nodes([seed]), nodes(public, [seed.address]) as servers:
        await meet(servers)
        with lab.unplug(seed):
            assert await servers[0].announce(TOPIC, b"orchestrator", TTL) > 0
            for server in servers[1:]:
                assert await finds(server, {b"orchestrator"}) < 5


async def test_a_fifth_of_all_packets_may_be_lost(lab: Lab) -> None:
    public = [lab.host(f"host{number}") for number in range(6)]
    async with nodes(public, [public[0].address]) as servers:
        for host in public:
            lab.loss(host, 0.1)
        assert await servers[1].announce(TOPIC, b"orchestrator", TTL) > 0
        for server in servers:
            assert await finds(server, {b"orchestrator"}) < 10


async def test_it_works_over_ipv6(lab: Lab) -> None:
    public = [lab.host(f"host{number}") for number in range(3)]
    async with nodes(public, [public[0].address6], listen="::") as servers:
        await meet(servers)
        assert await servers[1].announce(TOPIC, b"orchestrator", TTL) > 0
        assert await finds(servers[2], {b"orchestrator"}) < 2


async def test_without_udp_a_lookup_finds_nothing_and_ends(lab: Lab) -> None:
    public = [lab.host(f"host{number}") for number in range(3)]
    async with nodes(public, [public[0].address]) as servers:
        await servers[1].announce(TOPIC, b"orchestrator", TTL)
        assert await finds(servers[2], {b"orchestrator"}) < 2
        with lab.off([public[2]], "udp"):
            assert await found(servers[2], patience=10) <= {b"orchestrator"}
        assert await finds(servers[2], {b"orchestrator"}) < 10


async def test_two_halves_that_were_parted_become_one_again(lab: Lab) -> None:
    public = [lab.host(f"host{number}") for number in range(4)]
    async with nodes(public, [public[0].address]) as servers:
        await meet(servers)
        with lab.partition(public[:2], public[2:]):
            assert await servers[0].announce(TOPIC, b"left", TTL) > 0
            assert await servers[3].announce(TOPIC, b"right", TTL) > 0
            assert b"right" not in await found(servers[1])
            assert b"left" not in await found(servers[2])
        for server in servers:
            assert await finds(server, {b"left", b"right"}) < 20
