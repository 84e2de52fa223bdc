"""What happened to one version's requests, counted as the Open Inference statistics extension counts."""

from typing import Final

from tetherd.types import Digest
from tetherd.wire.messages import BatchStats, Durations, Finished, VersionStats

_MAX_SIZES: Final = 256
"""Batch sizes that are told apart; a client can make up any number of them."""


class _Sum:
    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns

    def value(self) -> Durations:
        return Durations(self.count, self.ns)


class _Phases:
    __slots__ = ("infer", "input", "output")

    def __init__(self) -> None:
        self.input, self.infer, self.output = _Sum(), _Sum(), _Sum()

    def add(self, finished: Finished, count: int) -> None:
        self.input.add(finished.input_ns * count, count)
        self.infer.add(finished.infer_ns * count, count)
        self.output.add(finished.output_ns * count, count)


class Statistics:
    """Counters of one version. Durations are sums in nanoseconds."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._rows = 0
        self._executions = 0
        self._success, self._fail, self._queue = _Sum(), _Sum(), _Sum()
        self._phases = _Phases()
        self._batches: dict[int, _Phases] = {}

    def executed(self, finished: Finished, *, rows: int, requests: int, wall_ms: int) -> None:
        """Count one execution that succeeded."""
        self._last_ms = wall_ms
        self._rows += rows
        self._executions += 1
        # Every request of a batch experienced the whole batch's time; the batch itself spent it once.
        self._phases.add(finished, requests)
        phases = self._batches.get(rows)
        if phases is None:
            if len(self._batches) == _MAX_SIZES:
                return
            phases = self._batches[rows] = _Phases()
        phases.add(finished, 1)

    def succeeded(self, *, total_ns: int, queue_ns: int) -> None:
        """Count one request that was answered."""
        self._success.add(total_ns)
        self._queue.add(queue_ns)

    def failed(self, *, total_ns: int) -> None:
        """Count one request that was not."""
        self._fail.add(total_ns)

    def value(self, model: str, number: int, version: Digest) -> VersionStats:
        """Return the counters as a message."""
        return VersionStats(
            model,
            number,
            version,
            last_inference_ms=self._last_ms,
            inference_count=self._rows,
            execution_count=self._executions,
            success=self._success.value(),
            fail=self._fail.value(),
            queue=self._queue.value(),
            input=self._phases.input.value(),
            infer=self._phases.infer.value(),
            output=self._phases.output.value(),
            batches=[
                BatchStats(rows, phases.input.value(), phases.infer.value(), phases.output.value())
                for rows, phases in sorted(self._batches.items())
            ],
        )
