"""The table of paths: finds the handler of a request, and is what the OpenAPI document is made from."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

from tetherd.errors import InvalidInput, MethodNotAllowed, RouteNotFound
from tetherd.roles.gateway.exchange import Answer, Exchange

Handler: TypeAlias = Callable[[Exchange], Awaitable[Answer]]

DONE: Final[Mapping[int, str]] = MappingProxyType({200: "Done"})


class Route(msgspec.Struct, frozen=True):
    """One method of one path. ``{name}`` in the path stands for one segment.

    ``answers``: what each status below 400 means; ``errors``: the statuses from 400 on. ``body``: the media type and
    JSON schema of the request's body, if it has one.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, str] = DONE
    errors: tuple[int, ...] = ()
    body: tuple[str, dict[str, Any]] | None = None

    @property
    def segments(self) -> list[str]:
        """Return the path's segments, the names of parameters in braces."""
        return self.path.split("/")


class Table:
    """Routes, tried in order: a path with a fixed word stands before the one with a parameter in that place.

    ``absent`` and ``fix`` are what a request for another path is told.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        absent: str = "there is nothing at this path",
        fix: str = "/openapi.json lists the paths",
    ) -> None:
        self.routes: tuple[Route, ...] = ()
        self._absent = absent
        self._fix = fix
        self._by_length: dict[int, list[tuple[list[str], Route]]] = {}
        self.add(routes)

    def add(self, routes: Sequence[Route]) -> None:
        """Serve these too, after those that are there."""
        self.routes += tuple(routes)
        for route in routes:
            self._by_length.setdefault(len(route.segments), []).append((route.segments, route))

    def find(self, method: str, raw_path: bytes) -> tuple[Route, dict[str, str]]:
        """Return the route and its parameters. Raises RouteNotFound, MethodNotAllowed, InvalidInput.

        Segments are split first and percent-decoded then, once: an encoded slash never makes a segment.
        """
        segments = [_decode(segment) for segment in raw_path.split(b"/")]
        matching = [
            (pattern, route)
            for pattern, route in self._by_length.get(len(segments), ())
            if all(want == got or want[:1] == "{" for want, got in zip(pattern, segments, strict=True))
        ]
        if not matching:
            raise RouteNotFound(self._absent, fix=self._fix)
        found = {route.method: (pattern, route) for pattern, route in reversed(matching)}
        chosen = found.get(method) or (found.get("GET") if method == "HEAD" else None)
        if chosen is None:
            allowed = sorted(found.keys() | ({"HEAD"} if "GET" in found else set()))
            raise MethodNotAllowed(
                f"{method} is not served at this path", fix=f"use {' or '.join(allowed)}", details={"allow": allowed}
            )
        pattern, route = chosen
        return route, {want[1:-1]: got for want, got in zip(pattern, segments, strict=True) if want[:1] == "{"}


def _decode(segment: bytes) -> str:
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise InvalidInput("the path is not valid UTF-8") from None
