import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.discovery.addresses import parse
from tetherd.discovery.racing import (
    HOLD,
    MAX_ATTEMPTS,
    REPROBE,
    STAGGER,
    Attempt,
    Candidate,
    Race,
    Reached,
    Relay,
    is_better,
    order,
    path_of,
    rank,
    reprobe_after,
)

LAN = Attempt("10.0.0.1:7443", "lan")
OTHER_LAN = Attempt("10.0.0.2:7443", "lan")
DIRECT = Attempt("203.0.113.1:7443", "direct")
RELAY = Attempt("203.0.113.9:7500", "relay:r1")


def reached(attempt: Attempt, rtt: float) -> Reached:
    return Reached(attempt.address, attempt.path, rtt, "a" * 64)


def candidate(text: str, path: str, **rest: object) -> Candidate:
    return Candidate(parse(text), path, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "lan", "path"),
    [
        ("127.0.0.1:7443", False, "local"),
        ("[::1]:7443", False, "local"),
        ("192.168.1.2:7443", False, "lan"),
        ("[fd00::1]:7443", False, "lan"),
        ("203.0.113.1:7443", False, "direct"),
        ("203.0.113.1:7443", True, "lan"),
        ("box.example:7443", False, "direct"),
        ("box.example:7443", True, "lan"),
    ],
)
def test_an_address_tells_its_path(text: str, lan: bool, path: str) -> None:
    assert path_of(parse(text).host, lan=lan) == path


def test_better_kinds_come_first_then_what_proved_itself() -> None:
    attempts = order(
        [
            candidate("203.0.113.1:7443", "direct", proven=True),
            candidate("10.0.0.3:7443", "lan", failures=2),
            candidate("10.0.0.1:7443", "lan"),
            candidate("10.0.0.2:7443", "lan", proven=True, failures=1),
        ],
        ipc="ipc:///run/x.sock",
        relays=[Relay("far", "203.0.113.8:7500", 0.2), Relay("new", "203.0.113.7:7500"), Relay("near", "h:7500", 0.01)],
    )
    assert [attempt.address for attempt in attempts] == [
        "ipc:///run/x.sock", "10.0.0.2:7443", "10.0.0.1:7443", "10.0.0.3:7443", "203.0.113.1:7443",
        "h:7500", "203.0.113.8:7500", "203.0.113.7:7500",
    ]  # fmt: skip
    assert [attempt.path for attempt in attempts[-3:]] == ["relay:near", "relay:far", "relay:new"]


def test_only_unproven_hearsay_counts_as_a_dial_of_discovery() -> None:
    attempts = order(
        [
            candidate("10.0.0.1:7443", "lan"),
            candidate("10.0.0.2:7443", "lan", proven=True),
            candidate("10.0.0.3:7443", "lan", trusted=True),
        ]
    )
    assert {attempt.address: attempt.free for attempt in attempts} == {
        "10.0.0.1:7443": False,
        "10.0.0.2:7443": True,
        "10.0.0.3:7443": True,
    }


def test_attempts_are_few_and_relays_keep_their_place() -> None:
    many = [candidate(f"10.0.0.{i}:7443", "lan") for i in range(1, 60)]
    attempts = order(many, relays=[Relay(f"r{i}", f"203.0.113.{i}:7500") for i in range(1, 30)])
    assert len(attempts) == MAX_ATTEMPTS
    assert rank(attempts[-1].path) == rank("relay:x")
    assert rank(attempts[0].path) == rank("lan")


def test_the_next_attempt_waits_its_turn() -> None:
    race = Race([LAN, DIRECT], 10.0)
    assert race.start(10.0) == [LAN]
    assert race.start(10.0 + STAGGER / 2) == []
    assert race.wake(10.0 + STAGGER / 2) == pytest.approx(STAGGER / 2)
    assert race.start(10.0 + STAGGER) == [DIRECT]
    assert race.wake(10.2) is None


def test_a_failure_lets_the_next_begin_at_once() -> None:
    race = Race([LAN, DIRECT], 0.0)
    race.start(0.0)
    race.failed(LAN, 0.01)
    assert race.start(0.01) == [DIRECT]


def test_the_first_of_the_best_kind_ends_it() -> None:
    race = Race([LAN, OTHER_LAN, DIRECT], 0.0)
    race.start(0.0)
    race.start(0.15)
    race.succeeded(OTHER_LAN, reached(OTHER_LAN, 0.01), 0.16)
    assert race.over(0.16)
    assert race.start(1.0) == []
    assert race.best is not None
    assert race.best.address == OTHER_LAN.address


def test_a_relay_waits_a_moment_for_a_direct_path_under_way() -> None:
    race = Race([DIRECT, RELAY], 0.0)
    race.start(0.0)
    race.start(0.15)
    race.succeeded(RELAY, reached(RELAY, 0.02), 0.2)
    assert not race.over(0.2)
    assert race.wake(0.3) == pytest.approx(0.2 + HOLD - 0.3)
    race.succeeded(DIRECT, reached(DIRECT, 0.3), 0.4)
    assert race.over(0.4)
    assert race.best is not None
    assert race.best.address == DIRECT.address


def test_a_relay_is_taken_when_the_direct_path_stays_silent() -> None:
    race = Race([DIRECT, RELAY], 0.0)
    race.start(0.0)
    race.start(0.15)
    race.succeeded(RELAY, reached(RELAY, 0.02), 0.2)
    assert race.over(0.2 + HOLD)
    assert race.best is not None
    assert race.best.address == RELAY.address


def test_nothing_to_try_is_over() -> None:
    assert Race([], 0.0).over(0.0)
    assert Race([], 0.0).wake(0.0) is None


def test_only_relayed_paths_are_asked_for_a_better_one() -> None:
    assert [reprobe_after(path, 0.5) for path in ("local", "lan", "direct")] == [None, None, None]
    assert reprobe_after("relay:r1", 0.5) == REPROBE
    assert [reprobe_after("relay:r1", x) for x in (0.0, 1.0)] == pytest.approx([54.0, 66.0])
    assert is_better("direct", "relay:r1")
    assert not is_better("relay:r2", "relay:r1")


@given(st.data())
def test_a_race_ends_with_the_best_that_answered(data: st.DataObject) -> None:
    attempts = [Attempt(f"10.0.0.{i}:7443", data.draw(st.sampled_from(["lan", "direct", "relay:r"]))) for i in range(6)]
    attempts.sort(key=lambda attempt: rank(attempt.path))
    ends = {attempt: data.draw(st.one_of(st.none(), st.floats(0, 2))) for attempt in attempts}
    works = {attempt: data.draw(st.booleans()) for attempt in attempts}
    race, now, running, answered = Race(attempts, 0.0), 0.0, {}, []
    for _ in range(100):
        for attempt in race.start(now):
            running[attempt] = None if ends[attempt] is None else now + ends[attempt]
        if race.over(now):
            break
        wake = race.wake(now)
        due = [(at, attempt) for attempt, at in running.items() if at is not None]
        moments = [at for at, _ in due] + ([now + wake] if wake is not None else [])
        if not moments:
            break  # everything left is silent for ever: the driver's time-out ends it
        now = max(now, min(moments))
        for at, attempt in due:
            if at <= now:
                del running[attempt]
                if works[attempt]:
                    race.succeeded(attempt, reached(attempt, ends[attempt] or 0.0), now)
                    answered.append(attempt)
                else:
                    race.failed(attempt, now)
    if answered:
        assert race.best is not None
        assert rank(race.best.path) == min(rank(attempt.path) for attempt in answered)
    else:
        assert race.best is None
