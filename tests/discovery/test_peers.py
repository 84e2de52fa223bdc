from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tetherd.discovery.addresses import MAX_PER_NODE
from tetherd.discovery.claims import MAX_ORIGINS
from tetherd.discovery.hints import Drop, Hint, Source
from tetherd.discovery.peers import MAX_DROPS, MAX_NODE_DROPS, MAX_STRANGERS, Arrival, Live, PeerTable
from tetherd.discovery.racing import order
from tetherd.types import RoleName
from tetherd.wire.roster import Member, Roster

ME, A, B, C = ("0" * 64, "a" * 64, "b" * 64, "c" * 64)


def member(node: str, name: str, *roles: RoleName, **rest: Any) -> Member:
    return Member(node=node, name=name, roles=roles, **rest)


MEMBERS = [
    member(A, "box-a", "orchestrator"),
    member(B, "box-b", "manager"),
    member(ME, "me", addresses=("10.0.0.7:7443",)),
]


def roster(*members: Member) -> Roster:
    return Roster(network="0" * 16, name="home", epoch=1, issued=0.0, members=members, roots=())


def hint(node: str, *addresses: str, source: Source = "mdns", origin: str = "", **rest: Any) -> Hint:
    return Hint(node=node, addresses=addresses, source=source, origin=origin, **rest)


def first(table: PeerTable, node: str) -> str:
    return order(table.candidates(node))[0].address


def reasons(table: PeerTable, node: str) -> set[str]:
    peer = table.peer(node)
    assert peer is not None
    return {drop.reason for drop in peer.drops}


@pytest.fixture
def table() -> PeerTable:
    table = PeerTable(ME)
    table.follow(roster(*MEMBERS), 0.0)
    return table


def test_sources_are_merged_and_each_is_shown(table: PeerTable) -> None:
    table.hear(hint(A, "10.0.0.1:7443", source="dht"), 1.0)
    table.hear(hint(A, "10.0.0.1:7443", "10.0.0.2:7443", origin="i1", ports={"bulk": 7445}), 2.0)
    peer = table.peer(A)
    assert peer is not None
    assert (peer.name, peer.roles, peer.sources, peer.heard) == ("box-a", ("orchestrator",), ("dht", "mdns"), 2.0)
    assert {seen.address: seen.sources for seen in peer.addresses} == {
        "10.0.0.1:7443": ("dht", "mdns"),
        "10.0.0.2:7443": ("mdns",),
    }
    assert peer.ports == {"bulk": 7445}


def test_members_are_shown_though_nothing_was_heard_of_them(table: PeerTable) -> None:
    assert [(peer.name, peer.heard, peer.path) for peer in table.peers()] == [("box-a", None, ""), ("box-b", None, "")]


def test_hearing_says_whether_there_is_something_to_try(table: PeerTable) -> None:
    assert table.hear(hint(A, "10.0.0.1:7443"), 1.0)
    assert not table.hear(hint(A, "10.0.0.1:7443"), 2.0)
    assert not table.hear(hint(A, "127.0.0.1:7443"), 3.0)
    assert table.hear(hint(A, "10.0.0.2:7443"), 4.0)


def test_an_origins_latest_word_replaces_its_earlier_ones(table: PeerTable) -> None:
    table.hear(hint(A, "10.0.0.1:7443"), 1.0)
    table.hear(hint(A, "10.0.0.2:7443"), 2.0)
    assert [str(one.address) for one in table.candidates(A)] == ["10.0.0.2:7443"]


def test_a_refused_address_is_shown_with_its_reason(table: PeerTable) -> None:
    table.hear(hint(A, "169.254.169.254:7443", "10.0.0.1:22", "10.0.0.1:7443"), 1.0)
    peer = table.peer(A)
    assert peer is not None
    assert {drop.address for drop in peer.drops} == {"169.254.169.254:7443", "10.0.0.1:22"}
    assert all(drop.reason == "address" and drop.detail and drop.source == "mdns" for drop in peer.drops)
    assert [str(one.address) for one in table.candidates(A)] == ["10.0.0.1:7443"]


