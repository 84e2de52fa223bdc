"""The ASGI application: guards, routes and answers every request, and lets no error out."""

import asyncio
import logging
import re
from itertools import count
from typing import Final

from tetherd.config.schema import Gateway as Settings
from tetherd.errors import Cancelled, Internal, ModelUnloaded, TetherError
from tetherd.ports import REQUEST_ID, Clock
from tetherd.roles.gateway import encoding
from tetherd.roles.gateway import exchange as http
from tetherd.roles.gateway.exchange import Answer, Exchange, Receive, Scope, Send
from tetherd.roles.gateway.guard import Guard
from tetherd.roles.gateway.oip import in_words
from tetherd.roles.gateway.routing import Handler, Table

_TOKEN: Final = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_log = logging.getLogger("tetherd.gateway")


class Surface:
    """Serves a table of routes.

    ``shortcuts`` maps paths of POST requests straight to a handler; who resolves a path may put it there, and empties
    it when what the path means changes.
    """

    def __init__(
        self,
        *,
        table: Table,
        settings: Settings,
        clock: Clock,
        shortcuts: dict[bytes, tuple[Handler, dict[str, str]]],
    ) -> None:
        self._table = table
        self._guard = Guard(settings.allowed_hosts)
        self._max_body = settings.max_body
        self._shortcuts = shortcuts
        self._prefix = f"{int(clock.wall() * 1e6):x}-"
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, self._max_body)
        exchange.request_id = self._request_id(exchange)
        REQUEST_ID.set(exchange.request_id)
        try:
            answer = await self._answer(exchange)
            if answer.outputs and (accepted := exchange.header(b"accept-encoding")):
                await encoding.pack(answer, accepted)
            await http.send(answer, exchange.request_id, send)
        except (asyncio.CancelledError, Cancelled):
            # The client is gone and its connection closed: nobody is left to tell, and the task ends here.
            return

    async def _answer(self, exchange: Exchange) -> Answer:
        try:
            self._guard.check(exchange.headers, exchange.scope)
            shortcut = self._shortcuts.get(exchange.scope["raw_path"])
            if shortcut is not None and exchange.scope["method"] == "POST":
                handler, exchange.params = shortcut
            else:
                route, exchange.params = self._table.find(exchange.scope["method"], exchange.scope["raw_path"])
                handler = route.handler
            return await handler(exchange)
        except Cancelled:
            raise
        except TetherError as error:
            return self._failure(error, exchange)
        except Exception:
            _log.exception("a request failed on a bug")
            return self._failure(Internal("the gateway failed on this request"), exchange)

    def _failure(self, error: TetherError, exchange: Exchange) -> Answer:
        status = error.status
        if exchange.scope["raw_path"].startswith(b"/v2"):
            error, status = in_words(error, exchange.params.get("model", ""))
        # A model that was unloaded on purpose is nobody's failure, however often it is asked for.
        level = logging.WARNING if status >= 500 and not isinstance(error, ModelUnloaded) else logging.INFO
        _log.log(level, "%s", error.message, extra={"code": error.code})
        return http.failure(error, status)

    def _request_id(self, exchange: Exchange) -> str:
        given = exchange.headers.get(b"x-request-id")
        if given is not None and _TOKEN.fullmatch(given):
            return given.decode()
        return f"{self._prefix}{next(self._numbers):x}"
