"""What nng does meanwhile: messages, and the operations under way that bring them from nng's threads to the event loop.

Works on contexts with asynchronous operations of its own instead of pynng's: those take a task and a wake-up of the
loop for each message, these one wake-up for all messages that arrived meanwhile.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from pynng import ffi, lib
from pynng._aio import _aio_map as pynng_callbacks

from tetherd.drivers.rpc.turns import too_large
from tetherd.errors import Unavailable
from tetherd.types import Buffer, Seconds

CLOSED: Final = lib.NNG_ECLOSED
CANCELED: Final = lib.NNG_ECANCELED
TIMED_OUT: Final = lib.NNG_ETIMEDOUT

_LENT: Final = 64 * 1024


def pack(buffers: Iterable[Buffer], limit: int) -> Any:
    """Return an nng message that holds the buffers one after the other. Raises TooLarge before anything is sent."""
    parts = [memoryview(buffer).cast("B") for buffer in buffers]
    size = sum(len(part) for part in parts)
    if size > limit:
        raise too_large(size, limit)
    pointer = ffi.new("nng_msg **")
    if lib.nng_msg_alloc(pointer, size):
        raise Unavailable(f"no memory for a message of {size} bytes")
    body = ffi.buffer(lib.nng_msg_body(pointer[0]), size)
    at = 0
    for part in parts:
        body[at : at + len(part)] = part
        at += len(part)
    return pointer[0]


def unpack(message: Any) -> tuple[Buffer, int]:
    """Return a received message's bytes and its pipe's id. The message is freed with the bytes."""
    size = lib.nng_msg_len(message)
    pipe = lib.nng_pipe_id(lib.nng_msg_get_pipe(message))
    if size < _LENT:
        data = bytes(ffi.buffer(lib.nng_msg_body(message), size))
        lib.nng_msg_free(message)
        return data, pipe
    # Large ones are not copied: nng's own memory serves until the last view of it is gone.
    body = ffi.gc(lib.nng_msg_body(message), lambda _: lib.nng_msg_free(message), size)
    return memoryview(ffi.buffer(body, size)).toreadonly(), pipe


def _open_context(socket: Any) -> Any:
    # Not pynng's Context: its finalizer raises when the socket was closed first.
    pointer = ffi.new("nng_ctx *")
    if lib.nng_ctx_open(pointer, socket.socket):
        raise Unavailable("nng has no memory for another context")
    return pointer[0]


class Completions:
    """Hands finished operations to the event loop, waking it once for all that finished meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._finished: deque[Operation] = deque()
        self._scheduled = False

    def put(self, operation: "Operation") -> None:
        """Called on nng's threads."""
        self._finished.append(operation)
        if not self._scheduled:
            self._scheduled = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        # Cleared first: what arrives from here on schedules a drain of its own.
        self._scheduled = False
        while self._finished:
            operation = self._finished.popleft()
            operation.then(lib.nng_aio_result(operation.aio))


class Operation:
    """One context and its two asynchronous operations: one receive at a time, one send at a time.

    ``then`` is called on the event loop with nng's result code when a receive finished. Sends call nobody: they finish
    at once unless the connection is busy, and asking afterwards (``sending``) is cheaper than being told.
    """

    __slots__ = ("_outbound", "aio", "completions", "context", "then")

    def __init__(self, socket: Any, completions: Completions, then: Callable[[int], None]) -> None:
        self.context = _open_context(socket)
        self.completions = completions
        self.then = then
        # The callback that pynng compiled in, which calls what it finds under the number. One made at run time needs
        # memory that is writable and executable at once, and a hardened system gives that to nobody.
        self.aio = _allocate(lib._async_complete, ffi.cast("void *", id(self)))
        self._outbound = _allocate(ffi.NULL, ffi.NULL)

    def receive(self, timeout: Seconds | None = None) -> None:
        """Start to receive. No time-out by default."""
        pynng_callbacks[id(self)] = self._finish
        lib.nng_aio_set_timeout(self.aio, -1 if timeout is None else max(1, int(timeout * 1000)))
        lib.nng_ctx_recv(self.context, self.aio)

    def _finish(self) -> None:
        # On a thread of nng, with the interpreter lock held. An exception here would only be printed.
        self.completions.put(self)

    def received(self) -> tuple[Buffer, int]:
        """Return what a successful receive brought: bytes and pipe id."""
        return unpack(lib.nng_aio_get_msg(self.aio))

    def send(self, message: Any, timeout: Seconds) -> None:
        """Start to send, waiting up to ``timeout`` for a connection with room. The message is nng's from here on."""
        lib.nng_aio_set_timeout(self._outbound, max(1, int(timeout * 1000)))
        lib.nng_aio_set_msg(self._outbound, message)
        lib.nng_ctx_send(self.context, self._outbound)

    def sending(self) -> bool:
        """Whether the last send is still under way; frees its message when it failed."""
        if lib.nng_aio_busy(self._outbound):
            return True
        if lib.nng_aio_result(self._outbound):
            message = lib.nng_aio_get_msg(self._outbound)
            if message != ffi.NULL:
                lib.nng_aio_set_msg(self._outbound, ffi.NULL)
                lib.nng_msg_free(message)
        return False

    def cancel(self) -> None:
        """Ask for an early end of the receive; ``then`` is still called, with CANCELED."""
        lib.nng_aio_cancel(self.aio)

    def close(self) -> None:
        """Free the context. Only once nothing is under way."""
        lib.nng_ctx_close(self.context)
        lib.nng_aio_free(self.aio)
        lib.nng_aio_free(self._outbound)


def _allocate(callback: Any, argument: Any) -> Any:
    pointer = ffi.new("nng_aio **")
    if lib.nng_aio_alloc(pointer, callback, argument):
        raise Unavailable("nng has no memory for another operation")
    return pointer[0]
