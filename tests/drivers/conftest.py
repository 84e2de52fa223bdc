"""Drivers are tested on the event loop that daemons run on: its transports are not asyncio's own."""

import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

# Test modules are not part of a package; what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))

from certificates import home
from sources import Hosts


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Hosts of one network that serve blobs, none yet."""
    found = Hosts(home())
    yield found
    found.stop()


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def deaf_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No name server answers for names that end in ``.deaf``."""
    real, over = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host: str, *args: Any, flags: int = 0, **options: Any) -> Any:
        if host.endswith(".deaf") and not flags & socket.AI_NUMERICHOST:
            over.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "nobody answered")
        return real(host, *args, flags=flags, **options)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield
        over.set()
    for thread in threading.enumerate():
        if thread.name == "names":
            thread.join(10)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tr") as name:
        yield Path(name)


@pytest.fixture(params=["ipc", "tcp"])
def address(request: pytest.FixtureRequest, place: Path) -> str:
    from desks import free_port

    return f"ipc://{place}/rpc.sock" if request.param == "ipc" else f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture
def ipc(place: Path) -> str:
    return f"ipc://{place}/rpc.sock"
