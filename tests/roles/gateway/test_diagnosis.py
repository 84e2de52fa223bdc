"""The documents behind netcheck, ping and doctor, in a network and outside of any."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from tetherd.discovery.diagnosis import Counts, Vitals
from tetherd.discovery.hints import Drop, Hint
from tetherd.discovery.nat import Sight, judge
from tetherd.discovery.peers import Arrival, Live, PeerTable
from tetherd.discovery.racing import Attempt, Missed, Outcome, Reached
from tetherd.errors import Forbidden, NodeNotFound, NotInNetwork
from tetherd.ports import Caller
from tetherd.roles.gateway.diagnosis import Diagnosis, Senses
from tetherd.roles.gateway.exchange import Exchange
from tetherd.roles.gateway.routing import Table
from tetherd.roles.peering import Peering
from tetherd.testing.time import ManualClock
from tetherd.types import Finding
from tetherd.wire.peering import Pong
from tetherd.wire.roster import Member, Roster

ME, A, B = "0" * 64, "a" * 64, "b" * 64
MEMBERS = (Member(node=A, name="box-a", roles=("orchestrator",)), Member(node=B, name="box-b", roles=("manager",)))
ROSTER = Roster(network="0" * 16, name="home", epoch=1, issued=0.0, members=MEMBERS, roots=())


class Prober:
    """Implements ports.Prober: everything but one address refuses."""

    async def race(self, attempts: Sequence[Attempt], node: str = "") -> Outcome:
        best = next((Reached(a.address, a.path, 0.002, node) for a in attempts if a.address == "10.0.0.1:7443"), None)
        missed = tuple(
            Missed(a.address, a.path, "unreachable", "connection refused")
            for a in attempts
            if a.address != "10.0.0.1:7443"
        )
        return Outcome(best, missed)


class Skewed:
    """Implements ports.Caller: a peer whose clock is wrong."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    async def call(self, request: Any, *, deadline: float, request_id: str = "") -> Any:
        return Pong(self._clock.wall() + 90.0, "9.9")


class Host:
    """Implements ports.Host."""

    def __init__(self, **changes: Any) -> None:
        usual = {
            "disk": "/var/lib/tether",
            "disk_free": 50 << 30,
            "disk_total": 90 << 30,
            "files_open": 9,
            "files_limit": 65536,
            "certificate": 5e5,
        }
        self._vitals = Vitals(**{**usual, **changes})

    def measure(self) -> Vitals:
        return self._vitals


class World:
    def __init__(self, *, member: bool = True, host: Host | None = None) -> None:
        self.clock = ManualClock()
        self.ways = {"10.0.0.1:7443": Finding("none", "it answers")}
        self.callers: dict[str, Caller] = {}
        self.peering: Peering | None = None
        if member:
            self.peering = Peering(
                PeerTable(ME),
                prober=Prober(),
                clock=self.clock,
                chance=lambda: 0.5,
                caller=self.callers.get,
                relays=lambda _: (),
            )
            self.peering.follow(ROSTER)
        diagnosis = Diagnosis(
            peering=self.peering,
            host=host or Host(),
            clock=self.clock,
            senses=Senses(
                multicast=lambda: Counts(sent=3, heard=2, known=1, dropped={"other-network": 4}) if member else None,
                datagrams=lambda: None,
                sight=lambda: Sight(views=judge((), (), "nobody has answered yet"), dialable=member, relays=()),
            ),
            examine=self.examine,
        )
        self.table = Table(diagnosis.routes())

    def examine(self, address: str) -> Finding:
        return self.ways.get(address, Finding("refused", "nothing listens"))

    async def ask(self, path: str, *, control: bool = True) -> dict[str, Any]:
        async def nothing() -> dict[str, Any]:
            raise AssertionError("no body is read")

        exchange = Exchange({"headers": [], "state": {"control": control}}, nothing, 0)
        route, exchange.params = self.table.find("GET", path.encode())
        answer = await route.handler(exchange)
        assert answer.status == 200
        found: dict[str, Any] = orjson.loads(answer.body)
        return found


