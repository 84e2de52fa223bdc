"""A runner process: one model version, loaded once, executing batches until its worker ends it.

Started ahead as a warm spare, it imports what it needs and waits on standard input for its assignment. Standard output
carries events to the worker; when standard input ends, the worker is gone and so is the runner.
"""

import contextlib
import os
import resource
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from tetherd.config.environment import environment
from tetherd.drivers.blocking import BlockingCaller
from tetherd.drivers.loading import dial, load
from tetherd.drivers.logs import writing
from tetherd.drivers.onnx import OnnxEngine
from tetherd.errors import MALFORMED, TetherError
from tetherd.roles.serving import PARK, SLOTS, Slots
from tetherd.types import Seconds
from tetherd.wire.assignments import Assignment, Event, decode_assignment, decode_give_up, encode

_TICK: Final[Seconds] = 0.25
_ALIVE: Final[Seconds] = 1.0
_HUNG: Final[Seconds] = 2.0
"""An execution that does not end this long after it was told to takes its process with it."""

_HEADROOM: Final = 4 * 1024**3
_OPEN_FILES: Final = 512


def main() -> None:
    """Run until standard input ends."""
    events = _claim_stdout()
    _restrain()
    line = sys.stdin.buffer.readline()
    if not line:
        return
    assignment = decode_assignment(line)
    with writing(assignment.log_level, assignment.log_format, environment()):
        _limit_memory(assignment.memory_limit)
        _run(assignment, events)


def _run(assignment: Assignment, events: Any) -> None:
    orchestrators = [dial(assignment, site.address, site.node) for site in assignment.orchestrators]
    try:
        engine = load(assignment, _Fetching(events))
    except (TetherError, MemoryError) as error:
        events.write(encode(Event("failed", reason=str(error) or "out of memory")))
        sys.exit(1)
    # Before the first offer: the worker must not hear of an end before it knows of the beginning.
    events.write(encode(Event("loaded", bytes=_own_bytes())))
    slots = Slots(assignment, engine, time.sleep)
    for orchestrator in orchestrators * SLOTS:
        threading.Thread(target=_serve, args=(slots, orchestrator), daemon=True).start()
    _attend(engine, slots, events)
    _leave(engine, slots)


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


def _serve(slots: Slots, orchestrator: BlockingCaller) -> None:
    call = orchestrator.lane()
    slots.serve(lambda take, sent: call(take, PARK, sent))


def _attend(engine: OnnxEngine, slots: Slots, events: Any) -> None:
    """Watch executions and report to the worker until it closes our standard input."""
    executed, spoken = 0, time.monotonic()
    while (told := _told()) is not None:
        for line in told:
            slots.cancel(decode_give_up(line).batch, time.monotonic())
        now = time.monotonic()
        if engine.watch(now) > _HUNG:
            os._exit(70)
        if slots.executed != executed and now - spoken >= _ALIVE:
            executed, spoken = slots.executed, now
            with contextlib.suppress(BrokenPipeError):
                events.write(encode(Event("alive", bytes=_own_bytes(), executed=executed)))


def _told() -> list[bytes] | None:
    """Return the lines that came on standard input within a tick; None when it has ended."""
    readable, _, _ = select.select([sys.stdin], [], [], _TICK)
    if not readable:
        return []
    # Lines this short are written whole, and no pipe holds more than is read here: none is cut in two.
    return os.read(sys.stdin.fileno(), 65536).splitlines() or None


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
    with contextlib.suppress(*MALFORMED, KeyboardInterrupt):
        main()
