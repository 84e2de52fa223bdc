"""A server with a door to other hosts, and the ways to come to it: as a member, as a stranger, and with bare hands."""

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from certificates import home
from duties import running

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.rpc import reaching, sp
from tetherd.drivers.rpc.door import Door
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.drivers.rpc.server import Server
from tetherd.drivers.tcp import mutual
from tetherd.errors import PermissionDenied
from tetherd.policy.admission import Admission
from tetherd.ports import Context
from tetherd.types import Buffer, Credentials, Tensor
from tetherd.wire.catalog import Catalog, Chunk, GetBlob, PutBlob, Remove, WatchCatalog
from tetherd.wire.frames import CALL, Codec, Header
from tetherd.wire.messages import Done, FleetState, GetFleet, Report, Request

MAX: Final = 4 << 20
_FIRST: Final = 0x80000001


class Doorway:
    """A running server. ``roster`` may be changed while it runs."""

    def __init__(self, place: Path, **admission: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.address = f"{reaching.TLS}127.0.0.1:{self.port}"
        self.local = f"ipc://{place}/rpc.sock"
        self.credentials = home().node()
        self.roster: dict[str, tuple[Any, ...]] = {self.credentials.node: ("orchestrator", "manager")}
        self.admission = Admission(self.roster.get, **admission)
        self.door = Door(self.address, self.credentials, self.admission, SystemClock())
        self.contexts: list[Context] = []
        self.lost: list[int] = []
        self.parked = asyncio.Semaphore(0)
        self.removed = 0
        self.may_remove = asyncio.Event()
        self.may_remove.set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Doorway"]:
        routes: dict[Any, Any] = {
            GetFleet: self._fleet,
            GetBlob: self._blob,
            PutBlob: self._done,
            Remove: self._remove,
            Report: self._report,
            WatchCatalog: self._park,
        }
        server = Server(self.local, routes, clock=SystemClock(), max_message=MAX, lost=self.lost.append, door=self.door)
        async with running(server.run):
            yield self

    def member(self, *roles: str, **spoilt: Any) -> Credentials:
        """Return a new member's credentials."""
        made = home().node(**spoilt)
        self.roster[made.node] = roles or ("worker",)
        return made

    @contextlib.contextmanager
    def calling(self, credentials: Credentials, node: str = "") -> Iterator[RemoteCaller]:
        secret = reaching.Secret(credentials, node or self.credentials.node)
        caller = RemoteCaller(self.address, clock=SystemClock(), max_message=MAX, secret=secret)
        try:
            yield caller
        finally:
            caller.close()

    @property
    def heard(self) -> set[str]:
        """The nodes whose requests reached a handler."""
        return {context.node for context in self.contexts}

    async def _fleet(self, _: GetFleet, context: Context) -> FleetState:
        self.contexts.append(context)
        return FleetState([], [], [])

    async def _blob(self, request: GetBlob, context: Context) -> Chunk:
        self.contexts.append(context)
        return Chunk(request.length, Tensor("data", "UINT8", (request.length,), bytes(request.length)))

    async def _done(self, _: Request[Done], context: Context) -> Done:
        self.contexts.append(context)
        return Done()

    async def _remove(self, _: Remove, context: Context) -> Done:
        self.contexts.append(context)
        await self.may_remove.wait()
        self.removed += 1
        return Done()

    async def _report(self, request: Report, context: Context) -> Done:
        if request.worker == "theirs":
            raise PermissionDenied("this worker is on another node")
        return await self._done(request, context)

    async def _park(self, _: WatchCatalog, context: Context) -> Catalog:
        self.contexts.append(context)
        self.parked.release()
        await asyncio.get_running_loop().create_future()
        raise AssertionError


class Hands:
    """A connection of an enrolled node that speaks the protocol byte by byte. Blocking: for a thread."""

    def __init__(self, port: int, credentials: Credentials, hello: bytes = sp.ASKS) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 5)
        self.socket = mutual.dialling(credentials).wrap_socket(plain)
        self.socket.sendall(hello)
        self.welcome = self.read(8)

    def read(self, size: int) -> bytes:
        """Read that much, or what comes before the end."""
        data = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while len(data) < size and (part := self.socket.recv(size - len(data))):
                data += part
        return data

    def say(self, body: bytes, number: int = _FIRST) -> None:
        self.socket.sendall(struct.pack(">QI", len(body) + 4, number) + body)

    def ask(self, body: bytes) -> Any:
        """Send a frame and return the answering one; None when the connection ends instead."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self.say(body)
            return self.answer()
        return None

    def answer(self) -> Any:
        """Return the next answer; None when the connection ends before it is whole."""
        head = self.read(8)
        size = struct.unpack(">Q", head)[0] if len(head) == 8 else 0
        body = self.read(size)
        return Codec().split(body[4:]) if size and len(body) == size else None

    def close(self) -> None:
        self.socket.close()


async def attack(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do something blocking beside the server."""
    async with asyncio.timeout(55):
        return await asyncio.to_thread(work, *arguments)


def frame(request: Request[Any], call: int = 1, *, method: str | None = None, kind: int = CALL) -> bytes:
    header = Header(call, request.METHOD if method is None else method, 5000)
    return join(Codec().encode(kind, header, request))


def join(parts: list[Buffer]) -> bytes:
    return b"".join(bytes(part) for part in parts)


def code(answer: Any) -> str:
    """Return the code of the error that a frame carries."""
    return Codec().failure(answer).code


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def wait_closed(files: int) -> None:
    """Wait until no more than so many files are open: nng closes its own on threads of its own, later."""
    async with asyncio.timeout(10):
        while open_files() > files:  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(0.01)


async def is_well(doorway: Doorway) -> bool:
    """Tell whether a member is still served, and quickly."""
    with doorway.calling(doorway.member("worker")) as caller:
        await caller.call(GetFleet(), deadline=soon())
        began = time.monotonic()
        await caller.call(GetFleet(), deadline=soon())
        return time.monotonic() - began < 2


async def is_refused(doorway: Doorway, credentials: Credentials) -> bool:
    """Tell whether a node is told that it may not speak."""
    with doorway.calling(credentials) as caller:
        try:
            await caller.call(GetFleet(), deadline=soon())
        except PermissionDenied:
            return True
        return False
