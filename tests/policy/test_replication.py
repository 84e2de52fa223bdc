"""Copies of versions over managers that come and go."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tetherd.policy.replication import ALIVE, AT_ONCE, COPIES, GRACE, Manager, Order, holders, lacking, plan, wanted
from tetherd.types import Digest

V1 = Digest("sha256:1")
ONE, NONE = frozenset({V1}), frozenset[Digest]()


class Fleet:
    """Managers and what they hold, driven by the plan; every fetch is counted."""

    def __init__(self, *nodes: str) -> None:
        self.now = 1000.0
        self.held: dict[str, set[Digest]] = {node: set() for node in nodes}
        self.seen = dict.fromkeys(nodes, self.now)
        self.up = set(nodes)
        self.fetches: list[tuple[str, Digest]] = []

    def managers(self) -> list[Manager]:
        return [Manager(node, frozenset(self.held[node]), self.seen[node]) for node in sorted(self.held)]

    def step(self, versions: list[Digest], seconds: float = 2.0) -> None:
        """Let time pass, everyone who is up report, and every order be done."""
        self.now += seconds
        for node in self.up:
            self.seen[node] = self.now
        for node, orders in plan(versions, self.managers(), self.now).items():
            for order in orders:
                assert order.version not in self.held[node]
                assert any(order.version in self.held[source] for source in order.sources)
                assert node not in order.sources
                if node in self.up:
                    self.held[node].add(order.version)
                    self.fetches.append((node, order.version))

    def copies(self, version: Digest) -> int:
        return len(holders(version, self.managers(), self.now))


def test_a_new_version_spreads_to_as_many_as_are_wanted() -> None:
    fleet = Fleet("a", "b", "c", "d", "e")
    fleet.held["a"] = {V1}
    fleet.step([V1])
    assert fleet.copies(V1) == COPIES
    assert len(fleet.fetches) == 2
    fleet.step([V1])
    assert len(fleet.fetches) == 2


def test_the_primary_fetches_whatever_it_lacks_of_those_who_are_there() -> None:
    versions = [Digest(f"sha256:{number}") for number in range(AT_ONCE + 3)]
    *lacked, failing, silent, unknown = versions
    me = Manager("me", NONE, 0, failing=frozenset({failing}))
    full, away = Manager("a", frozenset(versions[:-1]) - {silent}, 0), Manager("b", frozenset({silent}), -ALIVE - 1)
    orders = lacking([failing, silent, unknown, *lacked], me, [me, full, away], 0)
    assert [(order.version, order.sources) for order in orders] == [(version, ("a",)) for version in lacked]
    (order,) = lacking([failing, lacked[0]], me._replace(held=frozenset(lacked)), [me, full], 0)
    assert order == Order(failing, ("a",))


def test_with_fewer_managers_there_are_fewer_copies() -> None:
    fleet = Fleet("a", "b")
    fleet.held["a"] = {V1}
    assert wanted(fleet.managers(), fleet.now) == 2
    fleet.step([V1])
    assert fleet.copies(V1) == 2
    assert wanted(fleet.managers()[:1], fleet.now) == 1


def test_those_who_fetch_are_sources_for_each_other() -> None:
    managers = [Manager("a", ONE, 0), Manager("b", NONE, 0), Manager("c", NONE, 0)]
    orders = plan([V1], managers, 0)
    assert {node: set(order.sources) for node, (order,) in orders.items()} == {"b": {"a", "c"}, "c": {"a", "b"}}


def test_a_lost_manager_is_replaced_after_the_grace_and_not_before() -> None:
    fleet = Fleet("a", "b", "c", "d")
    for node in "abc":
        fleet.held[node] = {V1}
    fleet.up.discard("c")
    while fleet.now - fleet.seen["c"] + 2 <= GRACE:
        fleet.step([V1])
        assert fleet.fetches == []
    fleet.step([V1])
    assert fleet.fetches == [("d", V1)]


def test_a_manager_that_flaps_starts_nothing() -> None:
    fleet = Fleet("a", "b", "c", "d")
    for node in "abc":
        fleet.held[node] = {V1}
    for _ in range(50):
        fleet.up.symmetric_difference_update({"c"})
        fleet.step([V1], GRACE * 0.9)
        fleet.seen["a"] = fleet.seen["b"] = fleet.seen["d"] = fleet.now
    assert fleet.fetches == []


def test_nothing_is_ordered_from_those_who_are_not_there() -> None:
    silent = Manager("a", ONE, 0.0)
    assert plan([V1], [silent, Manager("b", NONE, ALIVE + 1)], ALIVE + 1) == {}


def test_a_fetch_under_way_stays_where_it_is() -> None:
    holder = Manager("h", ONE, 0)
    others = [Manager(node, NONE, 0) for node in "abcdef"]
    first = plan([V1], [holder, *others], 0, 2)
    (chosen,) = first
    for node in "abcdef":
        at_it = [Manager(one.node, NONE, 0, ONE if one.node == node else NONE) for one in others]
        assert list(plan([V1], [holder, *at_it], 0, 2)) == [node]
    assert plan([V1], [holder, *others], 0, 2) == first
    assert chosen in "abcdef"


def test_a_manager_that_cannot_is_asked_last() -> None:
    managers = [Manager("h", ONE, 0), *(Manager(node, NONE, 0, failing=ONE) for node in "abc"), Manager("d", NONE, 0)]
    assert list(plan([V1], managers, 0, 2)) == ["d"]
    assert len(plan([V1], managers[:-1], 0, 2)) == 1


def test_what_is_nearest_to_being_lost_comes_first_and_no_manager_gets_too_much() -> None:
    many = [Digest(f"sha256:{index:03}") for index in range(40)]
    safe = many[:20]
    managers = [Manager("a", frozenset(many), 0), Manager("b", frozenset(safe), 0), Manager("c", NONE, 0)]
    orders = plan(many, managers, 0)
    assert all(len(mine) <= AT_ONCE for mine in orders.values())
    assert not {order.version for order in orders["c"]} & set(safe)


def test_places_are_spread_evenly() -> None:
    many = [Digest(f"sha256:{index:03}") for index in range(300)]
    fleet = Fleet("origin", *"abcdef")
    fleet.held["origin"] = set(many)
    for _ in range(100):
        fleet.step(many)
    assert all(fleet.copies(version) == COPIES for version in many)
    assert len(fleet.fetches) == 2 * len(many)
    loads = [len(fleet.held[node]) for node in "abcdef"]
    assert max(loads) < 1.5 * min(loads)


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(1, 12))
def test_however_they_come_and_go_it_settles_and_loses_nothing_that_somebody_has(
    chance: random.Random, count: int, versions: int
) -> None:
    fleet = Fleet(*(f"n{index}" for index in range(count)))
    known = [Digest(f"sha256:{index}") for index in range(versions)]
    for version in known:
        fleet.held[chance.choice(sorted(fleet.held))].add(version)
    for _ in range(20):
        if chance.random() < 0.5:
            fleet.up ^= {chance.choice(sorted(fleet.held))}
        fleet.step(known, chance.choice([0.5, 2, ALIVE, GRACE]))
    fleet.up = set(fleet.held)
    for _ in range(2 + versions * count):
        fleet.step(known)
    target = min(COPIES, count)
    assert all(fleet.copies(version) >= target for version in known)
    before = list(fleet.fetches)
    for _ in range(5):
        fleet.step(known)
    assert fleet.fetches == before
