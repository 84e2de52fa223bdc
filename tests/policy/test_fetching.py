import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.policy.fetching import STRIKES, Plan


def plan(count: int = 4, *sources: str, **options) -> Plan:
    made = Plan(count, **options)
    for source in sources:
        made.offer(source)
    return made


def test_sources_take_one_after_the_other_from_where_it_begins():
    it = plan(4, "a", "b", salt=2)
    assert [it.take("a", 0), it.take("b", 0), it.take("a", 0), it.take("a", 0)] == [2, 3, 0, 1]
    assert it.take("a", 0) is None


def test_what_is_here_already_is_not_asked_for():
    it = plan(4, "a", have={0, 2})
    assert [it.take("a", 0), it.take("a", 0), it.take("a", 0)] == [1, 3, None]
    assert it.done("a", 1, 1)
    assert not it.finished
    assert it.done("a", 3, 1)
    assert it.finished
    assert plan(2, have={0, 1}).finished
    assert plan(0).finished


def test_a_chunk_that_failed_is_next():
    it = plan(4, "a", "b")
    assert it.take("a", 0) == 0
    assert it.failed("a", 0, "lost") > 0
    assert it.take("b", 0) == 0


def test_a_source_that_fails_too_often_in_a_row_is_asked_no_more():
    it = plan(9, "a", "b")
    pauses = [it.failed("a", it.take("a", 0), "lost") for _ in range(STRIKES - 1)]
    assert pauses == sorted(set(pauses))
    index = it.take("a", 0)
    assert it.done("a", index, 0)  # it works again: all is forgiven
    for _ in range(STRIKES):
        assert "a" not in it.banned
        it.failed("a", it.take("a", 0), "lost")
    assert it.banned == {"a": "lost"}
    assert it.take("a", 0) is None
    assert not it.stuck


def test_a_final_failure_is_the_last():
    it = plan(4, "a", "b")
    it.failed("a", it.take("a", 0), "lies", final=True)
    assert it.banned == {"a": "lies"}
    it.failed("b", None, "gone", final=True)
    assert it.stuck


def test_nothing_is_stuck_that_is_finished():
    it = plan(1, "a")
    it.done("a", it.take("a", 0), 1)
    it.failed("a", None, "gone", final=True)
    assert not it.stuck


def test_what_another_source_has_too_long_is_taken_over_once():
    it = plan(3, "slow", "fast", "third")
    assert it.take("slow", 0) == 0
    assert it.take("fast", 0) == 1
    assert it.done("fast", 1, 1)  # chunks take a second
    assert it.take("fast", 1) == 2
    assert it.done("fast", 2, 2)
    assert it.take("fast", 1.9) is None
    assert it.take("slow", 9) is None
    assert it.take("fast", 2.1) == 0
    assert it.take("third", 9) is None
    assert it.done("fast", 0, 3)
    assert not it.done("slow", 0, 3.5)
    assert it.finished


def test_a_chunk_taken_over_is_not_asked_again_when_one_of_two_fails():
    it = plan(2, "slow", "fast")
    it.take("slow", 0)
    it.done("fast", it.take("fast", 0), 1)
    assert it.take("fast", 9) == 0
    it.failed("slow", 0, "lost")
    assert it.take("slow", 9) is None
    it.failed("fast", 0, "lost")
    assert it.take("slow", 9) == 0


def test_a_source_is_asked_for_what_it_has():
    it = plan(4)
    it.offer("part", {2})
    assert it.take("part", 0) == 2
    assert it.take("part", 0) is None
    assert it.offer("part", {1, 2})
    assert not it.offer("part", {1, 2})
    assert not it.whole("part")
    assert it.take("part", 0) == 1
    assert it.offer("part")
    assert it.whole("part")
    assert it.take("part", 0) == 0


def test_those_who_have_all_are_asked_for_what_no_other_has():
    it = plan(4, "all")
    it.offer("part", {0, 1})
    assert {it.take("all", 0), it.take("all", 0)} == {2, 3}
    assert {it.take("part", 0), it.take("all", 0)} == {0, 1}


@given(st.integers(0, 30), st.data(), st.randoms(use_true_random=False))
def test_every_chunk_comes_once_whatever_sources_do(count, data, chance: random.Random):
    """Sources fail, lie about what they have and are late; as long as an honest one is there, all of it arrives."""
    have = data.draw(st.sets(st.integers(0, count - 1)) if count else st.just(set()))
    it = Plan(count, have=have, salt=data.draw(st.integers(0, 2**32)))
    sources = ["honest", "flaky", "part"]
    it.offer("honest")
    it.offer("flaky")
    it.offer("part", [index for index in range(count) if chance.random() < 0.5])
    came, flying, now = list(have), [], 0.0
    for _ in range(count * 40 + 40):
        now += chance.random()
        source = chance.choice(sources)
        index = it.take(source, now)
        if index is not None:
            assert index not in came
            flying.append((source, index))
        if flying and chance.random() < 0.6:
            who, what = flying.pop(chance.randrange(len(flying)))
            if who == "flaky" and chance.random() < 0.7:
                it.failed(who, what, "lost")
            elif it.done(who, what, now):
                came.append(what)
    assert sorted(came) == list(range(count))
    assert it.finished
    assert not it.stuck


@pytest.mark.parametrize("salt", [1, 40, 7_000_000])
def test_hosts_that_help_each_other_ask_the_origin_for_little_more_than_once(salt):
    """Three hosts fetch ten chunks from one origin and each other: it sends each chunk about once, not three times."""
    plans = {name: Plan(30, salt=salt * (place + 3)) for place, name in enumerate("abc")}
    have: dict[str, set[int]] = {name: set() for name in plans}
    sent = 0
    while not all(it.finished for it in plans.values()):
        for name, it in plans.items():
            for source in [*(other for other in plans if other != name), "origin"]:
                it.offer(source, None if source == "origin" else have[source])
                index = it.take(source, 0)
                if index is not None:
                    sent += source == "origin"
                    it.done(source, index, 0)
                    have[name].add(index)
    assert sent <= 36


def test_hosts_that_are_equally_far_do_not_go_in_step() -> None:
    """What is left is the same for all, and nobody has it: were it asked for in order, all would ask for the same."""
    count = 64
    done = range(count // 2)
    plans = [Plan(count, have=done, salt=salt) for salt in (0x1234567, 0x89ABCDE, 0xF012345)]
    asked = []
    for plan in plans:
        plan.offer("origin")
        plan.offer("peer", done)
        asked.append([plan.take("origin", 0.0) for _ in range(8)])
    assert all(len(set(one)) == 8 for one in asked)
    for one, other in itertools.combinations(asked, 2):
        assert len(set(one) & set(other)) <= 4
