"""Durations and sizes: what is read, what is refused, and that showing is the reverse of reading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.config import units
from tetherd.config.units import BadValue


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("10s", 10), ("1.5m", 90), ("2 h", 7200), ("7d", 604800), ("0s", 0), ("0.1ms", 0.0001)],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert units.duration(text) == seconds


@pytest.mark.parametrize(("text", "count"), [("64MiB", 64 * 2**20), ("1.5GiB", 3 * 2**29), ("7B", 7), ("0KiB", 0)])
def test_sizes_are_bytes(text: str, count: int) -> None:
    assert units.size(text) == count


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("60", 'like "60s"'),
        ("60sec", 'did you mean "60s"?'),
        ("5M", 'did you mean "5ms"?'),
        ("3x", "use one of ms, s, m, h, d"),
        ("", 'like "10s"'),
        ("-1s", 'like "10s"'),
        ("1s2", 'like "10s"'),
        ("1e3s", 'like "10s"'),
        ("٣s", 'like "10s"'),
        ("9" * 99 + "s", 'like "10s"'),
    ],
)
def test_bad_durations_say_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(BadValue) as caught:
        units.duration(text)
    assert hint in caught.value.fix


def test_a_decimal_unit_of_size_is_told_the_binary_one() -> None:
    with pytest.raises(BadValue) as caught:
        units.size("64MB")
    assert caught.value.fix == 'did you mean "64MiB"?'


def test_memory_is_a_size_or_a_share() -> None:
    assert units.memory("2GiB", 8 * 2**30) == 2 * 2**30
    assert units.memory("80%", 1000) == 800
    assert units.memory("12.5 %", 1000) == 125


@pytest.mark.parametrize("text", ["0%", "101%", "%", "-1%", "x%", "80", "1e1%"])
def test_bad_shares_are_refused(text: str) -> None:
    with pytest.raises(BadValue):
        units.memory(text, 1000)


@given(st.integers(0, 10**12))
def test_what_is_shown_reads_back(number: int) -> None:
    assert units.size(units.show_size(number)) == number
    seconds = number % 10**9 / 1000
    assert units.duration(units.show_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


def test_values_are_shown_in_their_largest_whole_unit() -> None:
    assert [units.show_duration(each) for each in (0, 0.25, 1, 90, 120, 604800)] == [
        "0s",
        "250ms",
        "1s",
        "90s",
        "2m",
        "7d",
    ]
    assert [units.show_size(each) for each in (0, 1000, 2048, 2**30)] == ["0B", "1000B", "2KiB", "1GiB"]