def test_seeds_may_be_loopback_and_find_out_who_they_are(table: PeerTable) -> None:
    table.hear(Hint(source="seed", addresses=("127.0.0.1:7443",)), 1.0)
    assert [str(one.address) for one in table.unidentified()] == ["127.0.0.1:7443"]
    table.proved(A, "127.0.0.1:7443", 2.0)
    assert table.unidentified() == []
    peer = table.peer(A)
    assert peer is not None
    assert peer.sources == ("memory", "seed")
    assert peer.addresses[0].proven
    assert peer.addresses[0].path == "local"


def test_a_seed_that_does_not_answer_says_why(table: PeerTable) -> None:
    table.hear(Hint(source="seed", addresses=("10.0.0.9:7443",)), 1.0)
    table.failed(Drop("unreachable", "connection refused", address="10.0.0.9:7443", source="seed"))
    assert table.seeds()[0].failure == "connection refused"
    assert table.drops()[0].reason == "unreachable"


def test_a_record_that_vanishes_drops_no_connection(table: PeerTable) -> None:
    table.hear(hint(A, "10.0.0.1:7443", origin="i1"), 1.0)
    table.proved(A, "10.0.0.1:7443", 1.5)
    table.connected(A, Live("lan", "10.0.0.1:7443", 0.001, 1.5))
    table.vanish("mdns", "i1", A)
    table.expire(1e9)
    peer = table.peer(A)
    assert peer is not None
    assert peer.path == "lan"
    assert first(table, A) == "10.0.0.1:7443", "where it proved its key it is tried again"


def test_a_connection_of_a_stranger_is_shown_too(table: PeerTable) -> None:
    table.connected(C, Live("direct", since=1.0))
    peer = table.peer(C)
    assert peer is not None
    assert (peer.member, peer.path) == (False, "direct")
    table.disconnected(C)
    assert table.peer(C) is None


def test_connections_that_came_in_are_shown_by_where_they_come_from(table: PeerTable) -> None:
    table.hear(hint(B, "[2001:db8::7]:7443", source="mdns"), 1.0)
    table.arrived([Arrival(A, "10.0.0.7"), Arrival(B, "2001:db8::7"), Arrival(C, "198.51.100.7")], 2.0)
    shown = {peer.node: (peer.path, peer.arrived, peer.dialled, peer.rtt) for peer in table.peers()}
    assert shown == {
        A: ("lan", "10.0.0.7", "", None),
        B: ("lan", "2001:db8::7", "", None),  # heard by multicast, so it is near
        C: ("direct", "198.51.100.7", "", None),
    }
    table.arrived([], 3.0)
    assert {peer.node: peer.path for peer in table.peers()} == {A: "", B: ""}


def test_of_several_connections_that_came_in_the_best_path_is_shown(table: PeerTable) -> None:
    table.arrived([Arrival(A, "127.0.0.1", "r1"), Arrival(A, "198.51.100.7")], 1.0)
    table.arrived([Arrival(A, "198.51.100.7"), Arrival(A, "127.0.0.1", "r1")], 5.0)
    peer = table.peer(A)
    assert peer is not None
    assert (peer.path, peer.heard) == ("direct", 1.0), "it is the same connection"
    table.arrived([Arrival(A, "127.0.0.1", "r1")], 6.0)
    peer = table.peer(A)
    assert peer is not None
    assert peer.path == "relay:r1"


def test_our_own_connection_is_shown_before_the_one_that_came_in(table: PeerTable) -> None:
    table.arrived([Arrival(A, "10.0.0.7"), Arrival(ME, "10.0.0.1")], 1.0)
    table.connected(A, Live("relay:r1", "127.0.0.1:40000", 0.03, 2.0))
    peer = table.peer(A)
    assert peer is not None
    assert (peer.path, peer.rtt, peer.dialled, peer.arrived) == ("relay:r1", 0.03, "127.0.0.1:40000", "10.0.0.7")
    table.disconnected(A)
    peer = table.peer(A)
    assert peer is not None
    assert (peer.path, peer.rtt) == ("lan", None)
    assert table.peer(ME) is None


