"""Notifications: a real datagram socket receives them, and without one nothing happens."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tetherd.drivers.host.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = f"tether-test-{os.getpid()}-{request.node.name}"
    shown = str(tmp_path / "notify") if request.param == "path" else f"@{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(shown.replace("@", "\0", 1))
        receiver.settimeout(5)
        yield receiver, shown


def test_the_life_of_a_service(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.status("gateway,\nworker; 2 models")
    notifier.stopping(30.5)
    assert [receiver.recv(4096).decode() for _ in range(3)] == [
        "READY=1",
        "STATUS=gateway, worker; 2 models",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=30500000",
    ]


async def test_the_watchdog_is_fed_twice_per_period(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    receiver.setblocking(False)
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())}
    loop = asyncio.get_running_loop()
    feeding = asyncio.create_task(Notifier(environ).watchdog())
    started = loop.time()
    for _ in range(5):
        assert await loop.sock_recv(receiver, 100) == b"WATCHDOG=1"
    assert 0.15 <= loop.time() - started < 2
    feeding.cancel()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "relative", "WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
async def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready()
    notifier.status("x")
    notifier.stopping(1)
    await asyncio.wait_for(notifier.watchdog(), 1)
