"""Health and status of a daemon, whatever its roles: served over HTTP by a gateway, else on the control socket only."""

from collections.abc import Callable
from typing import Any

import msgspec

from tetherd.ports import Caller, Clock
from tetherd.roles.gateway.catalog import View
from tetherd.roles.gateway.exchange import Answer, Exchange, document
from tetherd.roles.gateway.fleet import Fleet, look
from tetherd.roles.gateway.routing import Route
from tetherd.types import Seconds


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while a daemon runs. ``started`` is on the monotonic clock.

    ``network``: the name of the one that the host is in, if it is in one. ``barred``: why this host serves nobody
    whatever else is the case, empty if nothing keeps it from that.
    """

    version: str
    node: str
    roles: tuple[str, ...]
    pid: int
    address: str = ""
    started: Seconds = 0.0
    network: str = ""
    barred: str = ""


class Status:
    """Says whether a model request could be served now, and what this daemon sees.

    ``view`` gives the catalog of a daemon with the gateway role. A daemon without it has none: it is ready when its
    orchestrator answers, if it has one.
    """

    def __init__(
        self, *, facts: Facts, clock: Clock, orchestrator: Caller | None = None, view: Callable[[], View] | None = None
    ) -> None:
        self._facts = facts
        self._clock = clock
        self._orchestrator = orchestrator
        self._view = view
        self.manager_answers = False

    def routes(self) -> list[Route]:
        """Return the paths that every daemon serves."""
        return [
            Route("GET", "/health", self.ready, "Whether a model request could be served now", errors=(503,)),
            Route("GET", "/health/live", self.live, "Whether the process answers"),
            Route("GET", "/health/ready", self.ready, "Whether a model request could be served now", errors=(503,)),
            Route("GET", "/api/v1/status", self.show, "What this daemon is and sees"),
        ]

    async def live(self, _: Exchange) -> Answer:
        """Answer that the process lives: that it answers is the proof."""
        return document({"status": "live"})

    async def ready(self, _: Exchange) -> Answer:
        """Answer 200 if a model request could be served now, else 503 with the reason."""
        reason = await self.reason()
        if reason:
            return document({"status": "not ready", "reason": reason, "error": reason, "code": "UNAVAILABLE"}, 503)
        return document({"status": "ready"})

    async def reason(self) -> str:
        """Return why no model request could be served now; empty if one could."""
        return (await self._look())[0]

    async def _look(self) -> tuple[str, dict[str, Any]]:
        if self._facts.barred:
            return self._facts.barred, {}
        if self._orchestrator is None:
            return "", {}
        fleet = await look(self._orchestrator, self._clock, self._view().unloaded if self._view else ())
        seen = {"orchestrator": {"reachable": fleet.state is not None}, **fleet.document()}
        if self._view is None:
            return "" if fleet.error is None else f"the orchestrator does not answer: {fleet.error.message}", seen
        seen |= {"manager": {"reachable": self.manager_answers}, "models": len(self._view().models)}
        seen["troubled"] = _troubled(self._view(), fleet)
        if self._view().epoch < 0:
            return "the manager has not sent its catalog yet", seen
        if fleet.error is not None:
            return f"the orchestrator does not answer: {fleet.error.message}", seen
        return ("" if fleet.alive else "no worker is connected"), seen

    async def show(self, _: Exchange) -> Answer:
        """Answer with everything this daemon knows of itself and its peers."""
        reason, seen = await self._look()
        facts = self._facts
        return document(
            {
                "version": facts.version,
                "node": facts.node,
                "roles": facts.roles,
                "network": facts.network or None,
                "uptime_s": round(self._clock.monotonic() - facts.started, 3),
                "ready": not reason,
                "reason": reason,
                "pid": facts.pid,
                "address": facts.address,
                **seen,  # only what this daemon can know: one without the gateway role has no catalog
            }
        )


def _troubled(view: View, fleet: Fleet) -> list[dict[str, Any]]:
    """Return what one looks for when requests are refused: models that were unloaded, versions that failed to load."""
    found = []
    for name, model in sorted(view.models.items()):
        # Unloading is about the whole model: once is enough.
        entries = [model.current] if name in view.unloaded else [model.versions[n] for n in sorted(model.versions)]
        for version in [entry.version for entry in entries]:
            standing = fleet.standing(version)
            if standing.state in ("FAILED", "UNLOADED"):
                state, reason = standing.state, standing.reason
                found.append({"name": name, "version": version.number, "state": state, "reason": reason})
    return found