def test_hearsay_ends_with_its_time(table: PeerTable) -> None:
    table.hear(hint(A, "10.0.0.1:7443", source="dht", ttl=600), 0.0)
    table.expire(599.0)
    assert table.candidates(A)
    table.expire(600.0)
    assert table.candidates(A) == []


def test_whoever_proves_the_key_wins_and_the_conflict_is_noted(table: PeerTable) -> None:
    table.hear(hint(A, "10.0.0.66:7443", origin="thief"), 1.0)
    table.hear(hint(A, "10.0.0.1:7443", origin="owner"), 2.0)
    assert "conflict" in reasons(table, A)
    table.failed(Drop("certificate", "it has no certificate of this network", A, "10.0.0.66:7443"))
    table.proved(A, "10.0.0.1:7443", 3.0)
    peer = table.peer(A)
    assert peer is not None
    assert peer.conflict
    assert first(table, A) == "10.0.0.1:7443"
    assert {seen.address: seen.proven for seen in peer.addresses} == {"10.0.0.1:7443": True, "10.0.0.66:7443": False}


def test_a_claim_on_another_nodes_place_is_refuted_by_its_key(table: PeerTable) -> None:
    table.hear(hint(A, "10.0.0.2:7443"), 1.0)
    table.proved(B, "10.0.0.2:7443", 2.0)
    peer = table.peer(A)
    assert peer is not None
    assert peer.conflict
    assert "conflict" in reasons(table, A)
    assert peer.addresses[0].failure == "another node's key was shown there"


def test_a_crowd_of_claimants_pushes_out_no_proven_address(table: PeerTable) -> None:
    table.hear(hint(A, "10.0.0.1:7443", origin="owner"), 0.0)
    table.proved(A, "10.0.0.1:7443", 0.5)
    for i in range(1000):
        table.hear(hint(A, *(f"10.1.{i % 250}.{j}:7443" for j in range(1, 20)), origin=f"thief-{i}"), 1.0 + i)
    assert first(table, A) == "10.0.0.1:7443"
    assert len(table.candidates(A)) <= (MAX_ORIGINS + 1) * MAX_PER_NODE
    peer = table.peer(A)
    assert peer is not None
    owned = next(seen for seen in peer.addresses if seen.address == "10.0.0.1:7443")
    assert owned.sources == ("mdns", "memory"), "its owner is still listened to"
    table.vanish("mdns", "owner", A)
    assert first(table, A) == "10.0.0.1:7443"


def test_who_was_wrong_makes_room_for_who_may_be_right(table: PeerTable) -> None:
    for i in range(1, MAX_ORIGINS + 1):
        table.hear(hint(A, f"10.0.0.{i}:7443", origin=f"i{i}"), float(i))
    table.failed(Drop("unreachable", "no answer", A, f"10.0.0.{MAX_ORIGINS}:7443"))
    table.hear(hint(A, "10.0.0.9:7443", origin="i9"), 9.0)
    kept = {str(one.address) for one in table.candidates(A)}
    assert kept == {f"10.0.0.{i}:7443" for i in [*range(1, MAX_ORIGINS), 9]}


def test_a_host_on_two_networks_is_no_conflict(table: PeerTable) -> None:
    table.hear(hint(A, "10.0.0.1:7443", "192.168.0.1:7443", origin="i1"), 1.0)
    table.hear(hint(A, "192.168.0.1:7443", "172.16.0.1:7443", origin="i2"), 2.0)
    peer = table.peer(A)
    assert peer is not None
    assert not peer.conflict


