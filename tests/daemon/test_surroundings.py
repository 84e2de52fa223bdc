"""Where a host says that others are: every address of a source, its relays last, and what no address is."""

import asyncio
from typing import Any, cast

import msgspec
import pytest

from tetherd.config.load import load_text
from tetherd.config.schema import Peers
from tetherd.daemon.surroundings import Sources, Surroundings
from tetherd.discovery.hints import Hint
from tetherd.discovery.peers import PeerTable
from tetherd.discovery.racing import Relay
from tetherd.drivers.host.clock import SystemClock
from tetherd.errors import Unreachable
from tetherd.types import Digest, RoleName
from tetherd.wire.assignments import Site
from tetherd.wire.catalog import GetManifest
from tetherd.wire.chunks import BlobSource, Ways, said
from tetherd.wire.roster import Member, Roster

ME, NODE = "a" * 64, "b" * 64


class Stand:
    """Stands for a network: a peer table, and one relay that leads everywhere if there is one."""

    def __init__(self, *relays: Relay) -> None:
        self.finding = self.peering = self.relays = self
        self.table = PeerTable(ME)
        self._relays = relays

    def ways(self, node: str, service: str) -> tuple[Relay, ...]:
        assert service == "bulk"
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
    source = BlobSource(NODE, "10.0.0.9:7445")
    assert sources(Stand()).ways(source) == said(source)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:7445", "169.254.169.254:7445", "10.0.0.9:22", "localhost:7445", "127.1:7445", "h.example:7445", "x:x"],
)
async def test_nobody_can_lead_this_host_to_itself_or_to_what_is_no_peer(address: str) -> None:
    assert sources(Stand()).ways(BlobSource(NODE, address)) == Ways()


@pytest.mark.parametrize("port", [22, 7445])
async def test_a_port_that_is_no_peers_is_not_tried_at_what_was_heard_either(port: int) -> None:
    stand = Stand()
    stand.heard("10.0.0.5:7443")
    found = sources(stand).ways(BlobSource(NODE, f"127.0.0.1:{port}"))
    assert found == (Ways(("10.0.0.5:7445",)) if port == 7445 else Ways())


async def test_a_name_is_looked_up_if_the_roster_has_its_node_under_it() -> None:
    stand = Stand()
    member = Member(node=NODE, name="b", roles=("manager",), addresses=("b.example:7443",))
    stand.table.follow(Roster(network="n", name="home", epoch=1, issued=0.0, members=(member,), roots=()), 0.0)
    assert sources(stand).ways(BlobSource(NODE, "b.example:7445")) == Ways(("b.example:7445",))
    assert sources(stand).ways(BlobSource("c" * 64, "b.example:7445")) == Ways()
    assert sources(stand).ways(BlobSource(NODE, "b.example:25")) == Ways()


async def test_where_the_network_is_on_loopback_sources_are_too() -> None:
    stand = Stand()
    stand.table = PeerTable(ME, loopback=True)
    assert sources(stand).ways(BlobSource(NODE, "127.0.0.1:7445")) == Ways(("127.0.0.1:7445",))


async def test_threads_can_ask_too() -> None:
    found = sources(Stand())
    source = BlobSource(NODE, "10.0.0.9:7445")
    assert await asyncio.to_thread(found.find, source) == said(source)


class Elsewhere(Stand):
    """Stands for a network, with the roles that a test puts there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[RoleName, list[Site]] = {"orchestrator": [], "manager": []}

    def sites(self, role: RoleName) -> list[Site]:
        return self.found[role]

    def caller(self, site: Site) -> str:
        return f"the caller of {site.node[0]}"

    def several(self, role: RoleName) -> str:
        return f"the caller of every {role}"


def around(network: Stand | None, roles: tuple[RoleName, ...] = (), **peers: str) -> Surroundings:
    default = load_text(b'rpc.listen = "ipc:///here"', "test.toml").config
    config = msgspec.structs.replace(default, peers=Peers(**peers))
    return Surroundings(config, SystemClock(), cast("Any", network), roles, cast("Any", "this host"))


async def test_a_worker_asks_for_what_is_so_at_the_moment() -> None:
    network = Elsewhere()
    found = around(network)
    assert (found.orchestrators(), found.manager()) == ([], Site(""))
    network.found = {"orchestrator": [Site("a", NODE)], "manager": [Site("b", NODE), Site("c")]}
    assert (found.orchestrators(), found.manager()) == ([Site("a", NODE)], Site("b", NODE))
    assert found.caller(Site("a", NODE)) == cast("Any", "the caller of b")
    assert found.ways(BlobSource(NODE, "10.0.0.1:7445")) == Ways(("10.0.0.1:7445",))


async def test_a_role_is_here_first_then_where_it_is_said_to_be_then_in_the_network() -> None:
    network = Elsewhere()
    network.found["orchestrator"] = [Site("tls+tcp://there", NODE)]
    here = around(network, ("orchestrator",))
    assert here.orchestrators() == [Site("ipc:///here"), Site("tls+tcp://there", NODE)]
    assert here.anyone("orchestrator") == here.caller(Site("ipc:///here")) == cast("Any", "this host")
    assert around(network, orchestrator="ipc:///said").orchestrators() == [Site("ipc:///said")]
    assert around(network).anyone("orchestrator") == cast("Any", "the caller of every orchestrator")


async def test_where_the_configuration_says_is_dialled_once() -> None:
    found = around(None, orchestrator="ipc:///said")
    try:
        assert found.anyone("orchestrator") is found.caller(Site("ipc:///said"))
    finally:
        found.close()


@pytest.mark.parametrize(("network", "fix"), [(None, "cluster join"), (Elsewhere(), "cluster token --role manager")])
async def test_of_a_role_that_is_nowhere_it_is_said_how_to_come_by_one(network: Stand | None, fix: str) -> None:
    nobody = around(network).anyone("manager")
    with pytest.raises(Unreachable, match="cannot reach the manager") as refused:
        await nobody.call(GetManifest(Digest("sha256:" + "a" * 64)), deadline=1.0)
    assert fix in refused.value.fix
