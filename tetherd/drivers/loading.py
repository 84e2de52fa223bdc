"""From an assignment to a loaded engine: fetch, verify, load. Blocking; used where models run."""

from functools import partial
from pathlib import Path
from typing import Any, Final

from tetherd.drivers.blocking import BlockingCaller
from tetherd.drivers.onnx import OnnxEngine
from tetherd.drivers.unpack import prune, unpack
from tetherd.types import Seconds
from tetherd.wire.assignments import Assignment
from tetherd.wire.messages import Request

_FETCH: Final[Seconds] = 60.0


def load(assignment: Assignment) -> OnnxEngine:
    """Return the engine of the assigned version. Raises what fetching and loading raise."""
    # A connection of its own, closed again: the parked takes have theirs to themselves.
    manager = BlockingCaller(assignment.manager, max_message=assignment.max_message)
    try:
        call = partial(_fetch, manager.lane())
        found = unpack(assignment.version, Path(assignment.cache_dir), call)
    finally:
        manager.close()
    prune(Path(assignment.cache_dir), assignment.keep)
    return OnnxEngine(found.model, found.signature, assignment.threads)


def _fetch(call: Any, request: Request[Any]) -> Any:
    return call(request, _FETCH)
