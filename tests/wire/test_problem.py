"""The error document."""

import orjson

from tetherd.errors import OffsetConflict, QueueFull
from tetherd.wire import problem


def test_says_what_why_and_what_to_do() -> None:
    assert orjson.loads(problem.document(QueueFull("too much waits", fix="try later"))) == {
        "error": "too much waits",
        "code": "QUEUE_FULL",
        "fix": "try later",
        "retryable": True,
    }


def test_leaves_out_a_fix_that_nobody_knows() -> None:
    assert "fix" not in orjson.loads(problem.document(QueueFull("too much waits")))


def test_carries_details_where_there_are_any() -> None:
    assert orjson.loads(problem.document(OffsetConflict("no", details={"offset": 7})))["details"] == {"offset": 7}
