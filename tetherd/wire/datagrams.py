"""Datagrams of the distributed hash table: sealed with the network's key, bounded to what every path carries.

    offset  bytes  field
    0       4      network tag
    4       1      protocol version (1)
    5       2      epoch of the key, little-endian
    7       12     nonce
    19      ...    ChaCha20-Poly1305 of a MessagePack body, the first 7 bytes authenticated with it

A stranger can neither read nor make one, so a stranger gets no answer. Fields may be added at the end of a body with
defaults; none may be removed within a protocol version.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum
from hashlib import sha256
from hmac import digest
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from msgspec import Meta

from tetherd.errors import MALFORMED, BadFrame, Internal
from tetherd.wire.records import Kind
from tetherd.wire.signatures import MAX_SIGNATURE, PUBLIC_SIZE

VERSION: Final = 1
MAX_DATAGRAM: Final = 1200
"""Bytes that every path to a peer is taken to carry without fragments."""

NONCE: Final = 12
OVERHEAD: Final = 7 + NONCE + 16
SERVES: Final = 1
"""Flag: the sender can be dialled, answers requests and keeps records."""

PROVE: Final = 2
"""Flag of a request: prove in the answer that you hold the key of your id."""

SPEAKS4: Final = 4
SPEAKS6: Final = 8
"""Flags of a request: the sender reaches IPv4 or IPv6 addresses, and wants no others named; neither = all of them."""

Id: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Tag8: TypeAlias = Annotated[bytes, Meta(max_length=8)]
Whole: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]

_HEAD: Final = struct.Struct("<4sBH")


class Code(IntEnum):
    """What became of a request."""

    OK = 0
    UNVERIFIED = 1  # no token of ours for this address: ask again with the one in this answer
    SEQ_LOW = 2
    SEQ_REUSED = 3
    SEQ_FAR = 4
    CHANGED = 5  # not the sequence number that the writer expected
    EXPIRED = 6
    CLOCK = 7
    FULL = 8
    INVALID = 9
    STRANGER = 10


class Ping(msgspec.Struct, array_like=True, tag=0):
    """Are you there."""


class Seek(msgspec.Struct, array_like=True, tag=1):
    """Who is closest to ``target``, and what do you keep of ``kind`` under it (0 = only who is closest).

    ``after``: continue behind the record of this owner, without contacts; None = from the start, with them.
    """

    target: Id
    kind: Kind | Literal[0] = 0
    after: Annotated[bytes, Meta(max_length=32)] | None = None


class Put(msgspec.Struct, array_like=True, tag=2):
    """Keep this record. ``expected``: only if you have this sequence number of it (-1 = whatever you have)."""

    record: bytes
    expected: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1


class Ask(msgspec.Struct, array_like=True, tag=0):
    """A request. ``count`` grows with each of a sender's requests, ``sent`` is milliseconds since the epoch."""

    tid: Annotated[bytes, Meta(min_length=8, max_length=8)]
    sender: Id
    flags: int
    count: Whole
    sent: Whole
    token: Tag8
    body: Ping | Seek | Put
    pad: bytes = b""


class Proof(msgspec.Struct, array_like=True):
    """A public key and what its holder signed for whoever asked."""

    public: Annotated[bytes, Meta(max_length=PUBLIC_SIZE)]
    signature: Annotated[bytes, Meta(max_length=MAX_SIGNATURE)]


class Answer(msgspec.Struct, array_like=True, tag=1):
    """The answer to the request ``tid``.

    ``token`` is what the asker shows next time, ``seen`` the address it was heard from. ``near4`` and ``near6`` are
    contacts (see ``discovery/contacts.py``). ``digest`` stands for all that is kept of what was sought, ``more`` says
    that some of it did not fit. ``seq`` is the sequence number that a record was refused for.
    """

    tid: Annotated[bytes, Meta(min_length=8, max_length=8)]
    sender: Id
    flags: int
    token: Tag8
    seen: Annotated[bytes, Meta(max_length=18)]
    code: Annotated[int, Meta(ge=0, le=255)] = 0
    near4: bytes = b""
    near6: bytes = b""
    records: list[bytes] = []
    more: bool = False
    digest: Tag8 = b""
    seq: Whole = 0
    proof: Proof | None = None


