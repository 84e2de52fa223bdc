"""What a node wants kept: when it is said again, and under which number."""

from itertools import pairwise

from tetherd.discovery.standing import EARLY, MAX_AHEAD, Standing, Subject
from tetherd.wire.records import ANNOUNCEMENT, IMMUTABLE, MUTABLE, Body

TOPIC = (ANNOUNCEMENT, bytes(32))
WALL = 1.7e9


def say(one: Standing, subject: Subject, value: bytes, ttl: int, wall: float = WALL) -> Body:
    body = one.draft(subject, value, ttl, wall)
    one.adopt(body, 0.0)
    return body


def standing() -> Standing:
    return Standing(b"public", lambda count: bytes([128]) * count)


def test_it_is_said_again_soon_and_then_at_half_its_life() -> None:
    one = standing()
    first = say(one, TOPIC, b"v", 600)
    moments, said = [], []
    for _ in range(5):
        moment = one.next
        moments.append(moment)
        said += one.due(moment, WALL + moment)
    assert moments[: len(EARLY)] == list(EARLY)
    assert all(250 < later - before < 350 for before, later in pairwise(moments[1:]))
    assert said[0] is first, "the early ones are the same words"
    numbers = [each.seq for each in said]
    assert numbers == sorted(numbers)
    assert said[-1].issued == int(WALL + moments[-1])


def test_what_is_taken_back_is_said_once_with_a_later_number() -> None:
    one = standing()
    first = say(one, TOPIC, b"v", 600)
    gone = one.withdraw(TOPIC, WALL)
    assert gone
    assert gone.gone
    assert gone.seq > first.seq
    assert gone.issued + gone.ttl >= first.issued + first.ttl, "it covers what it takes back"
    assert one.withdraw(TOPIC, WALL) is None
    assert one.due(1e9, WALL) == []


def test_immutable_values_need_no_farewell() -> None:
    one = standing()
    say(one, (IMMUTABLE, b"value"), b"value", 7200)
    assert one.withdraw((IMMUTABLE, b"value"), WALL) is None
    assert not len(one)


def test_numbers_grow_when_the_clock_does_not() -> None:
    one = standing()
    numbers = [say(one, (MUTABLE, b"n"), b"v", 600, WALL - index).seq for index in range(5)]
    assert numbers == sorted(set(numbers))


def test_a_later_number_of_ours_is_overtaken_but_not_one_from_far_ahead() -> None:
    one = standing()
    said = say(one, TOPIC, b"v", 600)
    again = one.overtake(said, said.seq + 100, WALL)
    assert again
    assert again.seq == said.seq + 101
    assert one.overtake(again, int(WALL) + MAX_AHEAD + 1, WALL) is None
    assert one.overtake(said, said.seq + 200, WALL) is None, "it is not what stands any more"


def test_a_draft_does_not_stand_until_it_is_adopted() -> None:
    one = standing()
    said = say(one, TOPIC, b"v", 600)
    draft = one.draft(TOPIC, b"w", 600, WALL)
    assert one.due(EARLY[0], WALL) == [said]
    one.adopt(draft, 10.0)
    assert one.due(20.0, WALL) == [draft]


def test_hurry_says_everything_at_one_moment() -> None:
    one = standing()
    say(one, TOPIC, b"v", 600)
    say(one, (MUTABLE, b"n"), b"v", 600)
    one.hurry(0.2)
    assert one.next == 0.2
    assert len(one.due(0.2, WALL)) == 2
