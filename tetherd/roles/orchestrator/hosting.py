"""Hosting: where versions are loaded, by what workers report and by who asked for a model to be there or gone."""

import asyncio
import logging
from typing import Final

from tetherd.errors import DeadlineExceeded, Unavailable
from tetherd.policy import placement
from tetherd.ports import Clock, Context
from tetherd.roles.orchestrator import refusals
from tetherd.roles.orchestrator.desk import Desk
from tetherd.roles.orchestrator.fleet import Fleet, Worker
from tetherd.roles.orchestrator.lane import NEVER
from tetherd.types import Seconds
from tetherd.wire.messages import Commands, Done, Ensure, Load, NextCommands, Release, Report, Unload

_POLL: Final[Seconds] = 0.05

_log = logging.getLogger("tetherd.orchestrator")


class Hosting:
    """Keeps the fleet's state, and the desk's lanes true to it."""

    def __init__(self, *, fleet: Fleet, desk: Desk, clock: Clock) -> None:
        self._fleet = fleet
        self._desk = desk
        self._clock = clock

    async def report(self, report: Report, context: Context) -> Done:
        """Take in what a worker says of itself."""
        known = self._fleet.get(report.worker)
        self._check(known, report, context.node)
        self._heed(known, report)
        worker = self._fleet.observe(report, context.peer, self._clock.monotonic(), context.node)
        if known is None:
            _log.info("worker joined", extra={"worker": report.worker, "node_name": report.node})
        for lane in self._desk:
            for seat in lane.parked:
                if seat.worker is None and (seat.take.worker, seat.node) == (report.worker, context.node):
                    seat.worker = worker
        self._desk.miss(worker)
        for runner in report.runners:
            self._observe(runner.version, runner.state, runner.reason)
        if known is None:
            for lane in self._desk:
                lane.wanted = NEVER
                if lane.queue.waiting:
                    self._desk.place(lane, self._clock.monotonic(), again=True)
        return Done()

    def _check(self, known: Worker | None, report: Report, node: str) -> None:
        if known is not None and known.node != node:
            raise refusals.not_yours(report.worker)
        if node:
            self._fleet.check(report, node)

    def _heed(self, known: Worker | None, report: Report) -> None:
        """Take work again for what a worker loads that was not told to from here: another orchestrator was asked to."""
        if known is None:
            return
        for runner in report.runners:
            begun = runner.state in ("LOADING", "READY") and not known.has(runner.version)
            if begun and not known.is_told(runner.version):
                self._desk.unloaded.discard(runner.model)

    def _observe(self, version: str, state: str, reason: str) -> None:
        lane = self._desk.find(version)
        if lane is None:
            return
        if state == "READY":
            lane.failure = ""
            lane.settled.set()
        elif state == "FAILED" and not self._fleet.may_serve(version):
            if lane.failure != reason or lane.failed < lane.placed:
                lane.failure, lane.failed = reason, self._clock.monotonic()
            lane.settled.set()
            for job in lane.queue.drain():
                self._desk.refuse(lane, job, refusals.load_failed(lane, placement.LOAD_RETRY))

    async def commands(self, request: NextCommands, context: Context) -> Commands:
        """Return what a worker is to do, as soon as there is something."""
        worker = self._fleet.get(request.worker)
        if worker is None:
            raise Unavailable("report first", retry_after=0.1)
        if worker.node != context.node:
            raise refusals.not_yours(request.worker)
        worker.obeyed(request.received)
        try:
            async with asyncio.timeout(max(0.0, context.deadline - self._clock.monotonic() - 1.0)):
                await worker.called.wait()
        except TimeoutError:
            pass
        return worker.fetch()

    async def ensure(self, request: Ensure, context: Context) -> Done:
        """Have a version loaded and kept, and answer when it is ready."""
        self._desk.unloaded.discard(request.model)
        lane = self._desk.lane(request)
        holders = [worker for worker in self._fleet if worker.has(request.version)]
        for worker in holders:
            worker.command(Load(lane.model, lane.number, lane.version, pinned=True, fresh=True))
        if any(runner.state == "READY" for runner in self._fleet.runners(request.version)):
            return Done()
        lane.failure = ""
        lane.settled.clear()
        if not self._fleet.rooms():
            raise refusals.no_worker(request.model)
        lane.ensuring += 1
        try:
            if not holders:
                self._desk.place(lane, self._clock.monotonic(), again=True)
            async with asyncio.timeout(max(0.0, context.deadline - self._clock.monotonic())):
                await lane.settled.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"'{request.model}' is still loading", fix="wait, then ask again") from None
        finally:
            lane.ensuring -= 1
        if lane.failure:
            raise refusals.load_failed(lane, placement.LOAD_RETRY)
        return Done()

    async def release(self, request: Release, context: Context) -> Done:
        """Have versions unloaded, and answer when they are gone."""
        self._note(request)
        lanes = [lane for lane in self._desk if lane.model == request.model and request.number in (0, lane.number)]
        for lane in lanes:
            for job in lane.queue.drain():
                self._desk.refuse(lane, job, refusals.unloaded(request.model))
            for worker in self._fleet:
                if worker.has(lane.version):
                    worker.command(Unload(lane.version))
        while any(self._fleet.runners(lane.version) for lane in lanes):
            if self._clock.monotonic() >= context.deadline:
                raise DeadlineExceeded(f"'{request.model}' is still unloading", fix="wait, then ask again")
            await asyncio.sleep(_POLL)
        for lane in lanes:
            lane.failure = ""
            if not request.refuse:  # it will not come back: its version is removed
                self._desk.forget(lane)
        return Done()

    def _note(self, request: Release) -> None:
        if request.refuse:
            self._desk.unloaded.add(request.model)
        elif not request.number:
            self._desk.unloaded.discard(request.model)  # it is removed: another may have its name one day

    def bury(self, worker: Worker, why: str) -> None:
        """Let go of a worker that is gone: its work, its offers, its models."""
        _log.warning("worker lost", extra={"worker": worker.report.worker, "reason": why})
        for lease in [lease for lease in self._desk.leases() if lease.worker is worker]:
            self._desk.take_back(lease, "its worker was lost")
        for lane in self._desk:
            lane.withdraw(lambda seat: seat.worker is worker)
            if lane.in_demand and not lane.parked:
                self._desk.place(lane, self._clock.monotonic(), again=True)
