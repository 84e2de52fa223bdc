"""What others see of this host, and whether they could dial it: verdicts on observations that a test makes up."""

import itertools
from typing import Any

import msgspec
import pytest

from tetherd.discovery.addresses import Address as Place
from tetherd.discovery.contacts import Address
from tetherd.discovery.diagnosis import OUTSIDE
from tetherd.discovery.mapping import Mapped, Report, Want
from tetherd.discovery.nat import Sight, View, dial_in, judge, mapping
from tetherd.discovery.peers import Arrival, Peer, PeerTable
from tetherd.wire.roster import Member, Roster

OWN = frozenset({"127.0.0.1", "10.0.1.2", "9.9.9.9", "2001:db8::9"})
NODES = tuple(letter * 64 for letter in "abcd")


def seen(*places: str, observers: str = "198.51.100.{}", port: int = 7443) -> list[tuple[Address, Address]]:
    """Return that so many hosts saw this one, each at one of ``places`` (``host:port``)."""
    parts = (place.rpartition(":") for place in places)
    return [
        ((observers.format(number), port), (host, int(text))) for number, (host, _, text) in enumerate(parts, start=1)
    ]


def only(observed: list[tuple[Address, Address]]) -> View:
    (view,) = judge(observed, OWN, "silence")
    return view


def test_at_its_own_address_nothing_stands_in_between() -> None:
    view = only(seen(*["9.9.9.9:7443"] * 3))
    assert (view.kind, view.address, view.observers, view.family) == ("open", "9.9.9.9:7443", 3, "IPv4")
    assert view.detail == "open: 3 hosts see it at its own address 9.9.9.9:7443"
    private = only(seen(*["10.0.1.2:7443"] * 3, observers="10.0.1.1{}"))
    assert private.kind == "open"
    assert "not an address of the public internet" in private.detail


def test_one_address_for_everybody_is_a_cone() -> None:
    view = only(seen(*["203.0.113.1:40211"] * 4))
    assert (view.kind, view.address, view.observers) == ("consistent", "203.0.113.1:40211", 4)
    assert view.detail == 'consistent ("cone"): 4 of 4 hosts see it as 203.0.113.1:40211'


def test_another_port_for_each_is_symmetric() -> None:
    view = only(seen("203.0.113.1:40211", "203.0.113.1:1025", "203.0.113.1:9999"))
    assert (view.kind, view.address, view.observers) == ("random", "203.0.113.1", 3)
    assert "each at another port" in view.detail
    pool = only(seen("203.0.113.1:1", "203.0.113.2:1", "203.0.113.3:1"))
    assert pool.kind == "random"
    assert "at 3 addresses" in pool.detail


def test_one_that_lies_or_is_late_does_not_change_the_verdict() -> None:
    assert only(seen(*["203.0.113.1:40211"] * 3, "192.0.2.1:1")).kind == "consistent"


@pytest.mark.parametrize("place", ["203.0.113.1:40211", "10.0.1.2:7443"])
def test_two_are_too_few_and_it_says_so(place: str) -> None:
    view = only(seen(place, place))
    assert (view.kind, view.observers, view.address) == ("unknown", 2, place)
    assert "2 hosts" in view.detail
    assert "it takes 3" in view.detail


def test_several_nodes_of_one_host_count_once() -> None:
    crowd = [(("198.51.100.1", port), ("203.0.113.1", 40211)) for port in range(5000, 5010)]
    assert (only(crowd).kind, only(crowd).observers) == ("unknown", 1)


def test_neighbours_on_this_side_of_the_router_say_nothing_of_it() -> None:
    near = seen(*["10.0.1.2:7443"] * 3, observers="10.0.1.1{}")
    far = seen(*["203.0.113.1:40211"] * 3)
    assert only(near + far).kind == "consistent"
    assert only(near + far[:1]).kind == "unknown"


def test_nobody_said_anything_for_a_reason() -> None:
    view = only([])
    assert (view.kind, view.detail, view.observers) == ("unknown", "unknown: silence", 0)


def test_each_family_has_a_view_and_mapped_addresses_are_what_they_are() -> None:
    six = seen(*["2001:db8::9:7443"] * 3, observers="2001:db8::1{}")
    four = seen(*["::ffff:9.9.9.9:7443"] * 3, observers="::ffff:198.51.100.{}")
    assert [(view.family, view.kind) for view in judge(six + four, OWN, "")] == [("IPv4", "open"), ("IPv6", "open")]


def peers(*hosts: str) -> list[Peer]:
    """Return a member for each host that it came from; a name in angle brackets is that of a relay."""
    table = PeerTable("0" * 64)
    members = tuple(
        Member(node=node, name=node[:2], roles=("worker",)) for node, _ in zip(NODES, [*hosts, ""], strict=False)
    )
    table.follow(Roster(network="0" * 16, name="n", epoch=1, issued=0.0, members=members, roots=()), 0.0)
    relayed = [Arrival(node, "127.0.0.1", host) for node, host in zip(NODES, hosts, strict=False) if host[0] == "r"]
    table.arrived([*relayed, *(Arrival(n, h) for n, h in zip(NODES, hosts, strict=False) if h[0] != "r")], 0.0)
    return table.peers()


