"""What the distributed hash table keeps: announcements, mutable values and immutable values, each one self-proving.

A record travels as [body, signature] and is kept, handed on and verified as those very bytes: nothing is encoded again.
Its signature names the network, so that a record of one network means nothing in another.
"""

from hashlib import sha256
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from tetherd.errors import MALFORMED, BadFrame, TooLarge
from tetherd.wire.signatures import MAX_SIGNATURE, PUBLIC_SIZE, Signer, Verify, identify

Kind: TypeAlias = Literal[1, 2, 3]
ANNOUNCEMENT: Final = 1
MUTABLE: Final = 2
IMMUTABLE: Final = 3

MAX_VALUE: Final = 800
"""Bytes of a value, so that a record with its proof fits one datagram."""

MAX_NAME: Final = 32
MAX_TTL: Final = 7200
MAX_RECORD: Final = 1032
"""Bytes of an encoded record: the longest value, name, key and signature."""

_CONTEXT: Final = b"tether-dht-record-1"


class Body(msgspec.Struct, array_like=True, frozen=True):
    """What is signed. ``name`` is the topic of an announcement and the name of a mutable value.

    ``issued`` is in seconds since the epoch, ``ttl`` in seconds. ``gone`` takes back what the signer said before.
    """

    kind: Kind
    name: Annotated[bytes, Meta(max_length=MAX_NAME)] = b""
    public: Annotated[bytes, Meta(max_length=PUBLIC_SIZE)] = b""
    seq: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    issued: Annotated[int, Meta(ge=0, le=2**40)] = 0
    ttl: Annotated[int, Meta(ge=0, le=MAX_TTL)] = 0
    value: Annotated[bytes, Meta(max_length=MAX_VALUE)] = b""
    gone: bool = False


class _Signed(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    body: bytes
    signature: Annotated[bytes, Meta(max_length=MAX_SIGNATURE)]


class Record:
    """A record that was verified: its ``body``, the ``key`` it lies under, its ``owner`` (a node id; b"" = nobody)."""

    __slots__ = ("blob", "body", "key", "owner")

    def __init__(self, body: Body, key: bytes, owner: bytes, blob: bytes) -> None:
        self.body = body
        self.key = key
        self.owner = owner
        self.blob = blob

    @property
    def until(self) -> int:
        """Return when it expires, in seconds since the epoch."""
        return self.body.issued + self.body.ttl


class BadRecord(BadFrame):
    """Bytes that are not a record, or whose proof fails; ``reason`` is one word for the counters."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


_signed: Final = msgspec.msgpack.Decoder(_Signed)
_body: Final = msgspec.msgpack.Decoder(Body)
_encode: Final = msgspec.msgpack.Encoder().encode


def mutable_key(owner: bytes, name: bytes) -> bytes:
    """Return where the mutable value ``name`` of a node lies."""
    return sha256(b"tether-dht-mutable-1" + owner + name).digest()


def immutable_key(value: bytes) -> bytes:
    """Return where an immutable value lies: its SHA-256."""
    return sha256(value).digest()


def fits(name: bytes, value: bytes) -> None:
    """Raise TooLarge for what no record can hold."""
    if len(value) > MAX_VALUE or len(name) > MAX_NAME:
        raise TooLarge(
            f"a record of {len(value)} bytes named by {len(name)} does not fit one datagram",
            fix=f"keep values within {MAX_VALUE} bytes and names within {MAX_NAME}",
        )


def write(body: Body, signer: Signer, network: str) -> Record:
    """Sign and encode a record; an immutable one needs no signature. Raises TooLarge."""
    fits(body.name, body.value)
    data = _encode(body)
    if body.kind == IMMUTABLE:
        return Record(body, immutable_key(body.value), b"", _encode(_Signed(data, b"")))
    owner = identify(signer.public)
    blob = _encode(_Signed(data, signer.sign(_message(network, data))))
    return Record(body, _key(body, owner), owner, blob)


def read(blob: bytes, network: str, verify: Verify) -> Record:
    """Decode a record and prove it. Raises BadRecord for anything that is not exactly one."""
    if len(blob) > MAX_RECORD:
        raise BadRecord("oversize", f"a record of {len(blob)} bytes is longer than any can be")
    try:
        signed = _signed.decode(blob)
        body = _body.decode(signed.body)
    except MALFORMED as error:
        raise BadRecord("malformed", f"the record is malformed: {error}") from None
    if body.kind == IMMUTABLE:
        if body.public or body.name or signed.signature or body.gone:
            raise BadRecord("malformed", "an immutable value has neither name nor owner")
        return Record(body, immutable_key(body.value), b"", blob)
    if body.kind == ANNOUNCEMENT and len(body.name) != 32:
        raise BadRecord("malformed", "a topic has 32 bytes")
    if not verify(body.public, signed.signature, _message(network, signed.body)):
        raise BadRecord("signature", "the record was not signed by the key it carries for this network")
    owner = identify(body.public)
    return Record(body, _key(body, owner), owner, blob)


def _key(body: Body, owner: bytes) -> bytes:
    return body.name if body.kind == ANNOUNCEMENT else mutable_key(owner, body.name)


def _message(network: str, body: bytes) -> bytes:
    return b"%b|%b|%b" % (_CONTEXT, network.encode(), body)
