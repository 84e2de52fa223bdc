"""The orchestrator role: what it answers, and what it watches over."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from tetherd.policy import placement
from tetherd.policy.balance import Strategy
from tetherd.ports import Clock, Context, Handler
from tetherd.roles.orchestrator import refusals
from tetherd.roles.orchestrator.desk import Desk, Limits
from tetherd.roles.orchestrator.fleet import RETURN, Fleet
from tetherd.roles.orchestrator.hosting import Hosting
from tetherd.roles.orchestrator.lane import Lane, Lease
from tetherd.types import Seconds
from tetherd.wire.messages import Ensure, FleetState, GetFleet, Infer, NextCommands, Release, Report, Request, Take

_TICK: Final[Seconds] = 0.05
_IDLE_TICK: Final[Seconds] = 1.0


class Orchestrator:
    """Queues, batches and leases for every model version, and the workers that serve them."""

    def __init__(self, *, clock: Clock, limits: Limits, strategy: Callable[[], Strategy]) -> None:
        self._clock = clock
        self._fleet = Fleet()
        self._desk = Desk(fleet=self._fleet, clock=clock, limits=limits, strategy=strategy)
        self._hosting = Hosting(fleet=self._fleet, desk=self._desk, clock=clock)

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what the orchestrator answers."""
        return {
            Infer: self._desk.infer,
            Take: self._desk.take,
            Report: self._hosting.report,
            NextCommands: self._hosting.commands,
            Ensure: self._hosting.ensure,
            Release: self._hosting.release,
            GetFleet: self._state,
        }

    async def run(self, ready: Callable[[], None]) -> None:
        """Watch deadlines until cancelled."""
        ready()
        while True:
            self._sweep(self._clock.monotonic())
            self._desk.active.clear()
            if not self._desk.idle:
                await asyncio.sleep(_TICK)
                continue
            # Idle, the daemon should sleep: work that arrives wakes the sweep, a silent worker can wait.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_TICK):
                    await self._desk.active.wait()

    def lost(self, peer: int) -> None:
        """Take back what the runners and workers behind a connection held, now that it has ended."""
        self._desk.lose(peer)
        for worker in self._fleet.remove_lost(peer, self._clock.monotonic()):
            self._hosting.bury(worker, "connection lost")

    async def drain(self, until: Seconds) -> None:
        """Return when no work waits or is handed out, at the latest at ``until``."""
        while self._clock.monotonic() < until:
            if self._desk.idle:
                return
            await asyncio.sleep(_TICK)

    async def _state(self, _: GetFleet, __: Context) -> FleetState:
        now = self._clock.monotonic()
        return FleetState(
            workers=[worker.state(now) for worker in self._fleet],
            queues=[lane.state() for lane in self._desk],
            stats=[lane.statistics.value(lane.model, lane.number, lane.version) for lane in self._desk],
        )

    def _sweep(self, now: Seconds) -> None:
        for worker in self._fleet.remove_silent(now):
            self._hosting.bury(worker, "silent")
        for lease in self._desk.leases():
            self._sweep_lease(lease, now)
        for lane in self._desk:
            for job in lane.queue.expire(now):
                self._desk.refuse(lane, job, refusals.late(job))
            lane.withdraw(lambda seat: seat.deadline <= now + 1.0)
            if lane.in_demand and not lane.parked and not lane.leases:
                self._desk.place(lane, now)
                self._fail_fast(lane, now)

    def _sweep_lease(self, lease: Lease, now: Seconds) -> None:
        for job in lease.jobs:
            if job.deadline <= now:
                self._desk.refuse(lease.lane, job, refusals.late(job))
        if lease.deadline <= now:
            self._desk.run_out(lease)
        elif now - lease.missed > RETURN:
            self._desk.take_back(lease, "its runner did not come back")

    def _fail_fast(self, lane: Lane, now: Seconds) -> None:
        if not self._fleet.rooms() and now - max(lane.wanted, self._fleet.shrunk) > placement.FAIL_FAST:
            for job in lane.queue.drain():
                self._desk.refuse(lane, job, refusals.no_worker(lane.model))
