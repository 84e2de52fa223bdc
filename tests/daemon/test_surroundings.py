"""Where a host says that others are: every address of a source, its relays last, and what no address is."""

import asyncio
from typing import Any, cast

from tetherd.daemon.surroundings import Sources, Surroundings
from tetherd.discovery.hints import Hint
from tetherd.discovery.peers import PeerTable
from tetherd.discovery.racing import Relay
from tetherd.types import RoleName
from tetherd.wire.assignments import Site
from tetherd.wire.chunks import BlobSource, Ways, said

ME, NODE = "a" * 64, "b" * 64


class Stand:
    """Stands for a network: a peer table, and one relay that leads everywhere if there is one."""

    def __init__(self, *relays: Relay) -> None:
        self.finding = self.peering = self.relays = self
        self.table = PeerTable(ME)
        self._relays = relays

    def ways(self, node: str, service: str) -> tuple[Relay, ...]:
        assert (node, service) == (NODE, "bulk")
        return self._relays

    def heard(self, *addresses: str, **ports: int) -> None:
        self.table.hear(Hint(source="mdns", node=NODE, addresses=addresses, ports=ports), 0.0)


def sources(stand: Stand) -> Sources:
    return Sources(cast("Any", stand))


async def test_a_source_is_wherever_its_node_was_heard_of() -> None:
    stand = Stand(Relay("r", "127.0.0.1:40000"))
    stand.heard("10.0.0.5:7443", "192.168.1.5:17443")
    found = sources(stand).ways(BlobSource(NODE, "10.0.0.9:7445"))
    assert set(found.direct[:2]) == {"10.0.0.5:7445", "192.168.1.5:7445"}
    assert found.direct[2:] == ("10.0.0.9:7445",)
    assert found.relayed == ("127.0.0.1:40000",)


async def test_a_port_that_was_heard_of_is_tried_too() -> None:
    stand = Stand()
    stand.heard("10.0.0.5:7443", bulk=9999)
    assert set(sources(stand).ways(BlobSource(NODE, "10.0.0.5:7445")).direct) == {"10.0.0.5:7445", "10.0.0.5:9999"}


async def test_of_whom_nothing_was_heard_there_is_what_it_said() -> None:
    for address in ("10.0.0.9:7445", "nonsense:x"):
        source = BlobSource(NODE, address)
        assert sources(Stand()).ways(source) == Ways((address,)) == said(source)


async def test_threads_can_ask_too() -> None:
    found = sources(Stand())
    source = BlobSource(NODE, "10.0.0.9:7445")
    assert await asyncio.to_thread(found.find, source) == said(source)


def test_a_worker_asks_for_what_is_so_at_the_moment() -> None:
    sites: dict[RoleName, list[Site]] = {"orchestrator": [Site("a")], "manager": []}
    around = Surroundings(lambda role: sites[role], lambda site: cast("Any", site.address), said)
    assert (around.orchestrators(), around.manager()) == ([Site("a")], Site(""))
    sites["manager"] = [Site("b", NODE), Site("c")]
    assert around.manager() == Site("b", NODE)
    assert around.caller(Site("a")) == cast("Any", "a")
    assert around.ways(BlobSource(NODE, "x:1")) == Ways(("x:1",))
