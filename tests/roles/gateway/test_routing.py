"""Finding routes, and what paths mean."""

from typing import Any

import pytest

from tetherd.errors import InvalidInput, MethodNotAllowed, ModelNotFound, RouteNotFound
from tetherd.roles.gateway.catalog import View
from tetherd.roles.gateway.routing import Route, Table


async def handler(_: Any) -> Any: ...


TABLE = Table(
    [
        Route("GET", "/m/stats", handler, "fixed"),
        Route("GET", "/m/{name}", handler, "one"),
        Route("PUT", "/m/{name}", handler, "put"),
        Route("HEAD", "/b/{name}", handler, "head"),
        Route("GET", "/b/{name}", handler, "get"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "summary", "params"),
    [
        ("GET", b"/m/stats", "fixed", {}),
        ("GET", b"/m/a", "one", {"name": "a"}),
        ("HEAD", b"/m/a", "one", {"name": "a"}),
        ("HEAD", b"/b/a", "head", {"name": "a"}),
        ("GET", b"/m/%2e%2e%2F", "one", {"name": "../"}),
        ("GET", b"/m/%252e", "one", {"name": "%2e"}),
        ("GET", b"/m/", "one", {"name": ""}),
        ("PUT", b"/m/stats", "put", {"name": "stats"}),
    ],
)
def test_finding(method: str, path: bytes, summary: str, params: dict[str, str]) -> None:
    route, found = TABLE.find(method, path)
    assert (route.summary, found) == (summary, params)


@pytest.mark.parametrize("path", [b"/", b"/m", b"/m/a/", b"//m/a", b"*"])
def test_nothing_there(path: bytes) -> None:
    with pytest.raises(RouteNotFound):
        TABLE.find("GET", path)


def test_another_method_and_another_charset() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        TABLE.find("POST", b"/m/a")
    assert caught.value.details["allow"] == ["GET", "HEAD", "PUT"]
    with pytest.raises(InvalidInput):
        TABLE.find("GET", b"/m/%ff")


def test_a_view_of_a_catalog(world: Any) -> None:
    view: View = world.gateway.view()
    assert view.model("double").current.version.number == 1
    with pytest.raises(ModelNotFound):
        view.model("nothing")
