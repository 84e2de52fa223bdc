"""When something is tried again, in arithmetic."""

import pytest

from tetherd.discovery.attempts import HEED, JITTER, Attempts

MANY = 1000


def moments(attempts: Attempts[str], start: int, end: int) -> list[int]:
    """Look every second; return when it was time."""
    return [now for now in range(start, end) if attempts.due(["a"], now, MANY)]


def test_at_once_then_less_and_less_often() -> None:
    assert moments(Attempts(lambda: 0.5), 0, 200) == [0, 1, 3, 7, 15, 31, 63, 123, 183]


def test_news_is_a_new_beginning_once_in_a_while() -> None:
    attempts = Attempts[str](lambda: 0.5)
    moments(attempts, 0, 200)
    attempts.hurry(200)
    assert moments(attempts, 200, 205) == [200, 201, 203]
    attempts.hurry(205)
    assert moments(attempts, 205, 210) == [207]
    attempts.hurry(200 + HEED)
    assert moments(attempts, 210, 212) == [210, 211]


def test_what_is_wanted_anew_begins_anew() -> None:
    attempts = Attempts[str](lambda: 0.5)
    assert moments(attempts, 0, 60)[-1] == 31
    assert attempts.due([], 60, MANY) == []
    assert attempts.due(["a", "b"], 61, MANY) == ["a", "b"]


def test_of_too_many_all_have_their_turn() -> None:
    attempts = Attempts[int](lambda: 0.5)
    wanted = list(range(10))
    assert [attempts.due(wanted, now, 4) for now in (0.0, 0.1, 0.2, 0.3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], []]


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_chance_keeps_nodes_from_asking_all_at_once(chance: float) -> None:
    attempts, now = Attempts[str](lambda: chance), 0.0
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        assert attempts.due(["a"], now, 1)
        now += pause * (1 + (2 * chance - 1) * JITTER)
        assert not attempts.due(["a"], now - 0.001, 1)
        now += 0.001
