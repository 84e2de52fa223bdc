"""From an assignment to a loaded engine: fetch, verify, load. Blocking; used where models run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from tetherd.drivers.blocking import BlockingCaller
from tetherd.drivers.nng import Secret
from tetherd.drivers.onnx import OnnxEngine
from tetherd.drivers.origins import ManagerOrigin
from tetherd.drivers.unpack import Unpacked, prune, unpack
from tetherd.types import Seconds
from tetherd.wire.assignments import Assignment
from tetherd.wire.messages import Request

_FETCH: Final[Seconds] = 60.0


def load(assignment: Assignment, progress: Callable[[], None] = lambda: None) -> OnnxEngine:
    """Return the engine of the assigned version; ``progress`` is called while its files arrive from other hosts.

    Raises what fetching and loading raise.
    """
    cache = Path(assignment.cache_dir)
    found = _from_fleet(assignment, progress) if assignment.sources else _from_manager(assignment)
    prune(cache, assignment.keep)
    return OnnxEngine(found.model, found.signature, assignment.threads)


def _from_manager(assignment: Assignment) -> Unpacked:
    # A connection of its own, closed again: the parked takes have theirs to themselves.
    manager = dial(assignment, assignment.manager, assignment.manager_node)
    try:
        origin = ManagerOrigin(partial(_ask, manager.lane()))
        return unpack(assignment.version, Path(assignment.cache_dir), origin)
    finally:
        manager.close()


def _from_fleet(assignment: Assignment, progress: Callable[[], None]) -> Unpacked:
    # TLS and certificates are memory and time that a runner beside its manager does without.
    from tetherd.drivers.fetch import BulkClient, FleetOrigin
    from tetherd.drivers.keys import load as credentials
    from tetherd.drivers.mutual import dialling

    context = dialling(credentials(Path(assignment.identity)))
    origin = FleetOrigin(BulkClient(lambda: context), assignment.sources, progress)
    return unpack(assignment.version, Path(assignment.cache_dir), origin)


def dial(assignment: Assignment, address: str, node: str) -> BlockingCaller:
    """Return a caller of the roles at an address: of this host, or of ``node`` if it names one."""
    if not node:
        return BlockingCaller(address, max_message=assignment.max_message)
    # The certificate machinery is memory that a runner beside its orchestrator does without.
    from tetherd.drivers.keys import load as credentials

    identity = Path(assignment.identity)
    return BlockingCaller(
        address, max_message=assignment.max_message, secret=lambda: Secret(credentials(identity), node)
    )


def _ask(call: Any, request: Request[Any]) -> Any:
    return call(request, _FETCH)