@pytest.fixture
def world() -> World:
    world = World()
    assert world.peering is not None
    world.peering.hear(Hint(source="mdns", node=A, addresses=("10.0.0.1:7443", "127.0.0.1:7443"), origin="i1"))
    world.peering.hear(Hint(source="dht", node=B, addresses=("10.0.0.2:7443",)))
    world.peering.drop(Drop("other-network", "it announces network 00000000", address="stranger", source="mdns"))
    world.peering.connected(A, Live("lan", "10.0.0.1:7443", 0.001))
    world.peering.table.arrived([Arrival(B, "198.51.100.7")], 0.0)
    return world


async def test_netcheck_shows_each_source_peer_and_drop(world: World) -> None:
    world.clock.advance(2.0)
    found = await world.ask("/api/v1/netcheck")
    assert found["in_network"]
    assert {one["name"]: one["state"] for one in found["mechanisms"]} == {
        "seeds": "ok",
        "multicast": "ok",
        "udp": "skip",
        "mapping": "skip",
    }
    assert found["mechanisms"][1]["dropped"] == {"other-network": 4}
    first, second = found["peers"]
    assert (first["name"], first["path"], first["rtt_ms"]) == ("box-a", "lan", 1.0)
    assert first["sources"] == ["mdns", "memory"]
    assert first["heard_ms_ago"] == 2000.0
    assert first["dropped"][0]["address"] == "127.0.0.1:7443"
    assert "loopback" in first["dropped"][0]["detail"]
    assert (second["name"], second["path"], second["rtt_ms"]) == ("box-b", "direct", None)
    assert (second["dialled"], second["arrived"]) == ("", "198.51.100.7")
    assert (found["nat"][0]["kind"], found["nat"][0]["detail"]) == ("unknown", "unknown: nobody has answered yet")
    assert (found["dial_in"]["state"], found["dial_in"]["name"]) == ("ok", "dial-in")
    assert found["dropped"][0]["reason"] == "other-network"


async def test_ping_tries_every_address(world: World) -> None:
    found = await world.ask("/api/v1/ping/box-a")
    assert found["answers"]
    assert found["best"] == {"address": "10.0.0.1:7443", "path": "lan", "rtt_ms": 2.0}
    assert found["large"] == ""
    world.ways["10.0.0.1:7443"] = Finding("mtu", "large ones vanish")
    assert (await world.ask("/api/v1/ping/box-a"))["large"] == "large ones vanish"
    held = await world.ask(f"/api/v1/ping/{B[:8]}")
    assert (held["answers"], held["round_trip_ms"], held["arrived"]) == (True, None, "198.51.100.7")
    assert world.peering is not None
    world.peering.table.arrived([], 1.0)
    missing = await world.ask(f"/api/v1/ping/{B[:8]}")
    assert not missing["answers"]
    assert missing["missed"][0]["detail"] == "connection refused"
    with pytest.raises(NodeNotFound):
        await world.ask("/api/v1/ping/box-c")


async def test_doctor_fails_on_what_is_broken(world: World) -> None:
    found = await world.ask("/api/v1/doctor")
    assert found["healthy"]
    details = {check["name"]: check["detail"] for check in found["checks"]}
    assert details["mtu"] == "16 KiB came back whole from 1 of 1 node"
    world.callers[A] = Skewed(world.clock)
    found = await world.ask("/api/v1/doctor")
    assert not found["healthy"]
    failed = [check for check in found["checks"] if check["state"] == "fail"]
    assert [check["name"] for check in failed] == ["clock"]
    assert "behind box-a" in failed[0]["detail"]
    assert failed[0]["fix"]


async def test_a_host_without_a_network_is_examined_as_far_as_it_goes() -> None:
    world = World(member=False, host=Host(disk_free=0))
    found = await world.ask("/api/v1/doctor")
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert not found["healthy"]
    assert states == {
        "seeds": "skip",
        "multicast": "skip",
        "udp": "skip",
        "mapping": "skip",
        "tcp": "skip",
        "mtu": "skip",
        "tls": "skip",
        "clock": "skip",
        "disk": "fail",
        "files": "ok",
    }
    assert (await world.ask("/api/v1/netcheck"))["in_network"] is False
    with pytest.raises(NotInNetwork):
        await world.ask("/api/v1/ping/box-a")


@pytest.mark.parametrize("path", ["/api/v1/netcheck", "/api/v1/ping/box-a", "/api/v1/doctor"])
async def test_only_the_host_itself_may_ask(world: World, path: str) -> None:
    with pytest.raises(Forbidden):
        await world.ask(path, control=False)
