"""What operators ask of a host's network over its control socket, and what nobody may ask elsewhere."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.identity.papers import DiskPapers
from tetherd.errors import Conflict, Forbidden, InvalidInput, NodeNotFound, NotInNetwork, WrongToken
from tetherd.roles.gateway.cluster import MAX_TTL, Cluster
from tetherd.roles.gateway.exchange import Exchange
from tetherd.roles.gateway.routing import Table
from tetherd.roles.membership import Membership
from tetherd.wire import tokens
from tetherd.wire.roster import Member

CLOCK = SystemClock()
GUEST = Member(node="b" * 64, name="b", roles=("worker",), joined=5.0)


def path_to(node: str) -> str:
    return "relay:r1" if node == GUEST.node else ""


class Host:
    """A host and its control socket."""

    def __init__(self, folder: Path, enrol: tuple[str, ...] = ("192.0.2.1:7444",)) -> None:
        self.papers = DiskPapers(folder, "a", addresses=("192.0.2.1:7443",), enrol=enrol, clock=CLOCK)
        self.membership = Membership(
            self.papers, configured=("orchestrator",), clock=CLOCK, chance=lambda: 0.5, recompose=lambda: None
        )
        self.table = Table(Cluster(self.membership, clock=CLOCK, authority=lambda: None, path=path_to).routes())

    async def ask(self, method: str, path: str, body: Any = None, *, control: bool = True) -> Any:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"" if body is None else orjson.dumps(body)}

        exchange = Exchange({"headers": [], "state": {"control": control}}, receive, 1 << 20)
        route, exchange.params = self.table.find(method, path.encode())
        return orjson.loads((await route.handler(exchange)).body)

    async def found(self) -> "Host":
        await self.ask("POST", "/api/v1/cluster/init", {"name": "home"})
        return self

    def admit(self) -> None:
        """Let a guest in that is never there."""
        assert self.papers.authority is not None
        self.papers.authority._ledger.enlist(GUEST, CLOCK.wall())


@pytest.fixture
async def founder(tmp_path: Path):
    host = await Host(tmp_path).found()
    host.admit()
    await host.membership.refresh()
    yield host
    host.papers.close()


@pytest.fixture
def alone(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_a_host_without_a_network_says_so(alone: Host) -> None:
    assert await alone.ask("GET", "/api/v1/cluster") == {"member": False, "roles": ["orchestrator"]}
    for method, path, body in (
        ("GET", "/api/v1/nodes", None),
        ("GET", "/api/v1/cluster/ca", None),
        ("GET", "/api/v1/cluster/keys", None),
        ("POST", "/api/v1/cluster/tokens", {"roles": ["worker"]}),
        ("POST", "/api/v1/cluster/leave", None),
    ):
        if path.endswith("leave"):
            continue
        with pytest.raises(NotInNetwork) as caught:
            await alone.ask(method, path, body)
        assert caught.value.fix


async def test_every_route_is_for_the_control_socket_alone(founder: Host) -> None:
    for route in founder.table.routes:
        with pytest.raises(Forbidden) as caught:
            await founder.ask(route.method, route.path.replace("{node}", "a"), {}, control=False)
        assert "--endpoint" in caught.value.fix


async def test_founding(alone: Host) -> None:
    document = await alone.ask("POST", "/api/v1/cluster/init", {"name": "home"})
    assert (document["name"], document["founder"], document["nodes"]) == ("home", True, 1)
    assert document["certificate"]["urgency"] == ""
    with pytest.raises(Conflict):
        await alone.ask("POST", "/api/v1/cluster/init", {"name": "other"})
    ca = await alone.ask("GET", "/api/v1/cluster/ca")
    assert ca["roots"][0]["key"].startswith(document["network"])
    assert [each["kind"] for each in ca["chain"]] == ["issuing", "this host"]
    assert ca["chain"][1]["name"] == document["node"]
    alone.papers.close()


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65])
async def test_a_network_has_a_name(alone: Host, name: str) -> None:
    with pytest.raises(InvalidInput):
        await alone.ask("POST", "/api/v1/cluster/init", {"name": name})
    assert (await alone.ask("GET", "/api/v1/cluster"))["member"] is False


async def test_a_token_leads_back_here(founder: Host) -> None:
    document = await founder.ask("POST", "/api/v1/cluster/tokens", {"roles": ["worker", "gateway"], "ttl": 60})
    token = tokens.decode(document["token"])
    assert token.addresses == ("192.0.2.1:7444",)
    assert token.network == document["network"]
    assert document["expires"] == pytest.approx(CLOCK.wall() + 60, abs=5)


@pytest.mark.parametrize(
    "body",
    [
        {"roles": []},
        {"roles": ["king"]},
        {"roles": ["worker", "worker"]},
        {"roles": ["worker"], "ttl": 0},
        {"roles": ["worker"], "ttl": MAX_TTL + 1},
        {"roles": ["worker"], "name": "../x"},
        {},
    ],
)
async def test_tokens_that_are_not_made(founder: Host, body: Any) -> None:
    with pytest.raises(InvalidInput):
        await founder.ask("POST", "/api/v1/cluster/tokens", body)


async def test_a_host_that_nobody_can_reach_makes_no_token(tmp_path: Path) -> None:
    host = await Host(tmp_path, enrol=()).found()
    with pytest.raises(Conflict) as caught:
        await host.ask("POST", "/api/v1/cluster/tokens", {"roles": ["worker"]})
    assert "cluster.advertise" in caught.value.fix
    host.papers.close()


async def test_a_damaged_token_changes_nothing(alone: Host) -> None:
    with pytest.raises(WrongToken):
        await alone.ask("POST", "/api/v1/cluster/join", {"token": "tthj1.x"})


async def test_nodes(founder: Host) -> None:
    listed = (await founder.ask("GET", "/api/v1/nodes"))["nodes"]
    assert {node["name"]: node["state"] for node in listed} == {"a": "this host", "b": "unknown"}
    assert listed == (await founder.ask("GET", "/api/v1/cluster/members"))["nodes"]
    for word in ("b", "bbbb", "b" * 64):
        found = await founder.ask("GET", f"/api/v1/nodes/{word}")
        assert (found["node"], found["path"]) == (GUEST.node, "relay:r1")
    assert (await founder.ask("GET", "/api/v1/nodes/a"))["path"] == ""
    with pytest.raises(NodeNotFound):
        await founder.ask("GET", "/api/v1/nodes/c")


async def test_labels(founder: Host) -> None:
    path = "/api/v1/nodes/b/labels"
    assert (await founder.ask("PATCH", path, {"labels": {"rack": "7", "gpu": "no"}}))["labels"] == {
        "gpu": "no",
        "rack": "7",
    }
    assert (await founder.ask("PATCH", path, {"labels": {"gpu": None}}))["labels"] == {"rack": "7"}
    for labels in ({"a b": "1"}, {"x": "1" * 129}, {f"k{n}": "" for n in range(40)}):
        with pytest.raises(InvalidInput):
            await founder.ask("PATCH", path, {"labels": labels})
    assert (await founder.ask("GET", "/api/v1/nodes/b"))["labels"] == {"rack": "7"}


async def test_the_keys_that_members_share(founder: Host) -> None:
    path = "/api/v1/cluster/keys"
    (first,) = (await founder.ask("GET", path))["keys"]
    assert (first["epoch"], first["held"], first["expires"]) == (1, True, None)
    turned = await founder.ask("POST", f"{path}/rotate", {})
    assert turned["lagging"] == ["b"]
    assert [(each["epoch"], each["expires"] is None) for each in turned["keys"]] == [(2, True), (1, False)]
    with pytest.raises(Conflict, match="b"):
        await founder.ask("POST", f"{path}/rotate", {})
    await founder.ask("POST", "/api/v1/nodes/b/revoke")
    document = await founder.ask("GET", path)
    assert [each["epoch"] for each in document["keys"]] == [3, 2]
    assert "key" not in document["keys"][0], "only what tells one from another is shown"


async def test_how_far_another_root_has_come(founder: Host) -> None:
    path = "/api/v1/cluster/ca"
    shown = await founder.ask("GET", path)
    assert (shown["rotation"], shown["lagging"]) == ("", [])
    for stage, waiting in (("announced", ["b"]), ("switched", ["a", "b"]), ("", [])):
        shown = await founder.ask("POST", f"{path}/rotate", {"force": True})
        assert (shown["rotation"], shown["lagging"]) == (stage, waiting)
        assert await founder.ask("GET", path) == shown


async def test_when_the_primary_is_sent_away_the_next_one_is_named(founder: Host) -> None:
    assert founder.papers.authority is not None
    for number, name in enumerate(("first", "second"), 6):
        manager = replace(
            GUEST, node=f"{number}" * 64, name=name, roles=("manager",), joined=number, addresses=("h:1",)
        )
        founder.papers.authority._ledger.enlist(manager, CLOCK.wall())
    await founder.membership.refresh()
    assert "successor" not in await founder.ask("POST", "/api/v1/nodes/b/revoke")
    assert (await founder.ask("POST", "/api/v1/nodes/first/revoke"))["successor"] == "second"
    assert "successor" not in await founder.ask("POST", "/api/v1/nodes/first/revoke")
    assert "successor" not in await founder.ask("DELETE", "/api/v1/nodes/first")
    assert (await founder.ask("DELETE", "/api/v1/nodes/second"))["successor"] == ""


async def test_sending_away_and_forgetting(founder: Host) -> None:
    assert (await founder.ask("POST", "/api/v1/nodes/b/revoke"))["state"] == "revoked"
    assert (await founder.ask("POST", "/api/v1/nodes/b/revoke"))["revoked"] > 0
    assert founder.membership.roles_of(GUEST.node) is None
    await founder.ask("DELETE", "/api/v1/nodes/b")
    assert [node["name"] for node in (await founder.ask("GET", "/api/v1/nodes"))["nodes"]] == ["a"]
    for method, path in (("POST", "/api/v1/nodes/a/revoke"), ("DELETE", "/api/v1/nodes/a")):
        with pytest.raises(Conflict, match="itself"):
            await founder.ask(method, path)
