"""When a batch leaves the queue: now, or a little later with more rows in it."""

from typing import Final

from tetherd.types import Seconds

MAX_JOINED: Final = 1024 * 1024
"""Bytes of input that requests in one batch may have together. Joining copies them all: of large inputs, pictures say,
that costs more than executing them together saves (8 of 600 KB: half the throughput)."""


def decide(*, waiting_rows: int, executing_rows: int, max_rows: int, age: Seconds, delay: Seconds) -> Seconds:
    """Return how long to hold the rows that wait for a runner: 0 = hand them over now.

    ``executing_rows``: rows the runner works on already, 0 when it is idle. ``age``: how long the oldest row waits.
    ``delay``: the configured patience with an idle runner, 0 by default, since waiting taxes a lone client.

    An idle runner gets what there is. A busy one holds a second batch ready so that transport and execution overlap,
    but a small second batch would only stand in the way of the larger one that forms meanwhile: it is held until it is
    at least as large as the one that executes. Infinity means: until the runner finishes.
    """
    if waiting_rows >= max_rows:
        return 0.0
    if executing_rows:
        return 0.0 if waiting_rows >= executing_rows else float("inf")
    return max(0.0, delay - age)
