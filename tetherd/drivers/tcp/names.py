"""Looks names up on threads of their own: the system's resolver takes as long as it likes, and nothing can stop it.

Whoever waits for one does so for as long as it likes itself, and leaves. No pool that others need is held up by it, nor
the end of the process.
"""

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeAlias

from tetherd.types import Seconds

Place: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
"""As ``socket.getaddrinfo`` gives it."""

MOST: Final = 32
"""Names that are looked up at once."""

_LEAST: Final[Seconds] = 0.001  # no time at all would mean not to wait

_lock: Final = threading.Lock()
_under_way: dict[tuple[str, int], Future[list[Place]]] = {}


def look_up(host: str, port: int) -> Future[list[Place]]:
    """Return what a name will have turned out to stand for, at once for an IP address. Its result raises OSError."""
    found: Future[list[Place]] = Future()
    found.set_running_or_notify_cancel()  # nobody who leaves takes it from others
    try:
        found.set_result(_places(host, port, socket.AI_NUMERICHOST))
        return found
    except OSError:
        pass  # it is a name
    with _lock:
        known = _under_way.get((host, port))
        if known is not None:
            return known
        if len(_under_way) >= MOST:
            found.set_exception(OSError(f"{MOST} names are being looked up already, and none is answered for"))
            return found
        threading.Thread(target=_look_up, args=(host, port, found), name="names", daemon=True).start()
        _under_way[host, port] = found
    return found


def find(host: str, port: int, patience: Seconds) -> list[Place]:
    """Return what a name stands for. Blocks. Raises OSError."""
    try:
        return look_up(host, port).result(patience)
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, f"no name server answered within {patience:.0f} s") from None


async def resolve(host: str, port: int) -> list[Place]:
    """Return what a name stands for. Raises OSError."""
    return await asyncio.wrap_future(look_up(host, port))


def connect(host: str, port: int, patience: Seconds, segment: int = 0) -> socket.socket:
    """Return a connection to the first address of a host that takes one; none is tried for all the time there is.

    ``segment``: how many bytes a packet may carry at most, 0 = as many as fit. Blocks. Raises OSError.
    """
    until = time.monotonic() + patience
    failure = OSError("the name has no address")
    places = find(host, port, patience)
    for index, (family, kind, protocol, _, place) in enumerate(places):
        try:
            with contextlib.ExitStack() as stack:
                plain = stack.enter_context(socket.socket(family, kind, protocol))
                plain.settimeout(max(until - time.monotonic(), _LEAST) / (len(places) - index))
                if segment:
                    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
                plain.connect(place)
                stack.pop_all()
                return plain
        except OSError as error:
            failure = error
    raise failure


def _look_up(host: str, port: int, found: Future[list[Place]]) -> None:
    try:
        tell = partial(found.set_result, _places(host, port, 0))
    except OSError as error:
        tell = partial(found.set_exception, error)
    with _lock:
        del _under_way[host, port]
    tell()


def _places(host: str, port: int, flags: int) -> list[Place]:
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))
    except ValueError:
        raise OSError(f"{host[:80]!r} is no name") from None
