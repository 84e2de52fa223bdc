"""Host and Origin: web pages stay out, programs of this machine come in."""

from typing import Any

import pytest

from tetherd.errors import Forbidden, InvalidInput, TetherError
from tetherd.roles.gateway.guard import Guard


def check(host: str | None, origin: str | None = None, *, control: bool = False, allowed: tuple[str, ...] = ()) -> None:
    headers = [(b"host", host.encode())] if host is not None else []
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    Guard(allowed).check(dict(headers), {"headers": headers, "state": {"control": control}})


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:3000", "127.0.0.1", "127.0.0.1:3000", "127.1.2.3:1", "[::1]", "[::1]:3000"],
)
def test_loopback(host: str) -> None:
    check(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0:3000", "10.0.0.1", "localhost:x", "",
     "[::2]", "[::1", "::1", "169.254.169.254", "127.1", "2130706433"],
)  # fmt: skip
def test_foreign_hosts(host: str) -> None:
    with pytest.raises(Forbidden):
        check(host)


def test_missing_and_doubled_hosts() -> None:
    with pytest.raises(InvalidInput):
        check(None)
    twice = [(b"host", b"localhost"), (b"host", b"localhost")]
    with pytest.raises(InvalidInput):
        Guard(()).check(dict(twice), {"headers": twice})


def test_allowed_hosts_by_name_or_with_port() -> None:
    check("tether.lan:3000", allowed=("Tether.lan",))
    check("tether.lan:3000", allowed=("tether.lan:3000",))
    with pytest.raises(Forbidden):
        check("tether.lan:4000", allowed=("tether.lan:3000",))


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        ("http://localhost:3000", True),
        ("http://LOCALHOST:3000", True),
        ("http://localhost:8080", False),
        ("https://evil.example", False),
        ("null", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("control", [True, False])
def test_origins(origin: str, welcome: bool, control: bool) -> None:
    try:
        check("localhost:3000", origin, control=control)
    except TetherError:
        assert not welcome
    else:
        assert welcome


def test_any_host_does_on_the_control_socket() -> None:
    check("tetherd", control=True)
    check(None, control=True)


async def test_every_route_and_method_is_guarded(world: Any) -> None:
    for route in world.gateway.app._table.routes:
        path = route.path.replace("{", "").replace("}", "")
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            answer = await world.ask(route.method, path, headers=headers)
            assert answer.status_code == 403, (route.method, path)
            assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"])
async def test_other_methods_never_do_anything(world: Any, method: str) -> None:
    routes = world.gateway.app._table.routes
    for path in {route.path for route in routes}:
        methods = {route.method for route in routes if route.path == path}
        if method in methods or (method == "HEAD" and "GET" in methods):
            continue
        answer = await world.ask(method, path.replace("{", "").replace("}", ""))
        assert answer.status_code == 405, (method, path)
        assert "allow" in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]
