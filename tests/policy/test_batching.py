import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.policy.batching import decide


@pytest.mark.parametrize(
    ("waiting", "executing", "age", "delay", "expected"),
    [
        (1, 0, 0.0, 0.0, 0.0),  # an idle runner gets what there is
        (1, 0, 0.0, 0.5, 0.5),
        (1, 0, 0.2, 0.5, 0.3),
        (1, 0, 0.9, 0.5, 0.0),
        (8, 0, 0.0, 0.5, 0.0),  # full
        (8, 8, 0.0, 0.5, 0.0),
        (3, 4, 9.0, 0.5, math.inf),  # a busy one waits for as much as it executes
        (4, 4, 0.0, 0.5, 0.0),
    ],
)
def test_when_a_batch_leaves(waiting: int, executing: int, age: float, delay: float, expected: float) -> None:
    wait = decide(waiting_rows=waiting, executing_rows=executing, max_rows=8, age=age, delay=delay)
    assert wait == pytest.approx(expected)


@given(st.integers(1, 100), st.integers(1, 64), st.floats(0, 10), st.floats(0, 10))
def test_an_idle_runner_never_waits_longer_than_the_delay(waiting: int, most: int, age: float, delay: float) -> None:
    assert 0 <= decide(waiting_rows=waiting, executing_rows=0, max_rows=most, age=age, delay=delay) <= delay
