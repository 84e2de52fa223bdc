"""A runner process: one model version, loaded once, executing batches until its worker ends it.

Started ahead as a warm spare, it imports what it needs and waits on standard input for its assignment. Standard output
carries events to the worker; when standard input ends, the worker is gone and so is the runner.
"""

import contextlib
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tetherd.config.environment import environment
from tetherd.drivers.engines.onnx import OnnxEngine
from tetherd.drivers.host.logs import writing
from tetherd.drivers.models.loading import dial, load
from tetherd.drivers.rpc.blocking import BlockingCaller
from tetherd.errors import MALFORMED, TetherError
from tetherd.roles.serving import PARK, SLOTS, Slots
from tetherd.types import Seconds
from tetherd.wire.assignments import Assignment, Bearings, Event, Site, decode_assignment, decode_told, encode, identity
from tetherd.wire.chunks import BlobSource, Ways

_TICK: Final[Seconds] = 0.25
_ALIVE: Final[Seconds] = 1.0
_HUNG: Final[Seconds] = 2.0
"""An execution that does not end this long after it was told to takes its process with it."""

_HEADROOM: Final = 4 * 1024**3
_OPEN_FILES: Final = 512

_log = logging.getLogger("tetherd.runner")


def main() -> None:
    """Run until standard input ends; never returns."""
    events = _claim_stdout()
    _restrain()
    with contextlib.suppress(*MALFORMED, KeyboardInterrupt):
        if line := sys.stdin.buffer.readline():
            assignment = decode_assignment(line)
            with writing(assignment.log_level, assignment.log_format, environment()):
                _limit_memory(assignment.memory_limit)
                _run(assignment, events)
            os._exit(1)  # at once: an interpreter that takes itself apart trips over the thread that reads our input
    os._exit(0)


def _run(assignment: Assignment, events: Any) -> None:
    """Load and serve. Returns where loading failed, and the worker knows why."""
    try:
        worker = _Worker(assignment)
        threading.Thread(target=worker.listen, daemon=True).start()
        engine = load(assignment, worker.ways, _Fetching(events))
    except (TetherError, MemoryError) as error:
        events.write(encode(Event("failed", reason=str(error) or "out of memory")))
        return
    except Exception as error:
        _log.exception("loading met a bug")
        events.write(encode(Event("failed", reason=f"loading met a bug: {type(error).__name__}")))
        return
    # Before the first offer: the worker must not hear of an end before it knows of the beginning.
    events.write(encode(Event("loaded", bytes=_own_bytes())))
    slots = Slots(assignment, engine, time.sleep)
    worker.serve(slots)
    _attend(engine, slots, events, worker.gone)
    _leave(engine, slots)


class _Worker:
    """What the worker says, heard from the assignment on: while the model is loaded, too."""

    def __init__(self, assignment: Assignment) -> None:
        self.gone = threading.Event()
        self._assignment = assignment
        self._ways = assignment.ways
        self._turn = threading.Lock()
        self._slots: Slots | None = None
        self._orchestrators: dict[str, BlockingCaller] = {}
        for site in assignment.orchestrators:
            self._meet(site)

    def ways(self, source: BlobSource) -> Ways:
        """Return where a source can be dialled now."""
        return self._ways.get(source.node, Ways())

    def serve(self, slots: Slots) -> None:
        """Let the slots take work from every orchestrator, from those that come later too."""
        with self._turn:
            self._slots = slots
            for orchestrator in self._orchestrators.values():
                self._begin(orchestrator, slots)

    def listen(self) -> None:
        """Follow what the worker says until it closes our standard input, or is gone."""
        for line in sys.stdin.buffer:
            try:
                told = decode_told(line)
            except MALFORMED as error:
                _log.warning("cannot read what the worker says", extra={"reason": str(error)})
                continue
            if isinstance(told, Bearings):
                self._ways = told.ways
                self._follow(told.orchestrators)
            elif self._slots:
                self._slots.cancel(told.batch, time.monotonic())
        with self._turn:
            if self._slots is None:
                os._exit(0)  # nobody waits for what it loads, and no work is lost
            self.gone.set()

    def _follow(self, sites: Sequence[Site]) -> None:
        """Take work from these orchestrators, wherever they are now, and from no others."""
        with self._turn:
            for lost in self._orchestrators.keys() - {identity(site) for site in sites}:
                self._orchestrators.pop(lost).close()
            for site in sites:
                try:
                    self._meet(site)
                except TetherError as error:
                    _log.warning(
                        "cannot dial an orchestrator", extra={"address": site.address, "reason": error.message}
                    )

    def _meet(self, site: Site) -> None:
        known = self._orchestrators.get(identity(site))
        if known:
            known.move(site.address)
            return
        made = self._orchestrators[identity(site)] = dial(self._assignment, site.address, site.node)
        if self._slots:
            self._begin(made, self._slots)

    def _begin(self, orchestrator: BlockingCaller, slots: Slots) -> None:
        for _ in range(SLOTS):
            threading.Thread(target=_serve, args=(slots, orchestrator, orchestrator.lane()), daemon=True).start()


class _Fetching:
    """Tells the worker now and then that files of the model still arrive."""

    def __init__(self, events: Any) -> None:
        self._events = events
        self._spoken = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._spoken >= _ALIVE:
            self._spoken = time.monotonic()
            with contextlib.suppress(BrokenPipeError):
                self._events.write(encode(Event("fetching")))


def _serve(slots: Slots, orchestrator: BlockingCaller, call: Callable[..., Any]) -> None:
    slots.serve(lambda take, sent: call(take, PARK, sent), lambda: not orchestrator.closed)


def _attend(engine: OnnxEngine, slots: Slots, events: Any, over: threading.Event) -> None:
    """Watch executions and report to the worker until it is over."""
    executed, spoken = 0, time.monotonic()
    while not over.wait(_TICK):
        now = time.monotonic()
        if engine.watch(now) > _HUNG:
            os._exit(70)
        if slots.executed != executed and now - spoken >= _ALIVE:
            executed, spoken = slots.executed, now
            with contextlib.suppress(BrokenPipeError):
                events.write(encode(Event("alive", bytes=_own_bytes(), executed=executed)))


def _leave(engine: OnnxEngine, slots: Slots) -> None:
    """Deliver what is being executed, then end at once: parked takes are withdrawn by the closing connection.

    Executions keep to their budgets here too, so this ends by itself; a worker that lives has less patience.
    """
    slots.stop()
    while slots.holding > 0 and engine.watch(time.monotonic()) <= _HUNG:
        time.sleep(0.01)
    os._exit(0)


def _claim_stdout() -> Any:
    """Keep standard output for events alone: what libraries print goes to standard error."""
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return events


def _restrain() -> None:
    """Give up what a runner does not need, and die first when the host runs out of memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is for the daemon, which ends us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, hard), hard))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _limit_memory(limit: int) -> None:
    # Address space, so more than the memory a model may use: thread stacks and reserved arenas count here too.
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = limit + _HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))


def _own_bytes() -> int:
    """Return the resident bytes that no other process shares."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
        return (int(resident) - int(shared)) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