def sight(kind: Any = "unknown", *, dialable: bool = True, relays: tuple[str, ...] = ()) -> Sight:
    return Sight(views=(View(family="IPv4", kind=kind, detail=""),), dialable=dialable, relays=relays)


@pytest.mark.parametrize(
    ("sight", "came", "state", "words"),
    [
        (sight(dialable=False), [], "skip", "only dials"),
        (sight("consistent"), ["198.51.100.7", "10.0.0.7"], "ok", "yes: 1 host beyond the local network did, 1 in it"),
        (sight("consistent"), ["10.0.0.7"], "warn", "from the local network only: a router"),
        (sight("random"), [], "warn", "lets nobody in by itself"),
        (sight("random", relays=("r1", "r2")), ["r1"], "ok", "others come by the relay r1, r2"),
        (sight("open"), ["10.0.0.7", "10.0.0.8"], "ok", "yes: 2 hosts of the local network did, none beyond it"),
        (sight("open"), [], "ok", "nobody has come yet"),
        (sight("unknown"), [], "skip", "unknown: nobody has come yet"),
    ],
)  # fmt: skip
def test_whether_others_could_dial_in(sight: Sight, came: list[str], state: str, words: str) -> None:
    check = dial_in(sight, peers(*came), member=True)
    assert (check.state, check.name) == (state, "dial-in")
    assert words in check.detail
    assert bool(check.fix) == (state == "warn")


def mapped(host: str = "11.0.0.1", obstacle: str = "") -> Mapped:
    return Mapped(Want("rpc", "tcp", 7443), Place(host, 17443), 300.0, obstacle)


def test_a_router_that_lets_others_in_is_told() -> None:
    report = Report(router="10.0.0.1", method="pcp", mapped=(mapped(),))
    seen_so = msgspec.structs.replace(sight("random"), mapping=report)
    check = dial_in(seen_so, peers("10.0.0.7"), member=True)
    assert (check.state, "11.0.0.1:17443" in check.detail) == ("ok", True)
    useless = msgspec.structs.replace(report, mapped=(mapped(obstacle="double NAT"),))
    assert dial_in(msgspec.structs.replace(seen_so, mapping=useless), (), member=True).state == "warn"


@pytest.mark.parametrize(
    ("report", "state", "words"),
    [
        (Report(off="switched off"), "skip", "switched off"),
        (Report(router="10.0.0.1", method="pcp"), "ok", "10.0.0.1 is being asked"),
        (Report(fault="no route to a router"), "warn", "no route to a router"),
        (
            Report(router="10.0.0.1", method="pcp", mapped=(mapped(),)),
            "ok",
            "10.0.0.1 maps by pcp: rpc 7443 to 11.0.0.1:17443 for 5 min",
        ),
        (
            Report(router="10.0.0.1", method="pcp", mapped=(mapped(),), refused={"bulk": "no room"}),
            "warn",
            "but not bulk: no room",
        ),
        (
            Report(router="10.0.0.1", method="upnp", mapped=(mapped("10.9.0.1", "double NAT: 10.9.0.1"),)),
            "warn",
            "of no use: double NAT",
        ),
        (
            Report(router="10.0.0.1", method="pcp", refused={"pcp": "it does not answer", "nat-pmp": "not allowed"}),
            "warn",
            "maps nothing: pcp: it does not answer; nat-pmp: not allowed",
        ),
    ],
)
def test_what_the_router_was_asked_and_gave_is_told(report: Report, state: str, words: str) -> None:
    check = mapping(report, member=True)
    assert (check.state, check.name) == (state, "mapping")
    assert words in check.detail
    assert bool(check.fix) == (state == "warn")
    assert mapping(report, member=False).detail == OUTSIDE


def test_the_extra_for_upnp_is_named_where_it_is_missing() -> None:
    vain = {"pcp": "it does not answer", "nat-pmp": "it does not answer"}
    assert "the extra upnp" in mapping(Report(router="10.0.0.1", refused=vain), member=True).fix
    tried = {**vain, "upnp": "it does not answer"}
    assert "the extra upnp" not in mapping(Report(router="10.0.0.1", refused=tried), member=True).fix


def test_outside_of_a_network_nobody_dials_in() -> None:
    assert dial_in(sight(), [], member=False).detail == OUTSIDE


def test_every_verdict_is_reached_by_a_permutation_of_its_observers() -> None:
    observed = [*seen(*["203.0.113.1:40211"] * 3), *seen("10.0.1.2:7443", observers="10.0.1.1{}")]
    assert {only(list(each)).kind for each in itertools.permutations(observed)} == {"consistent"}
