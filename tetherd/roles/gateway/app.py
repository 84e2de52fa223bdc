"""The gateway: puts its parts together, and keeps the catalog that requests are resolved with."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from tetherd.config.schema import Gateway as Settings
from tetherd.errors import DeadlineExceeded, TetherError
from tetherd.ports import Caller, Clock, Handler
from tetherd.roles.gateway import openapi
from tetherd.roles.gateway import routing as http
from tetherd.roles.gateway.blobs import Blobs
from tetherd.roles.gateway.catalog import Entry, View
from tetherd.roles.gateway.exchange import Answer, Exchange, document
from tetherd.roles.gateway.inference import Inference
from tetherd.roles.gateway.models import Models
from tetherd.roles.gateway.oip import INFER_ERRORS, OpenInference
from tetherd.roles.gateway.operations import Operations
from tetherd.roles.gateway.repository import Repository
from tetherd.roles.gateway.status import Facts, Status
from tetherd.roles.gateway.surface import Surface
from tetherd.types import Seconds, parse_reference
from tetherd.wire.catalog import Catalog, WatchCatalog
from tetherd.wire.messages import Request

_PARK: Final[Seconds] = 60.0
_BACKOFF: Final[tuple[Seconds, Seconds]] = (0.1, 5.0)
_BEHIND: Final[Seconds] = 1.0
"""A manager that does not have the catalog in force yet, it is a copy of another, is asked again after so long."""

_FRESH: Final[Seconds] = 10.0
_SHORTCUTS: Final = 4096

_log = logging.getLogger("tetherd.gateway")


class Gateway:
    """The role. ``app`` is the ASGI application; it answers from the start, and says what is missing.

    ``table`` holds its routes; the daemon adds its own.
    """

    def __init__(
        self,
        *,
        orchestrator: Caller,
        manager: Caller,
        clock: Clock,
        settings: Settings,
        facts: Facts,
        max_batch: int,
    ) -> None:
        self._manager = manager
        self._clock = clock
        self._view = View(None, Entry)
        self._shortcuts: dict[bytes, tuple[http.Handler, dict[str, str]]] = {}
        self._version = facts.version
        self._status = Status(facts=facts, clock=clock, orchestrator=orchestrator, view=self.view)
        self._inference = Inference(orchestrator=orchestrator, clock=clock, timeout=settings.request_timeout)
        operations = Operations(
            orchestrator=orchestrator, manager=manager, clock=clock, view=self.view, refresh=self._refresh
        )
        v2 = OpenInference(
            version=facts.version, operations=operations, status=self._status, max_batch=max_batch, infer=self._infer_v2
        )
        self.table = http.Table(
            [
                *self._status.routes(),
                *self._own_routes(),
                *Models(operations).routes(),
                *Blobs(operations).routes(),
                *v2.routes(),
                *Repository(operations).routes(),
            ]
        )
        self.app = Surface(table=self.table, settings=settings, clock=clock, shortcuts=self._shortcuts)

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Answer nothing to other roles: a gateway only calls."""
        return {}

    def view(self) -> View:
        """Return the catalog in force."""
        return self._view

    async def run(self, ready: Callable[[], None]) -> None:
        """Follow the manager's catalog until cancelled; while the manager is away the last one stays in force."""
        started, delay = False, _BACKOFF[0]
        while True:
            try:
                await self._follow()
                delay = _BACKOFF[0]
                wait = 0.0
            except TetherError as error:
                if self._status.manager_answers or not started:
                    _log.warning("the manager does not answer: %s", error.message)
                self._status.manager_answers = False
                wait, delay = delay, min(delay * 2, _BACKOFF[1])
            if not started:
                started = True
                ready()
            if wait:
                await asyncio.sleep(wait)

    async def _follow(self) -> None:
        """Wait for the next catalog and put it in force; from a manager that was away, take the one it has."""
        anew = not self._status.manager_answers
        watch = WatchCatalog(-1 if anew else self._view.epoch)
        try:
            catalog = await self._manager.call(watch, deadline=self._clock.monotonic() + _PARK)
        except DeadlineExceeded:
            return  # nothing changed meanwhile
        self._status.manager_answers = True
        self._install(catalog, anew=anew)
        if catalog.epoch < self._view.epoch:
            await asyncio.sleep(_BEHIND)

    async def _refresh(self) -> None:
        """Fetch the catalog now, so that who changed something sees the change."""
        self._install(await self._manager.call(WatchCatalog(), deadline=self._clock.monotonic() + _FRESH))

    def _install(self, catalog: Catalog, *, anew: bool = False) -> None:
        # Two calls may overtake each other; a manager that came back may have been restored to an earlier state.
        if catalog.epoch > self._view.epoch or anew:
            self._view = View(catalog, Entry)
            self._shortcuts.clear()

    def _own_routes(self) -> list[http.Route]:
        infer: tuple[str, dict[str, Any]] = ("application/json", {})
        return [
            http.Route("GET", "/openapi.json", self._openapi, "This document"),
            http.Route(
                "POST", "/api/v1/inference/{model}", self._infer, "Infer", {200: "Outputs"}, (*INFER_ERRORS, 504), infer
            ),
        ]

    async def _openapi(self, _: Exchange) -> Answer:
        return document(openapi.document(self.table, self._version))

    async def _infer(self, exchange: Exchange) -> Answer:
        entry = self._view.resolve(parse_reference(exchange.params["model"]))
        return await self._shortcut(exchange, entry, partial(self._inference.native, entry=entry))

    async def _infer_v2(self, exchange: Exchange, entry: Entry) -> Answer:
        return await self._shortcut(exchange, entry, partial(self._inference.v2, entry=entry))

    async def _shortcut(self, exchange: Exchange, entry: Entry, handler: http.Handler) -> Answer:
        """Remember what the path means until the next catalog, and answer. Raises ModelUnloaded."""
        self._view.check_serving(entry.version.model)
        if len(self._shortcuts) < _SHORTCUTS:
            self._shortcuts[exchange.scope["raw_path"]] = handler, exchange.params
        return await handler(exchange)
