"""Calls between roles of one process: by reference, with nothing encoded."""

from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from tetherd.errors import Unimplemented, Unreachable
from tetherd.ports import Context, Handler
from tetherd.types import Seconds
from tetherd.wire.messages import Request

R = TypeVar("R")


class LocalCaller:
    """Calls the handlers of this process's roles."""

    def __init__(self, routes: Mapping[type[Request[Any]], Handler]) -> None:
        self._routes = routes

    def call(self, request: Request[R], *, deadline: Seconds, request_id: str = "") -> Coroutine[Any, Any, R]:
        """Return the reply. Raises what the handler raises, and Unimplemented for a role that is not hosted here."""
        handler = self._routes.get(type(request))
        if handler is None:
            raise Unimplemented(f"method {request.METHOD!r} is not answered in this process")
        # The handler's own coroutine, not one around it: this is on the way of every request.
        return handler(request, Context(deadline, None, request_id))


class NobodyCaller:
    """Calls nobody: the role is on no host that is known."""

    def __init__(self, role: str, why: str, fix: str) -> None:
        self._role = role
        self._why = why
        self._fix = fix

    async def call(self, *_: Any, **__: Any) -> Any:
        """Raise Unreachable."""
        raise Unreachable(f"cannot reach the {self._role}: {self._why}", fix=self._fix)
