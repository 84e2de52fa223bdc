"""nng's request protocol, byte for byte: its sockets can dial our listeners, and our callers its.

    each side first sends 00 53 50 00 <protocol, 2 bytes> 00 00     (protocol: 0x30 asks, 0x31 answers)
    between hosts, a message is   <length, 8 bytes big-endian> <request id, 4 bytes> <frame>
    within one                 01 <length> <request id> <frame>
    or, between ours,          02 <length> <request id> <payload length, 8 bytes> <frame without its payloads>

The last form leaves the payloads in shared memory (``arena``), whose file comes along with the first bytes.
Sources: nanomsg RFCs sp-tcp-mapping-01, sp-ipc-mapping-01 and sp-request-reply-01.
"""

import mmap
import struct
from collections.abc import Iterable
from typing import Final

from tetherd.drivers.rpc import arena
from tetherd.drivers.rpc.arena import Arena
from tetherd.drivers.rpc.turns import Message, too_large
from tetherd.types import Buffer

_HELLO: Final = struct.Struct(">4sHH")
ASKS: Final = _HELLO.pack(b"\0SP\0", 0x30, 0)
ANSWERS: Final = _HELLO.pack(b"\0SP\0", 0x31, 0)

LAST: Final = 0x8000_0000
"""Set in the id that was made by whoever asks; without it the message came through a device."""

_WHOLE: Final = 1
_APART: Final = 2
_HEAD: Final = struct.Struct(">BQI")
_BETWEEN: Final = struct.Struct(">QI")
_SIZE: Final = struct.Struct(">Q")
_ID: Final = 4
_READ: Final = 64 * 1024
_RECORD: Final = 16 * 1024  # TLS never brings more at once, and there may be thousands of connections


class Broken(Exception):
    """What came is not this protocol, or there is no more of it."""


class Framing:
    """Makes messages of frames, and cuts what arrives into messages, of up to ``limit`` bytes each.

    ``shared`` is where payloads are left and found, of messages that leave them there. ``between``: they go to another
    host, and come from there.
    """

    def __init__(self, limit: int, shared: Arena | None = None, *, between: bool = False) -> None:
        self.limit = limit
        self._shared = shared
        self._between = between
        self._head = (_BETWEEN if between else _HEAD).size
        self._most = _ID + limit + (0 if between else _SIZE.size)
        self._small = bytearray(_RECORD if between else _READ)
        self._room = memoryview(self._small)  # where the next bytes go: the small buffer, or that of one large message
        self._filled = 0
        self._large: bytearray | mmap.mmap | None = None

    def compose(self, request: int, buffers: Iterable[Buffer]) -> list[Buffer]:
        """Return the message for a frame as buffers to be sent one after the other. Raises TooLarge."""
        head, *payloads = [memoryview(buffer).cast("B") for buffer in buffers]
        size = sum(len(part) for part in payloads)
        if len(head) + size > self.limit:
            raise too_large(len(head) + size, self.limit)
        if self._between:
            return [_BETWEEN.pack(_ID + len(head) + size, request), head, *payloads]
        if self._shared is not None and arena.fits(size):
            self._shared.put(payloads)
            return [_HEAD.pack(_APART, _ID + _SIZE.size + len(head), request) + _SIZE.pack(size), head]
        return [_HEAD.pack(_WHOLE, _ID + len(head) + size, request), head, *payloads]

    def room(self) -> memoryview:
        """Return where the next bytes are to be received to."""
        return self._room[self._filled :]

    def received(self, size: int) -> None:
        """Note that ``size`` bytes were received to ``room``."""
        self._filled += size

    def next(self) -> Message | None:
        """Return the next complete message, if there is one. Raises Broken for what is none."""
        if self._filled < self._head:
            if self._between and self._filled >= _SIZE.size and _SIZE.unpack_from(self._room)[0] < _ID:
                raise Broken("a message without room for its id")  # nothing may follow that completes its head
            return None
        if self._between:
            kind, (length, request) = _WHOLE, _BETWEEN.unpack_from(self._room)
        else:
            kind, length, request = _HEAD.unpack_from(self._room)
        end = self._head - _ID + length
        if kind not in (_WHOLE, _APART) or not _ID <= length <= self._most or not request & LAST:
            raise Broken("not a message, or one that is too large")
        if self._filled < end:
            if end > len(self._room):
                self._grow(end)
            return None
        if self._large is None:
            frame: Buffer = bytes(self._room[self._head : end])
            self._room[: self._filled - end] = self._room[end : self._filled]
            self._filled -= end
        else:
            frame = self._room[self._head : end].toreadonly()
            self._large, self._room, self._filled = None, memoryview(self._small), 0
        return self._message(kind, request, frame)

    def _grow(self, size: int) -> None:
        # Exactly as long as the message, so that nothing of the next one gets behind it. From another host, memory that
        # is taken as it is filled: to say a length costs nothing.
        self._large = mmap.mmap(-1, size) if self._between and size > _READ else bytearray(size)
        self._large[: self._filled] = self._room[: self._filled]
        self._room = memoryview(self._large)

    def _message(self, kind: int, request: int, frame: Buffer) -> Message:
        if kind == _WHOLE:
            return Message(request, frame)
        if self._shared is None or len(frame) < _SIZE.size:
            raise Broken("payloads in memory that is not shared")
        (size,) = _SIZE.unpack_from(frame)
        if size > arena.HALF:
            raise Broken("payloads larger than the memory they are in")
        return Message(request, memoryview(frame)[_SIZE.size :], self._shared.got(size))
