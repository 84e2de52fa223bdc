"""The HTTP server: listens on loopback and on the daemon's control socket, and keeps every client within its limits."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final, TypeAlias

from uvicorn.config import Config
from uvicorn.server import ServerState

from tetherd.config.schema import Control, Gateway
from tetherd.drivers.host.peers import check_peer, peer_uid
from tetherd.drivers.http.connection import Connection
from tetherd.errors import BadConfig, InUse
from tetherd.types import Seconds

Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""What ASGI calls an application."""

_BACKLOG: Final = 2048
_SWEEP: Final[Seconds] = 1.0


class HttpServer:
    """Serves one ASGI application on a TCP address, a control socket, or both.

    Requests that came over the control socket have ``scope["state"]["control"]``. ``uid`` tells which user connected
    there. Installs no signal handlers.
    """

    def __init__(
        self,
        *,
        app: Application,
        settings: Gateway,
        listen: str | None = None,
        control: Control | None = None,
        uid: Callable[[socket.socket], int] = peer_uid,
    ) -> None:
        self.settings = settings
        self.state = ServerState()
        self.now: Seconds = 0.0
        self.config = Config(
            app,
            interface="asgi3",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        self.config.load()
        self.addresses: list[str] = []
        self._listen = listen
        self._control = control
        self._uid = uid
        self._servers: list[asyncio.AbstractServer] = []
        self._inode = 0
        self._empty = asyncio.Event()
        self._stopped = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen, call ``ready``, and serve until stopped or cancelled. Raises InUse or BadConfig."""
        try:
            self._sweep()
            if self._listen is not None:
                await self._listen_tcp(self._listen)
            if self._control is not None:
                await self._listen_control(self._control)
            ready()
            while not self._stopped.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), _SWEEP)
                self._sweep()
        finally:
            self._close()
            for connection in list(self.state.connections):
                connection.transport.abort()

    async def stop(self, grace: Seconds) -> None:
        """Accept nothing more, let requests in flight finish for ``grace`` seconds, then cut what is left."""
        self._close()
        for connection in list(self.state.connections):
            connection.shutdown()
        if self.state.connections:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace)
        self._stopped.set()

    def left(self) -> None:
        """Called by a connection that is gone."""
        if not self.state.connections:
            self._empty.set()

    def _sweep(self) -> None:
        self.now = asyncio.get_running_loop().time()
        self.state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        for connection in list(self.state.connections):
            if isinstance(connection, Connection):
                connection.sweep()

    def _protocol(self, admit: Callable[[socket.socket], None], **marks: Any) -> Callable[[], Connection]:
        return lambda: Connection(self, marks, admit)

    async def _listen_tcp(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                self._protocol(lambda _: None, control=False), host.strip("[]"), int(port), backlog=_BACKLOG
            )
        except OSError as error:
            kind = InUse if error.errno == errno.EADDRINUSE else BadConfig
            raise kind(
                f"cannot listen on {address}: {error.strerror or error}", fix="stop what uses it, or set gateway.listen"
            ) from None
        self._servers.append(server)
        for listener in server.sockets:
            name = listener.getsockname()
            self.addresses.append(f"http://[{name[0]}]:{name[1]}" if ":" in name[0] else f"http://{name[0]}:{name[1]}")

    async def _listen_control(self, control: Control) -> None:
        path = control.socket
        _make_way(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            path.chmod(control.mode)  # before listen(): nobody can connect in between
        except OSError as error:
            listener.close()
            raise BadConfig(
                f"cannot listen on {path}: {error.strerror or error}", fix="set control.socket to a path you own"
            ) from None
        loop = asyncio.get_running_loop()
        protocol = self._protocol(lambda found: check_peer(self._uid(found), control.mode), control=True)
        self._servers.append(await loop.create_unix_server(protocol, sock=listener, backlog=_BACKLOG))
        self.addresses.append(f"unix://{path}")
        self._inode = path.stat().st_ino

    def _close(self) -> None:
        for server in self._servers:
            server.close()
        if self._servers and self._control is not None:
            _unlink(self._control.socket, self._inode)
        self._servers.clear()


def _make_way(path: Path) -> None:
    """Remove a dead socket of this user at ``path``. Raises BadConfig for anything else that is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadConfig(f"cannot listen on {path}: {error.strerror}", fix="set control.socket") from None
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise BadConfig(
            f"{path} exists and is not a socket of this user", fix="move it away, or set control.socket to another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise BadConfig(f"cannot tell who listens on {path}: {error}", fix="remove the socket") from None
    raise BadConfig(f"another daemon listens on {path}", fix="stop it, or set node.runtime_dir")


def _unlink(path: Path, inode: int) -> None:
    """Remove the socket, unless another daemon has put its own there since."""
    with contextlib.suppress(OSError):
        if path.lstat().st_ino == inode:
            path.unlink()
