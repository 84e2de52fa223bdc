"""An orchestrator alone, its runners played by the test itself, take by take."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from tetherd.policy.balance import RoundRobin, Strategy
from tetherd.ports import Context
from tetherd.roles.orchestrator import Limits, Orchestrator
from tetherd.testing.cluster import Connection, request
from tetherd.testing.time import LoopClock
from tetherd.types import Digest, Seconds, Tensor
from tetherd.wire.messages import (
    Batch,
    Finished,
    FleetState,
    GetFleet,
    Infer,
    Inferred,
    Loaded,
    QueueState,
    Report,
    Take,
)


class Bench:
    """Takes, requests and reports go to the orchestrator one by one; nothing answers for the test."""

    def __init__(self, limits: Limits | None = None, strategy: Callable[[], Strategy] = RoundRobin) -> None:
        self.clock = LoopClock()
        self.orchestrator = Orchestrator(clock=self.clock, limits=limits or Limits(), strategy=strategy)
        self._sweeping = asyncio.create_task(self.orchestrator.run(lambda: None))
        self._peers = 0

    def connect(self, node: str = "") -> Connection:
        """Return a new connection to the orchestrator, from another host if that is named."""
        self._peers += 1
        return Connection(self.orchestrator.routes(), self._peers, self.clock, self.orchestrator.lost, node)

    async def report(
        self, line: Connection, worker: str = "w", concurrency: int = 64, runners: list[Loaded] | None = None
    ) -> None:
        """Report as a worker."""
        message = Report(worker, "node", 1000, 0, concurrency, runners or [])
        await line.call(message, deadline=self.clock.monotonic() + 5)

    def take(
        self,
        line: Connection,
        runner: str = "r",
        *,
        model: str = "m",
        worker: str = "w",
        max_rows: int = 64,
        **brought: Any,
    ) -> asyncio.Task[Batch]:
        """Offer as a runner that has ``brought`` something: what it ``finished``, what it ``held``."""
        offer = Take(runner, worker, model, 1, Digest(f"sha256:{model}-1"), max_rows, **brought)
        return asyncio.create_task(line.call(offer, deadline=self.clock.monotonic() + 60))

    def infer(
        self, *values: int, patience: Seconds = 30.0, model: str = "m", priority: int = 0
    ) -> asyncio.Task[Inferred]:
        """Ask as a gateway."""
        handler = self.orchestrator.routes()[Infer]
        message = request(*values, model=model, priority=priority)

        async def ask() -> Inferred:
            answer: Inferred = await handler(message, Context(self.clock.monotonic() + patience))
            return answer

        return asyncio.create_task(ask())

    async def state(self) -> FleetState:
        """Return what the orchestrator sees."""
        state: FleetState = await self.orchestrator.routes()[GetFleet](GetFleet(), Context(0.0))
        return state

    async def queue(self, model: str = "m") -> QueueState:
        """Return the state of a model's queue."""
        return next(one for one in (await self.state()).queues if one.model == model)


def finished(batch: Batch, **spent: Any) -> Finished:
    """Return the outcome of a batch whose model returns what it is given."""
    return Finished(batch.id, [Tensor("y", one.datatype, one.shape, one.data) for one in batch.inputs], **spent)


def numbers(tensors: list[Tensor]) -> tuple[int, ...]:
    """Return the elements of the first of some tensors, an INT64 one."""
    data = bytes(tensors[0].data)
    return struct.unpack(f"<{len(data) // 8}q", data)


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(10):
        await asyncio.sleep(0)
