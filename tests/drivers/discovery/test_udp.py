"""The distributed hash table on real sockets, with real keys."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tetherd.discovery.contacts import Address
from tetherd.discovery.exchange import Rules
from tetherd.discovery.ids import topic
from tetherd.discovery.table import Peer
from tetherd.drivers.discovery import udp
from tetherd.drivers.discovery.udp import Dht
from tetherd.errors import Conflict, InUse, InvalidInput, Unavailable
from tetherd.wire.datagrams import Keyring
from tetherd.wire.signatures import KeySigner

NETWORK = "0123456789abcdef"
HERE = topic(NETWORK, "role", "gateway")


def dht(*listen: Address, serves: bool = True, key: bytes = b"k" * 32) -> Dht:
    signer = KeySigner(ec.generate_private_key(ec.SECP256R1()))
    rules = Rules(serves, member=lambda _: True, allow=lambda _: True)
    return Dht(signer, Keyring(NETWORK, {1: key}), rules, listen or (("127.0.0.1", 0),))


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110 - nobody signals what a network comes to know
            await asyncio.sleep(0.01)


@pytest.fixture
async def nodes() -> AsyncIterator[list[Dht]]:
    async with AsyncExitStack() as stack:
        found: list[Dht] = []
        for _ in range(6):
            node = await stack.enter_async_context(dht())
            node.join([each.addresses[0] for each in found[:1]])
            found.append(node)
        await until(lambda: all(len(each.peers()) == 5 for each in found))
        yield found


async def test_a_node_of_ipv6_alone_is_found_by_those_of_both_families() -> None:
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(dht(("127.0.0.1", 0), ("::1", 0))) for _ in range(3)]
        lone, old = [await stack.enter_async_context(dht((host, 0))) for host in ("::1", "127.0.0.1")]
        (four, six), *_ = [each.addresses for each in both]
        for node, seeds in ((both[1], [four, six]), (both[2], [six]), (lone, [six]), (old, [four])):
            node.join(seeds)
        await until(lambda: len(both[2].peers()) >= 3 and len(lone.peers()) >= 2 and len(old.peers()) >= 1)
        assert await lone.put(b"where", b"[::1]")
        for node in both:
            record = await node.get(lone.id, b"where")
            assert record is not None
            assert record.body.value == b"[::1]"
        assert not [conflict for node in both for conflict in node.conflicts]
        assert all(":" in address[0] for _, address in lone.peers())
        assert all("." in address[0] for _, address in old.peers())


async def test_an_address_that_no_way_leads_to_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_BARRED", 2)
    async with dht(("0.0.0.0", 0)) as node:
        nowhere = [(f"240.0.0.{last}", 7443) for last in range(1, 5)]
        for address in nowhere:
            node._bar(address, time.monotonic())
        assert [node._is_allowed(address) for address in nowhere] == [False, False, True, True]
        assert not node._is_allowed(("::1", 7443)), "it has no socket for that"
        node._bar(nowhere[3], time.monotonic() + udp.BARRED + 1)
        assert not node._is_allowed(nowhere[3])


async def values(node: Dht, key: bytes = HERE) -> list[bytes]:
    return [record.body.value async for record in node.lookup(key)]


async def test_what_is_announced_is_found_by_everyone_until_it_is_taken_back(nodes: list[Dht]) -> None:
    assert await nodes[1].announce(HERE, b"at 10.0.0.1", 600) >= 5
    for node in nodes:
        assert {seen for _, seen in node.observed()} == set(node.addresses)
        assert {observer for observer, _ in node.observed()} <= {each.addresses[0] for each in nodes}
        found = [record async for record in node.lookup(HERE)]
        assert [(each.owner.hex(), each.body.value) for each in found] == [(nodes[1].id, b"at 10.0.0.1")]
    assert await nodes[1].unannounce(HERE) >= 5
    assert [await values(node) for node in nodes] == [[]] * 6
    assert await nodes[1].unannounce(HERE) == 0


async def test_a_node_that_stops_takes_its_announcements_along(nodes: list[Dht]) -> None:
    async with dht() as leaving:
        leaving.join([nodes[0].addresses[0]])
        await until(leaving.peers)
        await leaving.announce(HERE, b"for a while", 600)
        assert await values(nodes[4]) == [b"for a while"]
    assert await values(nodes[4]) == []


async def test_values_by_name_and_by_digest(nodes: list[Dht]) -> None:
    first = await nodes[2].put(b"where", b"one")
    second = await nodes[2].put(b"where", b"two", expected=first)
    assert second > first
    with pytest.raises(Conflict):
        await nodes[2].put(b"where", b"three", expected=first)
    found = await nodes[4].get(nodes[2].id, b"where")
    assert found
    assert (found.body.value, found.body.seq) == (b"two", second)
    await nodes[2].remove(b"where")
    assert await nodes[4].get(nodes[2].id, b"where") is None
    key = await nodes[3].put_immutable(b"for ever")
    assert await nodes[0].get_immutable(key) == b"for ever"
    assert await nodes[0].get_immutable(bytes(32)) is None


async def test_a_client_finds_and_is_in_no_table(nodes: list[Dht]) -> None:
    async with dht(serves=False) as client:
        client.join([nodes[0].addresses[0]])
        await until(client.peers)
        await nodes[1].announce(HERE, b"here", 600)
        assert await values(client) == [b"here"]
        assert all(client.id not in dict(each.peers()) for each in nodes)


async def test_peers_that_were_known_are_enough_to_come_back(nodes: list[Dht]) -> None:
    remembered = nodes[3].peers()[:2]
    async with dht() as back:
        back.join([], remembered)
        await until(lambda: len(back.peers()) == 6)


async def test_a_hint_from_elsewhere_is_tried(nodes: list[Dht]) -> None:
    async with dht() as late:
        late.join([])
        late.hint(nodes[2].addresses[0])
        await until(lambda: len(late.peers()) == 6)


async def test_another_key_learns_nothing_and_is_counted(nodes: list[Dht]) -> None:
    async with dht(key=b"x" * 32) as stranger:
        stranger.join([nodes[0].addresses[0]])
        await until(lambda: nodes[0].counters().get("dropped.forged"))
        assert stranger.peers() == []
        assert stranger.counters().get("heard", 0) == 0


async def test_noise_on_the_socket_is_counted_and_survived(nodes: list[Dht]) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as noise:
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(1201), bytes(9000)):
            noise.sendto(data, nodes[0].addresses[0])
    await until(lambda: nodes[0].counters().get("dropped.size") == 4)
    await nodes[0].announce(HERE, b"alive", 600)
    assert await values(nodes[5]) == [b"alive"]


async def test_both_families_at_once() -> None:
    try:
        async with dht(("127.0.0.1", 0), ("::1", 0)) as both, dht(("::1", 0)) as six, dht() as four:
            for node, at in ((six, 1), (four, 0)):
                node.join([both.addresses[at]])
            await until(lambda: len(both.peers()) == 2 and six.peers() and four.peers())
            await six.announce(HERE, b"by six", 600)
            assert await values(both) == [b"by six"]
            await until(lambda: four.counters().get("unreachable.family") or len(four.peers()) == 1)
            assert await values(four) == [b"by six"]
    except Unavailable as error:
        pytest.skip(f"no IPv6 here: {error}")


async def test_an_address_in_use_says_so(nodes: list[Dht]) -> None:
    with pytest.raises(InUse, match="taken"):
        async with dht(nodes[0].addresses[0]):
            pass


async def test_an_address_that_is_not_ours_says_so() -> None:
    with pytest.raises(Unavailable, match="cannot be used"):
        async with dht(("192.0.2.1", 0)):
            pass


async def test_what_is_not_a_key_is_refused_and_a_closed_table_says_so(nodes: list[Dht]) -> None:
    with pytest.raises(InvalidInput):
        await values(nodes[0], b"short")
    with pytest.raises(InvalidInput):
        await nodes[0].announce(b"short", b"", 600)
    closed = dht()
    with pytest.raises(Unavailable):
        await closed.announce(HERE, b"", 600)


async def test_what_waits_when_a_node_closes_is_told() -> None:
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(dht())
        node.join([("127.0.0.1", 9)], [("ab" * 32, ("127.0.0.1", 9))])
        node._node.exchange.table.add(Peer(b"x" * 32, ("127.0.0.1", 9), 0.0))
        waiting = [asyncio.create_task(values(node)), asyncio.create_task(node.announce(HERE, b"", 600))]
        await asyncio.sleep(0)
        node._node.standing.withdraw((1, HERE), 0.0)
    for each in waiting:
        with pytest.raises(Unavailable, match="closed"):
            await each


async def test_two_addresses_of_one_family_are_refused() -> None:
    with pytest.raises(InvalidInput, match="family"):
        async with dht(("127.0.0.1", 0), ("127.0.0.2", 0)):
            pass


async def test_whoever_stops_reading_a_lookup_leaves_nothing_behind(nodes: list[Dht]) -> None:
    await nodes[1].announce(HERE, b"one", 600)
    found = nodes[4].lookup(HERE)
    async for _ in found:
        break
    await found.aclose()
    assert not nodes[4]._waiting
    assert not nodes[4]._node._searches


async def test_new_network_keys_are_taken_while_running(nodes: list[Dht]) -> None:
    both = Keyring(NETWORK, {1: b"k" * 32, 2: b"n" * 32})
    await nodes[1].announce(HERE, b"here", 600)
    for node in nodes[:3]:
        node.rekey(both)
    assert [await values(node) for node in nodes] == [[b"here"]] * 6
