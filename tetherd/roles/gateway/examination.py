"""Says why another node cannot be reached at an address: what ``tetherctl doctor peer`` asks.

Served on the control socket alone: it connects to wherever it is told.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tetherd.roles.gateway.exchange import Answer, Exchange, document
from tetherd.roles.gateway.routing import Route
from tetherd.types import Finding

_LOCAL: Final = "other nodes are examined"


class Examination:
    """The route. ``explain`` gives what is found at HOST:PORT, blocking, and raises NotInNetwork."""

    def __init__(self, explain: Callable[[str], Finding]) -> None:
        self._explain = explain

    def routes(self) -> list[Route]:
        """Return the paths."""
        summary = "Why a node cannot be reached at an address"
        return [Route("GET", "/api/v1/doctor/peer/{address}", self._examine, summary, errors=(403, 409))]

    async def _examine(self, exchange: Exchange) -> Answer:
        exchange.check_local(_LOCAL)
        address = exchange.params["address"]
        found: dict[str, Any] = msgspec.to_builtins(await asyncio.to_thread(self._explain, address))
        return document({"address": address, "reachable": found["cause"] == "none", **found})
