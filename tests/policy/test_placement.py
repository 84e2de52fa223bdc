from hypothesis import given
from hypothesis import strategies as st

from tetherd.policy.placement import Resident, Restarts, Room, choose, evict

residents = st.lists(
    st.builds(Resident, st.uuids().map(str), st.integers(0, 100), st.floats(0, 100), st.booleans(), st.booleans()),
    max_size=12,
)


def test_the_worker_with_the_largest_share_free() -> None:
    assert choose([]) is None
    assert choose([Room("a", 100, 50, 0), Room("b", 1000, 100, 9)]) == "b"
    assert choose([Room("a", 100, 0, 2), Room("b", 100, 0, 1)]) == "b"
    assert choose([Room("b", 100, 0, 1), Room("a", 100, 0, 1)]) == "a"
    assert choose([Room("a", 0, 0, 0)]) == "a"


@given(residents, st.integers(-10, 300), st.integers(-2, 14))
def test_eviction_takes_the_least_recently_used_and_no_more_than_needed(
    held: list[Resident], over: int, surplus: int
) -> None:
    chosen = evict(held, over=over, surplus=surplus)
    by_version = {one.version: one for one in held}
    gone = [by_version[version] for version in chosen]
    assert not any(one.busy or one.pinned for one in gone)
    assert [one.used for one in gone] == sorted(one.used for one in gone)
    movable = [one for one in held if not one.busy and not one.pinned]
    if sum(one.bytes for one in gone) < over or len(gone) < surplus:
        assert len(gone) == len(movable)
    if gone:
        assert sum(one.bytes for one in gone[:-1]) < over or len(gone) - 1 < surplus
        assert max(one.used for one in gone) <= min((one.used for one in movable if one not in gone), default=1e9)


def test_restarts_come_at_once_then_slower_then_not_for_a_while() -> None:
    restarts = Restarts()
    pauses = []
    for now in range(5):
        restarts.observe(float(now))
        pauses.append(restarts.decide(float(now)))
    assert pauses == [0.0, 1.0, 2.0, 4.0, None]
    assert restarts.decide(59.9) is None
    assert restarts.decide(60.0) == 4.0
    assert restarts.decide(200.0) == 0.0


@given(st.lists(st.integers(0, 100), max_size=30))
def test_deaths_of_long_ago_are_forgotten(gaps: list[int]) -> None:
    restarts, now = Restarts(), 0.0
    for gap in gaps:
        now += gap
        restarts.observe(now)
        pause = restarts.decide(now)
        assert pause is None or 0 <= pause <= 4
    assert all(now - death < Restarts.WINDOW for death in restarts._deaths[:-1])
    assert restarts.decide(now + Restarts.WINDOW) == 0.0
