from hypothesis import given
from hypothesis import strategies as st

from tetherd.policy.statistics import Statistics
from tetherd.types import Digest
from tetherd.wire.messages import Finished

V = Digest("sha256:0")


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 8), st.integers(0, 10**9)), max_size=40))
def test_sums_are_those_of_the_executions(executions: list[tuple[int, int, int]]) -> None:
    statistics = Statistics()
    for rows, requests, ns in executions:
        statistics.executed(Finished(1, input_ns=1, infer_ns=ns, output_ns=2), rows=rows, requests=requests, wall_ms=7)
        for _ in range(requests):
            statistics.succeeded(total_ns=10, queue_ns=3)
    value = statistics.value("m", 1, V)
    asked = sum(requests for _, requests, _ in executions)
    assert value.inference_count == sum(rows for rows, _, _ in executions)
    assert value.execution_count == len(executions)
    assert (value.success.count, value.success.ns, value.queue.ns) == (asked, 10 * asked, 3 * asked)
    assert value.infer.count == value.input.count == value.output.count == asked
    assert value.infer.ns == sum(ns * requests for _, requests, ns in executions)
    assert sum(batch.infer.count for batch in value.batches) == len(executions)
    assert sum(batch.infer.ns for batch in value.batches) == sum(ns for _, _, ns in executions)
    assert [batch.rows for batch in value.batches] == sorted({rows for rows, _, _ in executions})


def test_failures_are_counted_apart() -> None:
    statistics = Statistics()
    statistics.failed(total_ns=5)
    value = statistics.value("m", 1, V)
    assert (value.fail.count, value.fail.ns, value.success.count, value.last_inference_ms) == (1, 5, 0, 0)


def test_a_client_cannot_fill_memory_with_sizes() -> None:
    statistics = Statistics()
    for rows in range(1, 5000):
        statistics.executed(Finished(1), rows=rows, requests=1, wall_ms=1)
    value = statistics.value("m", 1, V)
    assert len(value.batches) == 256
    assert value.execution_count == 4999
