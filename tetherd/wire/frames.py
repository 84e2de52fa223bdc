"""One frame of the RPC protocol: a fixed preamble, a MessagePack header, and tensor bytes as they are.

    offset  bytes  field
    0       4      magic ``TTHR``
    4       1      protocol version (1)
    5       1      kind: 1 call, 2 reply, 3 failure, 4 cancel
    6       2      zero
    8       4      header length, little-endian
    12      ...    header: [call id, method, remaining ms, request id, message]
    ...     ...    payloads: the data of every tensor of the message, in order, without padding

A tensor stands in the header as [name, datatype, shape, bytes], its data after it, so that data is copied once into the
frame and never looked at on the way. A decoder accepts nothing but a complete frame: what is left over is an error.
"""

import struct
from typing import Any, Final

import msgspec

from tetherd.errors import MALFORMED, BadFrame, Failure, Unimplemented
from tetherd.types import Buffer, Tensor

VERSION: Final = 1
CALL: Final = 1
REPLY: Final = 2
FAILURE: Final = 3
CANCEL: Final = 4
MAX_HEADER: Final = 8 * 1024 * 1024  # a catalog of some ten thousand versions
MAX_RANK: Final = 32

_MAGIC: Final = b"TTHR"
_PREAMBLE: Final = struct.Struct("<4sBBHI")


class Header(msgspec.Struct, array_like=True):
    """What stands before the message: ``call`` pairs a cancel with its call, ``remaining_ms`` carries the deadline."""

    call: int
    method: str = ""
    remaining_ms: int = 0
    request_id: str = ""
    message: msgspec.Raw = msgspec.Raw(b"\xc0")


class Frame(msgspec.Struct):
    """A frame taken apart, its message still undecoded."""

    kind: int
    header: Header
    payload: memoryview


class Codec:
    """Encodes and decodes frames. Holds state while it works: one per thread."""

    def __init__(self) -> None:
        self._gathered: list[Buffer] = []
        self._payload = memoryview(b"")
        self._at = 0
        self._messages = msgspec.msgpack.Encoder(enc_hook=self._lift)
        self._headers = msgspec.msgpack.Encoder()
        self._header = msgspec.msgpack.Decoder(Header)
        self._decoders: dict[type[Any], msgspec.msgpack.Decoder[Any]] = {}

    def encode(self, kind: int, header: Header, message: Any) -> list[Buffer]:
        """Return the frame as buffers to be sent one after the other."""
        gathered: list[Buffer] = []
        self._gathered = gathered
        header.message = msgspec.Raw(self._messages.encode(message))
        head = self._headers.encode(header)
        return [_PREAMBLE.pack(_MAGIC, VERSION, kind, 0, len(head)) + head, *gathered]

    def split(self, data: Buffer, apart: Buffer | None = None) -> Frame:
        """Take a frame apart; ``apart`` holds its payloads where they did not come behind it.

        Raises BadFrame, or Unimplemented for another protocol version.
        """
        if len(data) < _PREAMBLE.size:
            raise BadFrame(f"a frame of {len(data)} bytes is shorter than its preamble")
        magic, version, kind, zero, length = _PREAMBLE.unpack_from(data)
        if magic != _MAGIC:
            raise BadFrame("not a Tether frame")
        if version != VERSION:
            raise Unimplemented(f"protocol version {version} is not spoken here (this is version {VERSION})")
        if kind not in (CALL, REPLY, FAILURE, CANCEL) or zero or length > MAX_HEADER:
            raise BadFrame("the preamble holds an unknown kind or an impossible length")
        body = memoryview(data)[_PREAMBLE.size :]
        if length > len(body):
            raise BadFrame(f"the header should have {length} bytes, {len(body)} are there")
        try:
            header = self._header.decode(body[:length])
        except MALFORMED as error:
            raise BadFrame(f"the header is malformed: {error}") from None
        if apart is not None and length != len(body):
            raise BadFrame(f"{len(body) - length} bytes follow a header whose payloads are elsewhere")
        return Frame(kind, header, body[length:] if apart is None else memoryview(apart))

    def message(self, frame: Frame, kind: Any) -> Any:
        """Decode a frame's message as ``kind``. Raises BadFrame when it is anything else or bytes are left over."""
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.msgpack.Decoder(kind, dec_hook=self._drop)
        self._payload, self._at = frame.payload, 0
        try:
            message = decoder.decode(frame.header.message)
        except MALFORMED as error:
            raise BadFrame(f"the message is malformed: {error}") from None
        if self._at != len(frame.payload):
            raise BadFrame(f"{len(frame.payload) - self._at} bytes follow the last tensor")
        return message

    def failure(self, frame: Frame) -> Failure:
        """Decode the error that a FAILURE frame carries."""
        failure: Failure = self.message(frame, Failure)
        return failure

    def _lift(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            raise NotImplementedError(f"{type(value).__name__} has no place in a frame")
        self._gathered.append(value.data)
        return (value.name, value.datatype, value.shape, len(value.data))

    def _drop(self, kind: type, value: Any) -> Tensor:
        # Errors raised in a decode hook must be of msgspec's kind to carry the path of the field.
        if kind is not Tensor:
            raise NotImplementedError(kind)
        match value:
            case [str(name), str(datatype), list(shape), int(size)] if size >= 0 and _is_shape(shape):
                end = self._at + size
                if end > len(self._payload):
                    raise msgspec.ValidationError(f"tensor {name!r} should have {size} bytes, fewer are there")
                data = self._payload[self._at : end]
                self._at = end
                return Tensor(name, datatype, tuple(shape), data)
        raise msgspec.ValidationError("a tensor is [name, datatype, shape, bytes]")


def _is_shape(shape: list[Any]) -> bool:
    return len(shape) <= MAX_RANK and all(type(size) is int and size >= 0 for size in shape)
