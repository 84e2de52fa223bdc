"""What the orchestrator sees, asked for when somebody wants to know, and what it means for one version."""

from collections.abc import Collection
from typing import Any, Final, Literal, TypeAlias

import msgspec

from tetherd.errors import TetherError
from tetherd.ports import Caller, Clock
from tetherd.types import Seconds
from tetherd.wire.catalog import Version
from tetherd.wire.messages import FleetState, GetFleet, Loaded

_PATIENCE: Final[Seconds] = 2.0

State: TypeAlias = Literal["READY", "LOADING", "UNLOADING", "FAILED", "UNLOADED", "IDLE", "UNAVAILABLE"]
"""IDLE: not loaded, the first request loads it. UNLOADED: on purpose. UNAVAILABLE: no worker to load it."""


class Standing(msgspec.Struct, frozen=True):
    """How one version stands: its state, why, and its runners."""

    state: State
    reason: str
    runners: list[Loaded]

    @property
    def serves(self) -> bool:
        """Return whether a request for it would be taken now."""
        return self.state in ("READY", "LOADING", "IDLE")


class Fleet:
    """The orchestrator's view at one moment; ``error`` instead where it does not answer.

    ``unloaded``: the models that take no work, as the catalog has them.
    """

    def __init__(
        self, state: FleetState | None, error: TetherError | None = None, unloaded: Collection[str] = ()
    ) -> None:
        self.state = state
        self.error = error
        self.unloaded = unloaded

    @property
    def alive(self) -> bool:
        """Return whether there is a worker that takes work."""
        return self.state is not None and any(not worker.stopping for worker in self.state.workers)

    def standing(self, version: Version) -> Standing:
        """Return how a version stands."""
        if self.state is None:
            return Standing("UNAVAILABLE", "the orchestrator does not answer", [])
        runners = [
            loaded
            for worker in self.state.workers
            for loaded in worker.runners
            if loaded.version == version.version and loaded.model == version.model
        ]
        states: dict[str, Loaded] = {loaded.state: loaded for loaded in reversed(runners)}
        if version.model in self.unloaded:
            return Standing("UNLOADED", "unloaded", runners)
        if "READY" in states:
            return Standing("READY", "", runners)
        if "LOADING" in states:
            return Standing("LOADING", "", runners)
        if "FAILED" in states:
            return Standing("FAILED", states["FAILED"].reason, runners)
        if "UNLOADING" in states:
            return Standing("UNLOADING", "", runners)
        if not self.alive:
            return Standing("UNAVAILABLE", "no worker is connected", runners)
        return Standing("IDLE", "the first request loads it", runners)

    def document(self) -> dict[str, Any]:
        """Return the workers and queues, as the status document shows them."""
        if self.state is None:
            return {"workers": [], "queues": []}
        return {
            "workers": [
                msgspec.structs.asdict(worker) | {"runners": runners(worker.runners)} for worker in self.state.workers
            ],
            "queues": [msgspec.structs.asdict(queue) for queue in self.state.queues],
        }


def runners(loaded: list[Loaded]) -> list[dict[str, Any]]:
    """Return runners as documents show them."""
    return [msgspec.structs.asdict(runner) for runner in loaded]


async def look(orchestrator: Caller, clock: Clock, unloaded: Collection[str] = ()) -> Fleet:
    """Ask the orchestrator what it sees."""
    try:
        state = await orchestrator.call(GetFleet(), deadline=clock.monotonic() + _PATIENCE)
    except TetherError as error:
        return Fleet(None, error, unloaded)
    return Fleet(state, None, unloaded)
