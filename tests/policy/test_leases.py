from hypothesis import given
from hypothesis import strategies as st

from tetherd.policy.leases import FACTOR, FLOOR, SAMPLES, Pace, recover
from tetherd.policy.queue import Job
from tetherd.types import Digest
from tetherd.wire.messages import Infer


def job(deadline: float, attempts: int, settled: bool) -> Job:
    one = Job(Infer("id", "m", 1, Digest("sha256:0"), []), deadline, 0.0, None)
    one.attempts, one.settled = attempts, settled
    return one


@given(st.lists(st.builds(job, st.floats(0, 10), st.integers(1, 5), st.booleans()), max_size=20), st.integers(1, 4))
def test_every_job_of_a_lost_batch_has_one_end(jobs: list[Job], attempts: int) -> None:
    recovery = recover(jobs, attempts, now=5.0)
    ends = [*recovery.again, *recovery.spent, *recovery.late]
    assert sorted(map(id, ends)) == sorted(id(one) for one in jobs if not one.settled)
    assert all(one.deadline <= 5.0 for one in recovery.late)
    assert all(one.attempts >= attempts and one.deadline > 5.0 for one in recovery.spent)
    assert all(one.solo and one.attempts < attempts for one in recovery.again)
    assert recovery.again == [one for one in jobs if one in recovery.again]


def test_the_bound_is_the_ceiling_until_enough_was_seen() -> None:
    pace = Pace()
    for _ in range(SAMPLES - 1):
        pace.observe(0.01)
    assert pace.decide(30.0) == 30.0
    pace.observe(0.01)
    assert pace.decide(30.0) == FLOOR


@given(st.lists(st.floats(0, 100), min_size=SAMPLES, max_size=100), st.floats(1, 60))
def test_the_bound_follows_the_slowest_between_floor_and_ceiling(took: list[float], ceiling: float) -> None:
    pace = Pace()
    for one in took:
        pace.observe(one)
    assert pace.decide(ceiling) == min(ceiling, max(FLOOR, FACTOR * max(took[-64:])))