def test_strangers_displace_neither_members_nor_connections(table: PeerTable) -> None:
    table.hear(hint(A, "10.0.0.1:7443"), 0.0)
    table.connected(C, Live("lan", since=0.0))
    for i in range(5000):
        table.hear(hint(f"{i:064x}".replace("0", "d", 1), f"10.2.{i % 200}.{i % 250 + 1}:7443"), float(i))
    assert len(table.peers()) <= MAX_STRANGERS + 3
    assert table.candidates(A)
    assert table.live(C)
    assert "full" in {drop.reason for drop in table.drops()}


def test_the_roster_says_what_a_peer_may_be(table: PeerTable) -> None:
    table.hear(hint(C, "10.0.0.3:7443"), 1.0)
    assert "not-a-member" in reasons(table, C)
    table.follow(roster(*MEMBERS, member(C, "box-c", "worker")), 1.0)
    peer = table.peer(C)
    assert peer is not None
    assert (peer.name, peer.roles, peer.drops) == ("box-c", ("worker",), ())
    table.follow(roster(*MEMBERS, member(C, "box-c", "worker", revoked=5.0)), 1.0)
    assert table.candidates(C) == []
    table.hear(hint(C, "10.0.0.4:7443"), 2.0)
    assert "revoked" in reasons(table, C)
    table.follow(roster(*MEMBERS), 3.0)
    assert table.candidates(C), "heard of still, and in no roster again"


def test_the_roster_says_where_a_member_listens_as_it_told_itself(table: PeerTable) -> None:
    table.follow(roster(member(A, "box-a", addresses=("10.0.0.1:7443", "127.0.0.1:7443"))), 5.0)
    peer = table.peer(A)
    assert peer is not None
    assert [(seen.address, seen.sources) for seen in peer.addresses] == [("10.0.0.1:7443", ("roster",))]
    assert reasons(table, A) == {"address"}
    table.follow(roster(member(A, "box-a", addresses=("10.0.0.2:7443",))), 6.0)
    assert first(table, A) == "10.0.0.2:7443"
    table.follow(roster(member(A, "box-a")), 7.0)
    assert table.candidates(A) == []


def test_daemons_on_one_host_find_each_other_on_loopback() -> None:
    table = PeerTable(ME, loopback=True)
    table.follow(roster(member(A, "box-a", addresses=("127.0.0.1:7443", "169.254.169.254:7443"))), 1.0)
    assert first(table, A) == "127.0.0.1:7443"


def test_this_node_is_no_peer_of_its_own(table: PeerTable) -> None:
    assert not table.hear(hint(ME, "10.0.0.1:7443"), 1.0)
    table.connected(ME, Live("local"))
    table.proved(ME, "10.0.0.1:7443", 1.0)
    assert table.peer(ME) is None


def test_what_was_proven_is_remembered_over_a_restart(table: PeerTable) -> None:
    for i in range(1, 12):
        table.proved(A, f"10.0.0.{i}:7443", float(i))
    table.proved(C, "10.0.0.99:7443", 20.0)
    (kept,) = table.remembered()
    assert kept.node == A
    assert kept.addresses[0] == "10.0.0.11:7443"
    assert len(kept.addresses) == MAX_PER_NODE
    again = PeerTable(ME)
    again.follow(roster(*MEMBERS), 0.0)
    again.hear(hint(kept.node, *kept.addresses, source="memory", ports=kept.ports), 0.0)
    assert again.remembered() == [kept]
    assert all(attempt.free for attempt in order(again.candidates(A)))


def test_drops_are_counted_and_bounded(table: PeerTable) -> None:
    for i in range(1000):
        table.drop(Drop("other-network", "tag 00000000", address=f"10.0.{i // 250}.{i % 250}:7443", last=float(i)))
        table.drop(Drop("version", "speaks protocol 9", A, last=float(i)))
    assert len(table.drops()) == MAX_DROPS
    peer = table.peer(A)
    assert peer is not None
    assert [(drop.reason, drop.count, drop.last) for drop in peer.drops] == [("version", 1000, 999.0)]


