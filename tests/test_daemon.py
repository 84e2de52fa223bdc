"""The composition root: any subset of roles starts, answers on its control socket, and ends when it is told to."""

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tetherd.config import load
from tetherd.config.schema import Config
from tetherd.daemon import serve
from tetherd.daemon.life import without_ipv6
from tetherd.errors import BadConfig, InUse


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: a socket's may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="td"))
    yield path
    shutil.rmtree(path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def config(home: Path, *roles: str, port: int = 0, **settings: str) -> Config:
    port = port or free_port()
    lines = [f"gateway.listen=127.0.0.1:{port}", "worker.spare=false"]
    for name in ("state", "cache", "runtime"):
        (home / name).mkdir(mode=0o700)
        lines.append(f"node.{name}_dir={home / name}")
    lines += [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    named: dict[tuple[str, ...], tuple[str, Any]] = {("node", "roles"): ("--role", list(roles))} if roles else {}
    return load.load(None, lines, named).config


@contextlib.asynccontextmanager
async def running(settings: Config) -> AsyncIterator[None]:
    ready = asyncio.Event()
    daemon = asyncio.create_task(serve(settings, ready=ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([daemon, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if daemon.done():
            await daemon
        yield
    finally:
        daemon.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await daemon


async def status(settings: Config, path: str = "/api/v1/status", body: bytes = b"") -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(str(settings.control.socket))
    method = "POST" if body else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    found: dict[str, Any] = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    return found


async def test_without_a_word_a_host_does_everything(home: Path) -> None:
    settings = config(home)
    async with running(settings):
        async with asyncio.timeout(5):
            while not (seen := await status(settings))["ready"]:  # noqa: ASYNC110  another process would ask too
                await asyncio.sleep(0.01)
        assert seen["roles"] == ["gateway", "orchestrator", "worker", "manager"]
        assert len(seen["workers"]) == 1
    assert not settings.control.socket.exists()


@pytest.mark.parametrize("role", ["orchestrator", "manager", "worker"])
async def test_one_role_alone_says_what_it_is(home: Path, role: str) -> None:
    absent = f"ipc://{home}/nobody.sock"
    peers = {"peers__orchestrator": absent, "peers__manager": absent} if role == "worker" else {}
    settings = config(home, role, **peers)
    async with running(settings):
        assert (await status(settings))["roles"] == [role]
        refused = await status(settings, "/api/v1/models")
        assert refused["code"] == "NOT_FOUND"
        assert "has no gateway role" in refused["error"]
        assert "--endpoint" in refused["fix"]


async def test_a_host_without_a_network_starts_though_it_is_no_relay_yet(home: Path) -> None:
    settings = config(home, "relay")
    async with running(settings):
        assert (await status(settings))["ready"]
        assert (await status(settings, "/api/v1/cluster"))["member"] is False


async def test_what_is_asked_after_a_network_is_founded_waits_until_every_port_listens(home: Path) -> None:
    ports = [free_port() for _ in range(4)]
    places = dict(zip(("listen", "enrol", "bulk", "udp"), (f"127.0.0.1:{port}" for port in ports), strict=True))
    settings = config(home, cluster__mdns="false", **{f"cluster__{key}": place for key, place in places.items()})
    async with running(settings):
        founded = await status(settings, "/api/v1/cluster/init", json.dumps({"name": "home"}).encode())
        assert founded["member"] is True
        assert (await status(settings, "/api/v1/cluster"))["network"] == founded["network"]
        for port in ports[:3]:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()


async def test_a_gateway_without_its_peers_is_alive_and_not_ready(home: Path) -> None:
    absent = f"ipc://{home}/nobody.sock"
    settings = config(home, "gateway", peers__orchestrator=absent, peers__manager=absent)
    async with running(settings):
        seen = await status(settings)
        assert not seen["ready"]
        assert seen["reason"]


async def test_an_address_in_use_ends_the_daemon_with_the_reason(home: Path) -> None:
    port = free_port()
    async with running(config(home, port=port)):
        (home / "other").mkdir()
        other = config(home / "other", port=port)
        with pytest.raises(BaseExceptionGroup) as caught:
            async with running(other):
                pass
        assert caught.group_contains(InUse, match=str(port))


async def test_a_file_where_the_socket_should_be_is_left_alone(home: Path) -> None:
    settings = config(home)
    precious = home / "runtime" / "rpc.sock"
    precious.write_text("data")
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(settings):
            pass
    assert caught.group_contains(BadConfig, match="not a socket")
    assert precious.read_text() == "data"


def test_without_ipv6_every_address_is_one_of_ipv4(home: Path) -> None:
    both = config(home, "gateway", "manager")
    assert both.cluster.listen == "[::]:7443"
    only = without_ipv6(both)
    listeners = (only.cluster.listen, only.cluster.enrol, only.cluster.bulk, only.cluster.udp, only.relay.listen)
    assert {listener.rpartition(":")[0] for listener in listeners} == {"0.0.0.0"}
    assert only.gateway == both.gateway
