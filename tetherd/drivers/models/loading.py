"""From an assignment to a loaded engine: fetch, verify, load. Blocking; used where models run."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from tetherd.drivers.engines.onnx import OnnxEngine
from tetherd.drivers.models.origins import ManagerOrigin
from tetherd.drivers.models.unpack import Unpacked, prune, unpack
from tetherd.drivers.rpc.blocking import BlockingCaller
from tetherd.drivers.rpc.reaching import Secret
from tetherd.errors import Unavailable
from tetherd.types import Seconds
from tetherd.wire.assignments import Assignment
from tetherd.wire.chunks import BlobSource, Ways, said
from tetherd.wire.messages import Request

_FETCH: Final[Seconds] = 60.0
PATIENCE: Final[Seconds] = 20.0
"""How long all sources of a model may be away: as long as it takes to find out that one is elsewhere now."""

_AGAIN: Final[Seconds] = 0.5

_log = logging.getLogger("tetherd.runner")


def load(
    assignment: Assignment,
    ways: Callable[[BlobSource], Ways] = said,
    progress: Callable[[], None] = lambda: None,
    *,
    patience: Seconds = PATIENCE,
) -> OnnxEngine:
    """Return the engine of the assigned version.

    ``ways`` tells where each of its sources can be dialled at the moment; ``progress`` is called while files arrive
    from them. Raises what fetching and loading raise, Unavailable once no source has given anything for ``patience``.
    """
    cache = Path(assignment.cache_dir)
    found = _from_fleet(assignment, ways, progress, patience) if assignment.sources else _from_manager(assignment)
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


def _from_fleet(
    assignment: Assignment, ways: Callable[[BlobSource], Ways], progress: Callable[[], None], patience: Seconds
) -> Unpacked:
    # TLS and certificates are memory and time that a runner beside its manager does without.
    from tetherd.drivers.identity.keys import load as credentials
    from tetherd.drivers.models.fetch import BulkClient, FleetOrigin
    from tetherd.drivers.tcp.mutual import dialling

    identity, moved = Path(assignment.identity), time.monotonic()

    def arrived() -> None:
        nonlocal moved
        moved = time.monotonic()
        progress()

    client = BulkClient(lambda: dialling(credentials(identity)), ways=ways)
    origin = FleetOrigin(client, assignment.sources, arrived)
    while True:
        try:
            return unpack(assignment.version, Path(assignment.cache_dir), origin)
        except Unavailable as error:
            if time.monotonic() - moved > patience:
                raise
            _log.warning("no source gives the model at the moment", extra={"reason": error.message})
            time.sleep(_AGAIN)


def dial(assignment: Assignment, address: str, node: str) -> BlockingCaller:
    """Return a caller of the roles at an address: of this host, or of ``node`` if it names one."""
    if not node:
        return BlockingCaller(address, max_message=assignment.max_message)
    # The certificate machinery is memory that a runner beside its orchestrator does without.
    from tetherd.drivers.identity.keys import load as credentials

    identity = Path(assignment.identity)
    return BlockingCaller(
        address, max_message=assignment.max_message, secret=lambda: Secret(credentials(identity), node)
    )


def _ask(call: Any, request: Request[Any]) -> Any:
    return call(request, _FETCH)