NODES = st.sampled_from([A, B, C, "d" * 64, "e" * 64])
PLACES = st.sampled_from([f"10.0.0.{i}:7443" for i in range(1, 9)] + ["127.0.0.1:7443", "10.0.0.1:22", "nonsense"])
SOURCES: Any = st.sampled_from(["seed", "mdns", "dht", "memory"])
ORIGINS = st.sampled_from(["", "i1", "i2", "i3", "i4"])


class Discovery(RuleBasedStateMachine):
    """Sources speak, contradict each other and fall silent; rosters change; connections come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.table = PeerTable(ME)
        self.now = 0.0
        self.live: dict[str, str] = {}
        self.proven: dict[str, str] = {}
        self.owner: dict[str, str] = {}
        self.members: dict[str, Member] = {}

    @rule(node=NODES | st.just("") | st.just(ME), places=st.lists(PLACES, max_size=12), source=SOURCES, origin=ORIGINS,
          ttl=st.sampled_from([0.0, 10.0, 1e9]))  # fmt: skip
    def hear(self, node: str, places: list[str], source: Source, origin: str, ttl: float) -> None:
        self.table.hear(Hint(source=source, node=node, addresses=tuple(places), origin=origin, ttl=ttl), self.now)

    @rule(source=SOURCES, origin=ORIGINS, node=NODES)
    def vanish(self, source: Source, origin: str, node: str) -> None:
        if source != "memory":
            self.table.vanish(source, origin, node)

    @rule(node=NODES, place=PLACES)
    def prove(self, node: str, place: str) -> None:
        self.table.proved(node, place, self.now)
        if place != "nonsense":
            self.proven[node] = place
            self.owner[place] = node

    @rule(node=NODES | st.just(""), place=PLACES)
    def fail(self, node: str, place: str) -> None:
        self.table.failed(Drop("unreachable", "no answer", node, place, last=self.now))

    @rule(node=NODES, path=st.sampled_from(["lan", "direct", "relay:r1"]))
    def connect(self, node: str, path: str) -> None:
        self.table.connected(node, Live(path, since=self.now))
        self.live[node] = path

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.live)))
        del self.live[node]
        self.table.disconnected(node)

    @rule(members=st.dictionaries(NODES | st.just(ME), st.booleans()))
    def admit(self, members: dict[str, bool]) -> None:
        self.members = {
            node: member(node, f"n-{node[:1]}", revoked=float(revoked)) for node, revoked in members.items()
        }
        self.table.follow(roster(*self.members.values()), self.now)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.table.expire(self.now)

    @invariant()
    def connections_are_never_lost(self) -> None:
        shown = {peer.node: peer.path for peer in self.table.peers() if peer.path}
        assert shown == self.live

    @invariant()
    def every_member_is_shown_and_nobody_else_is_called_one(self) -> None:
        members = {peer.node for peer in self.table.peers() if peer.member}
        assert members == self.members.keys() - {ME}

    @invariant()
    def only_addresses_that_may_be_dialled_are_tried(self) -> None:
        for peer in self.table.peers():
            for one in self.table.candidates(peer.node):
                assert not peer.revoked
                assert one.trusted or (one.address.port == 7443 and one.path != "local")

    @invariant()
    def the_last_holder_of_a_key_is_tried_first(self) -> None:
        for node, place in self.proven.items():
            candidates = self.table.candidates(node)
            if candidates and self.owner[place] == node:
                assert any(str(one.address) == place and one.proven for one in candidates)

    @invariant()
    def everything_is_bounded_and_explained(self) -> None:
        assert len(self.table.drops()) <= MAX_DROPS
        for peer in self.table.peers():
            assert len(peer.drops) <= MAX_NODE_DROPS
            assert all(drop.detail for drop in peer.drops)
            assert len(peer.addresses) <= 4 * MAX_ORIGINS * MAX_PER_NODE
            msgspec.json.encode(peer)


TestDiscovery = Discovery.TestCase
TestDiscovery.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
