"""The workers that the orchestrator knows: their reports, their load, and the commands that wait for them."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from tetherd.errors import InvalidInput, QueueFull
from tetherd.policy.placement import Room
from tetherd.types import Seconds
from tetherd.wire.messages import Cancel, Commands, Load, Loaded, Recycle, Report, Unload, WorkerState

SILENT: Final[Seconds] = 5.0
"""A worker that reported nothing for so long is taken for dead."""

RETURN: Final[Seconds] = 3.0
"""So long may it take who lost the connection to come back from another host with what it holds."""


MAX_WORKERS: Final = 64
"""Workers that another host may have at once; it has one for each daemon, under a new name at every start."""

MAX_RUNNERS: Final = 1024
MAX_NAME: Final = 256
MAX_REASON: Final = 8192
"""Characters of a name, and of a reason, in what other hosts report."""


class Worker:
    """One worker: its last report, batches its runners hold now, and commands it has not fetched yet."""

    def __init__(self, report: Report, peer: int | None, now: Seconds, node: str) -> None:
        self.report = report
        self.peer = peer
        self.node = node  # proven, unlike the name in its report
        self.seen = now
        self.busy = 0
        self.loads: list[Load] = []
        self.unloads: list[Unload] = []
        self.recycles: list[Recycle] = []
        self.cancels: list[Cancel] = []
        self._number = 0
        self._sent: Commands | None = None
        self.called = asyncio.Event()

    @property
    def saturated(self) -> bool:
        """Whether it executes as much as it may."""
        return self.busy >= self.report.max_concurrency

    def command(self, command: Load | Unload | Recycle | Cancel) -> None:
        """Leave a command for the worker's next question."""
        if isinstance(command, Load):
            self.loads.append(command)
        elif isinstance(command, Unload):
            self.unloads.append(command)
        elif isinstance(command, Recycle):
            self.recycles.append(command)
        else:
            self.cancels.append(command)
        self.called.set()

    def fetch(self) -> Commands:
        """Return the commands that wait, the same ones until it has said that it received them."""
        if self._sent is None and self.called.is_set():
            self._number += 1
            self._sent = Commands(self.loads, self.unloads, self.recycles, self.cancels, self._number)
            self.loads, self.unloads, self.recycles, self.cancels = [], [], [], []
        return self._sent or Commands()

    def obeyed(self, received: int) -> None:
        """Take note of the number of the last commands that it acted on."""
        self._number = max(self._number, received)  # of an orchestrator before this one, maybe
        if self._sent is not None and received >= self._sent.number:
            self._sent = None
            if not (self.loads or self.unloads or self.recycles or self.cancels):
                self.called.clear()

    def is_told(self, version: str) -> bool:
        """Whether it was told to load a version and has not acted yet: what it reports of it is of the past."""
        return any(load.version == version for load in (*self.loads, *(self._sent.load if self._sent else ())))

    def serves(self, runner: str) -> None:
        """Note that a runner is ready, which its own offer may say before its worker does."""
        for loaded in self.report.runners:
            if loaded.runner == runner and loaded.state == "LOADING":
                loaded.state = "READY"

    def lives(self, runner: str) -> bool:
        """Whether a runner is one of its own and has not ended, by its last report."""
        return any(loaded.runner == runner and loaded.state != "FAILED" for loaded in self.report.runners)

    def has(self, version: str) -> list[Loaded]:
        """Return its runners of a version, whatever their state."""
        return [runner for runner in self.report.runners if runner.version == version]

    def state(self, now: Seconds) -> WorkerState:
        """Return what there is to show of it."""
        report = self.report
        return WorkerState(
            worker=report.worker,
            node=report.node,
            memory_limit=report.memory_limit,
            memory_used=report.memory_used,
            max_concurrency=report.max_concurrency,
            busy=self.busy,
            seen_ms_ago=int((now - self.seen) * 1000),
            stopping=report.stopping,
            runners=report.runners,
        )


def longest(texts: Iterable[str]) -> int:
    """Return the length of the longest; 0 where there is none."""
    return max(map(len, texts), default=0)


class Fleet:
    """All workers that are alive."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self.shrunk: Seconds = float("-inf")
        """When a worker was taken for dead last."""

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def get(self, worker: str) -> Worker | None:
        """Return a worker by id, if it is alive."""
        return self._workers.get(worker)

    def check(self, report: Report, node: str) -> None:
        """Raise InvalidInput, or QueueFull, for a report of another host that would take more than its share."""
        names = [report.worker, report.node]
        names += [name for one in report.runners for name in (one.runner, one.model, one.version, one.isolation)]
        reasons = [one.reason for one in report.runners]
        if len(report.runners) > MAX_RUNNERS or longest(names) > MAX_NAME or longest(reasons) > MAX_REASON:
            raise InvalidInput("a worker reports more runners, or longer names, than there can be")
        known = report.worker in self._workers
        if not known and sum(worker.node == node for worker in self._workers.values()) >= MAX_WORKERS:
            raise QueueFull(f"node {node[:12]} has {MAX_WORKERS} workers already", retry_after=SILENT)

    def observe(self, report: Report, peer: int | None, now: Seconds, node: str = "") -> Worker:
        """Take in a report that came from ``node``."""
        worker = self._workers.get(report.worker)
        if worker is None:
            worker = self._workers[report.worker] = Worker(report, peer, now, node)
        worker.report, worker.peer, worker.seen = report, peer, now
        return worker

    def remove_lost(self, peer: int, now: Seconds) -> list[Worker]:
        """Remove and return the workers of a connection that ended.

        On this host it ends with its process; a worker of another host has some time to come back.
        """
        lost = [worker for worker in self if worker.peer == peer]
        for worker in lost:
            worker.seen = min(worker.seen, now - SILENT + RETURN)
        return self._remove([worker for worker in lost if not worker.node], now)

    def remove_silent(self, now: Seconds) -> list[Worker]:
        """Remove and return the workers that stopped reporting."""
        return self._remove([worker for worker in self if now - worker.seen > SILENT], now)

    def rooms(self) -> list[Room]:
        """Return the workers that may load something."""
        return [
            Room(
                worker.report.worker, worker.report.memory_limit, worker.report.memory_used, len(worker.report.runners)
            )
            for worker in self
            if not worker.report.stopping
        ]

    def runners(self, version: str) -> list[Loaded]:
        """Return every runner of a version, on any worker."""
        return [runner for worker in self for runner in worker.has(version)]

    def may_serve(self, version: str) -> bool:
        """Whether a runner of a version is there that has not failed, or is about to be."""
        return any(
            worker.is_told(version) or any(runner.state != "FAILED" for runner in worker.has(version))
            for worker in self
        )

    def _remove(self, workers: list[Worker], now: Seconds) -> list[Worker]:
        for worker in workers:
            self.shrunk = now
            del self._workers[worker.report.worker]
        return workers
