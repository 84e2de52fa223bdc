import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from tetherd.errors import QueueFull
from tetherd.policy.queue import NORMAL, Job, Queue
from tetherd.types import Digest, Tensor
from tetherd.wire.messages import Infer


def job(rows: int = 1, *, priority: int = 0, deadline: float = 100.0, width: int = 1, now: float = 0.0) -> Job:
    tensor = Tensor("x", "UINT8", (max(rows, 1), width), bytes(max(rows, 1) * width))
    return Job(Infer("id", "m", 1, Digest("sha256:0"), [tensor], rows, priority), deadline, now, None)


def test_first_come_first_served_within_a_priority() -> None:
    queue = Queue(10)
    jobs = [job(priority=priority) for priority in (0, 3, 1, 2, 1)]
    for one in jobs:
        queue.offer(one)
    assert queue.oldest() is jobs[2]
    order = [queue.form(1, 100)[0] for _ in jobs]
    assert [jobs.index(one) for one in order] == [2, 4, 0, 3, 1]
    assert queue.form(1, 100) == []
    assert queue.oldest() is None


def test_a_full_queue_refuses_and_takes_back_all_the_same() -> None:
    queue = Queue(1)
    first = job()
    queue.offer(first)
    with pytest.raises(QueueFull, match="1 requests wait for m"):
        queue.offer(job())
    batch = queue.form(1, 100)
    queue.offer(job())
    queue.put_back(batch)
    assert queue.waiting == 2
    assert queue.oldest() is first


def test_a_batch_takes_alike_requests_in_a_row() -> None:
    queue = Queue(10)
    jobs = [job(2), job(3), job(1, width=2), job(1)]
    for one in jobs:
        queue.offer(one)
    assert queue.form(64, 1000) == jobs[:2]
    assert queue.form(64, 1000) == jobs[2:3]
    assert queue.form(64, 1000) == jobs[3:]


def test_a_batch_keeps_to_rows_and_bytes_but_is_never_empty() -> None:
    queue = Queue(10)
    for rows in (9, 2, 2, 2):
        queue.offer(job(rows))
    assert [one.request.rows for one in queue.form(4, 4)] == [9]
    assert [one.request.rows for one in queue.form(4, 100)] == [2, 2]
    assert [one.request.rows for one in queue.form(4, 1)] == [2]


@pytest.mark.parametrize("position", [0, 1])
def test_what_must_be_alone_is_alone(position: int) -> None:
    for alone in (job(0), job(1)):
        alone.solo = bool(alone.request.rows)
        queue = Queue(10)
        jobs = [job(), job()]
        jobs.insert(position, alone)
        for one in jobs:
            queue.offer(one)
        batches = []
        while batch := queue.form(64, 1000):
            batches.append(batch)
        assert [alone] in batches


def test_what_is_forgotten_is_not_held() -> None:
    queue = Queue(10)
    head = job()
    queue.offer(head)
    for _ in range(5):
        gone = job()
        queue.offer(gone)
        queue.discard(gone)
        queue.discard(gone)
    assert sum(len(level) for level in queue._levels.values()) == 1
    assert (queue.waiting, queue.rows) == (1, 1)


def test_expired_work_leaves_and_handed_out_work_is_left_alone() -> None:
    queue = Queue(10)
    handed, late, soon = job(deadline=1), job(deadline=5), job(deadline=6)
    queue.offer(handed)
    queue.form(1, 10)
    queue.offer(late)
    queue.offer(soon)
    assert queue.expire(5) == [late]
    assert queue.waiting == 1
    assert not handed.settled


class Model(RuleBasedStateMachine):
    """Whatever is done to a queue, its counters and its order are those of a plain sorted list."""

    waiting: Bundle[Job] = Bundle("waiting")
    handed: Bundle[Job] = Bundle("handed")

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue(6)
        self.expected: list[Job] = []
        self.now = 0.0

    def place(self, one: Job, *, first: bool) -> None:
        level = one.request.priority or NORMAL
        levels = [other.request.priority or NORMAL for other in self.expected]
        at = levels.index(level) if first and level in levels else sum(other <= level for other in levels)
        if first and level not in levels:
            at = sum(other < level for other in levels)
        self.expected.insert(at, one)

    @rule(
        target=waiting,
        rows=st.integers(0, 3),
        priority=st.integers(0, 3),
        width=st.integers(1, 2),
        life=st.integers(1, 9),
    )
    def offer(self, rows: int, priority: int, width: int, life: int) -> Job:
        one = job(rows, priority=priority, width=width, deadline=self.now + life)
        if len(self.expected) >= 6:
            with pytest.raises(QueueFull):
                self.queue.offer(one)
            one.settled = True
        else:
            self.queue.offer(one)
            self.place(one, first=False)
        return one

    @rule(target=handed, rows=st.integers(1, 5), size=st.integers(1, 8))
    def form(self, rows: int, size: int) -> object:
        batch = self.queue.form(rows, size)
        assert batch == self.expected[: len(batch)]
        assert bool(batch) == bool(self.expected)
        if len(batch) > 1:
            assert sum(one.request.rows for one in batch) <= rows
            assert sum(one.bytes for one in batch) <= size
            assert len({tuple(one.key) for one in batch}) == 1
            assert not any(one.solo or not one.request.rows for one in batch)
        del self.expected[: len(batch)]
        return multiple(*batch)

    @rule(one=consumes(handed), solo=st.booleans())
    def put_back(self, one: Job, solo: bool) -> None:
        if one.leased and not one.settled:
            one.solo = solo
            self.queue.put_back([one])
            self.place(one, first=True)

    @rule(one=waiting)
    def discard(self, one: Job) -> None:
        self.queue.discard(one)
        assert one.settled
        self.expected = [other for other in self.expected if other is not one]

    @rule(step=st.integers(0, 4))
    def expire(self, step: int) -> None:
        self.now += step
        late = self.queue.expire(self.now)
        assert {id(one) for one in late} == {id(one) for one in self.expected if one.deadline <= self.now}
        self.expected = [one for one in self.expected if one.deadline > self.now]

    @rule()
    def drain(self) -> None:
        assert self.queue.drain() == self.expected
        self.expected = []

    @invariant()
    def counts(self) -> None:
        assert self.queue.waiting == len(self.expected)
        assert self.queue.rows == sum(one.request.rows or 1 for one in self.expected)
        assert self.queue.oldest() is (self.expected[0] if self.expected else None)


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestModel = Model.TestCase