class BadDatagram(BadFrame):
    """Not a datagram of this network; ``reason`` is one word for the counters."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Keyring:
    """The keys of one network by epoch: every one held opens, the newest seals."""

    def __init__(self, network: str, keys: Mapping[int, bytes]) -> None:
        if not keys or not all(0 <= epoch < 2**16 for epoch in keys):
            raise Internal("no network key, or an epoch beyond 16 bits")
        self.network = network
        self.tag = network_tag(network)
        self.epochs = sorted(keys, reverse=True)
        self._boxes = {
            _HEAD.pack(self.tag, VERSION, epoch): (epoch, ChaCha20Poly1305(_derive(key, network, epoch)))
            for epoch, key in keys.items()
        }
        self._heads = {epoch: (head, box) for head, (epoch, box) in self._boxes.items()}

    def seal(self, plain: bytes, nonce: bytes, epoch: int) -> bytes:
        """Return the datagram. Raises Internal when it would not fit; ``nonce`` must never have been used before."""
        head, box = self._heads.get(epoch) or self._heads[self.epochs[0]]
        if len(plain) > MAX_DATAGRAM - OVERHEAD:
            raise Internal(f"a datagram of {len(plain) + OVERHEAD} bytes is longer than {MAX_DATAGRAM}")
        return head + nonce + box.encrypt(nonce, plain, head)

    def open(self, data: bytes) -> tuple[int, bytes]:
        """Return epoch and body. Raises BadDatagram."""
        if not OVERHEAD <= len(data) <= MAX_DATAGRAM:
            raise BadDatagram("size", f"{len(data)} bytes are no datagram of ours")
        head = data[:7]
        found = self._boxes.get(head)
        if found is None:
            raise self._stranger(head)
        try:
            return found[0], found[1].decrypt(data[7:19], data[19:], head)
        except InvalidTag:
            raise BadDatagram("forged", "sealed with another key, or changed on the way") from None

    def _stranger(self, head: bytes) -> BadDatagram:
        tag, version, epoch = _HEAD.unpack(head)
        if tag != self.tag:
            return BadDatagram("network", "of another network")
        if version != VERSION:
            return BadDatagram("version", f"protocol version {version} is not spoken here")
        return BadDatagram("epoch", f"sealed with the network key of epoch {epoch}, which is not held here")


_decoder: Final = msgspec.msgpack.Decoder(Ask | Answer)
encode: Final = msgspec.msgpack.Encoder().encode


def decode(plain: bytes) -> Ask | Answer:
    """Decode the body of a datagram. Raises BadDatagram."""
    try:
        message: Ask | Answer = _decoder.decode(plain)
    except MALFORMED as error:
        raise BadDatagram("malformed", f"the body is malformed: {error}") from None
    return message


def padded(ask: Ask) -> bytes:
    """Encode a request at full length, so that whoever does not know its sender may answer at length."""
    room = MAX_DATAGRAM - OVERHEAD - len(encode(ask))
    ask.pad = bytes(max(0, room if room < 256 else room - 1))  # a length beyond 255 takes one more byte itself
    return encode(ask)


def network_tag(network: str) -> bytes:
    """Return the four bytes by which a network is told from others on sight. Says nothing about its keys."""
    return sha256(b"tether-network-tag-1|" + network.encode()).digest()[:4]


def hello(network: str, tid: bytes, asker: bytes, answerer: bytes) -> bytes:
    """Return what a node signs to prove to ``asker`` that it holds the key of its id."""
    return b"tether-dht-hello-1|%b|%b%b%b" % (network.encode(), tid, asker, answerer)


def _derive(key: bytes, network: str, epoch: int) -> bytes:
    return digest(key, b"tether-dht-datagram-1|%b|%d" % (network.encode(), epoch), "sha256")
