"""Everything that decodes what strangers or other nodes send, fed with noise and with spoilt samples.

Nothing but the one documented class of error comes out, in little time and little memory. By default each decoder is
given some thousand inputs; ``./check -m slow -k fuzz`` gives each a hundred thousand. A failure prints input
and seed.
"""

import contextlib
import hashlib
import secrets
import time
import tracemalloc
from collections.abc import Callable
from random import Random
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from kinds import MESSAGES

from tetherd.drivers.identity import certificates, enrolment
from tetherd.drivers.models import heads, link
from tetherd.drivers.tcp.dialer import Refused
from tetherd.errors import (
    BadFrame,
    BadRange,
    BadRoster,
    InvalidInput,
    ModelInvalid,
    TooLarge,
    Unimplemented,
    WrongNetwork,
    WrongToken,
)
from tetherd.types import Signature, Tensor
from tetherd.wire import (
    catalog,
    chunks,
    datagrams,
    endpoint,
    manifest,
    messages,
    records,
    relay,
    roster,
    signing,
    tokens,
)
from tetherd.wire.enrolment import JoinRequest, RenewRequest
from tetherd.wire.frames import CALL, Codec, Header
from tetherd.wire.ranges import byte_range
from tetherd.wire.signatures import verify

MEMORY: Final = 8 * 2**20
SECONDS: Final = 1.0
LONGEST: Final = 64 * 1024
NOW: Final = 1_800_000_000.0
NETWORK: Final = "0123456789abcdef"

ROOT = certificates.make_root(NOW)
ISSUING = certificates.make_issuing(ROOT, NOW)
KEY = certificates.new_key()
SPKI = certificates.spki_of(KEY.public_key())
ADDRESS = "192.0.2.1:7443"


class Target(NamedTuple):
    """A decoder, what it may raise, and some of what it takes."""

    read: Callable[[bytes], object]
    raises: tuple[type[BaseException], ...]
    valid: list[bytes]


# --- frames of RPC ---------------------------------------------------------------------------------------------------


DIGEST = manifest.digest_of(b"x")


def frame(message: Any) -> bytes:
    return b"".join(bytes(part) for part in Codec().encode(CALL, Header(1, "m", 5, "r"), message))


def read_frame(data: bytes) -> None:
    codec = Codec()
    found = codec.split(data)
    for kind in MESSAGES:
        with contextlib.suppress(BadFrame):
            codec.message(found, kind)


FRAMES = [
    frame(messages.Infer("r", "m", 1, DIGEST, [Tensor("x", "FP32", (1, 2), bytes(8))])),
    frame(messages.Take("r", "w", "m", 1, DIGEST, 9, messages.Finished(1, [Tensor("y", "BYTES", (1,), b"abc")]))),
    frame(messages.Report("w", "n", 1, 1, 1, [messages.Loaded("r", "m", 1, DIGEST, "READY")])),
    frame(messages.Commands([messages.Load("m", 1, DIGEST)], [], [], [messages.Cancel("r", 1)], 7)),
    frame(catalog.PutBlob(DIGEST, 0, 3, Tensor("d", "UINT8", (3,), b"abc"))),
    frame(relay.OpenRelay("a" * 64, "bulk")),
]

# --- datagrams and records of the hash table -------------------------------------------------------------------------


class Pretender:
    """Signs so that whatever is made of a record has a fair chance to pass: the decoder is what is tested."""

    public = SPKI

    def sign(self, message: bytes) -> bytes:
        return hashlib.sha256(message).digest()


def believed(public: bytes, signature: bytes, message: bytes) -> bool:
    return len(signature) % 2 == 0


RING = datagrams.Keyring(NETWORK, {1: b"k" * 32})
RECORD = records.write(
    records.Body(records.ANNOUNCEMENT, bytes(32), SPKI, 5, 100, 60, endpoint.encode(endpoint.Endpoint((ADDRESS,)))),
    Pretender(),
    NETWORK,
).blob
VALUE = records.write(records.Body(records.IMMUTABLE, value=b"v"), Pretender(), NETWORK).blob
ASK = datagrams.Ask(bytes(8), bytes(32), 3, 1, 1, bytes(8), datagrams.Put(RECORD, 7))
ANSWER = datagrams.Answer(
    bytes(8), bytes(32), 1, bytes(8), bytes(6), 0, bytes(76), bytes(36), [RECORD, VALUE], True, bytes(8), 9,
    datagrams.Proof(SPKI, b"s" * 70),
)  # fmt: skip


def read_sealed(data: bytes) -> None:
    """Read a datagram, and its body as if whoever made it had the key."""
    with contextlib.suppress(datagrams.BadDatagram):
        RING.open(data)
    datagrams.decode(data)


def read_record(data: bytes) -> None:
    with contextlib.suppress(records.BadRecord):
        records.read(data, NETWORK, verify)
    records.read(data, NETWORK, believed)


# --- the roster ------------------------------------------------------------------------------------------------------

MEMBER = roster.Member(
    node="a" * 64, name="w-1", roles=("worker", "manager"), addresses=(ADDRESS,), labels={"zone": "é"}, joined=1.5
)
ROSTER = roster.Roster(
    network=NETWORK, name="home", epoch=3, issued=NOW, members=(MEMBER,), roots=(certificates.pem(ROOT.certificate),),
    keys=(), enrol=(ADDRESS,),
)  # fmt: skip
SIGNED = signing.sign(ROSTER, ISSUING.key, ISSUING.certificate)


def read_signed(data: bytes) -> None:
    """Verify a roster of which one part is replaced."""
    for part in ("body", "signature", "signer"):
        changed = msgspec.structs.replace(SIGNED, **{part: data})
        with contextlib.suppress(BadRoster):
            signing.verify(changed, [ROOT.certificate], NETWORK)
    signing.certificates([data.decode("latin-1")])


# --- joining ---------------------------------------------------------------------------------------------------------

TOKEN = tokens.encode(tokens.JoinToken(NETWORK, bytes(32), bytes(5), bytes(16), (ADDRESS, "[2001:db8::1]:7444")))
JOINING = msgspec.json.encode(
    JoinRequest(
        network=NETWORK, token=bytes(5), spki=SPKI, proof=bytes(32), signature=bytes(70), name="w", addresses=(ADDRESS,)
    )
)
RENEWING = msgspec.json.encode(RenewRequest(network=NETWORK, spki=SPKI, signature=bytes(70)))
POST = b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 2"


def read_join(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        enrolment._decode(data, RenewRequest)
    enrolment._decode(data, JoinRequest)


def read_post(data: bytes) -> None:
    enrolment._opening(data.decode("latin-1"))


# --- model files -----------------------------------------------------------------------------------------------------

BIG = manifest.digest_of(b"big")
CONFIG = manifest.encode_config(manifest.Config("onnx", Signature((), ())))
LISTED = chunks.spell([hashlib.sha256(bytes([each])).digest() for each in range(3)])
MANIFEST = manifest.build(
    "digits",
    [catalog.FileEntry("model.onnx", BIG, 2 * chunks.CHUNK + 1), catalog.FileEntry("d/x", DIGEST, 1)],
    CONFIG,
    {BIG: [hashlib.sha256(bytes([each])).digest() for each in range(3)]},
)
GET = b"GET /blobs/sha256:" + b"a" * 64 + b" HTTP/1.1\r\nHost: x\r\nRange: bytes=0-9\r\n\r\n"
ANSWERED = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/100\r\n"


def read_get(data: bytes) -> None:
    found = heads.parse(data)
    if b"range" in found.headers:
        byte_range(found.headers[b"range"].decode("latin-1"), 100)


def read_chunks(data: bytes) -> None:
    chunks.from_bits(data, 3)
    chunks.blob(BIG, 2 * chunks.CHUNK + 1, data.decode("latin-1"))


TARGETS: Final = {
    "frame": Target(read_frame, (BadFrame, Unimplemented), FRAMES),
    "datagram": Target(
        read_sealed,
        (datagrams.BadDatagram,),
        [datagrams.encode(ASK), datagrams.encode(ANSWER), RING.seal(datagrams.encode(ASK), bytes(12), 1)],
    ),
    "record": Target(read_record, (records.BadRecord,), [RECORD, VALUE]),
    "endpoint": Target(endpoint.decode, (InvalidInput,), [endpoint.encode(endpoint.Endpoint((ADDRESS,), {"bulk": 1}))]),
    "token": Target(lambda data: tokens.decode(data.decode("utf-8", "replace")), (WrongToken,), [TOKEN.encode()]),
    "roster": Target(roster.decode, (BadRoster,), [roster.encode(ROSTER)]),
    "signed roster": Target(
        read_signed, (BadRoster, WrongNetwork), [SIGNED.body, SIGNED.signature, SIGNED.signer, ROSTER.roots[0].encode()]
    ),
    "relay ticket": Target(relay.read_preface, (BadFrame,), [relay.preface(bytes(32))]),
    "join request": Target(read_join, (InvalidInput,), [JOINING, RENEWING]),
    "public key": Target(certificates.load_public, (InvalidInput,), [SPKI]),
    "enrolment head": Target(read_post, (InvalidInput, TooLarge), [POST]),
    "manifest": Target(manifest.parse, (ModelInvalid, InvalidInput), [MANIFEST]),
    "config": Target(manifest.decode_config, (ModelInvalid,), [CONFIG]),
    "chunk list": Target(read_chunks, (ModelInvalid,), [LISTED.encode()]),
    "blob request": Target(read_get, (InvalidInput, BadRange), [GET]),
    "blob answer": Target(link._parse, (Refused,), [ANSWERED]),
}

# --- what they are fed -----------------------------------------------------------------------------------------------

UNITS: Final = (
    b"[", b"{", b'{"a":', b'"x":[', b"\x91", b"\x81\xa1a", b"\xdd\xff\xff\xff\xff", b"\xc7\xff\x05", b"9", b"\xff",
    b"\0", b",", b".", b"=", b" ", b"\r\n", b"a: b\r\n", b"0-", b"\\u0000", b"\xed\xa0\x80", b"\x7f",
    b"\xcf" + b"\xff" * 8, b"-----BEGIN CERTIFICATE-----\n",
)  # fmt: skip
NESTS: Final = (b'"x":', b'"a":{"x":', b"\xa1x", b"\x81\xa1x", b"")


def piece(random: Random) -> bytes:
    """Return a few bytes of noise, or many of one kind: what makes parsers recurse, count or reserve."""
    if random.random() < 0.5:
        return random.randbytes(random.randrange(13))
    return random.choice(NESTS) + random.choice(UNITS) * int(10 ** random.uniform(0, 4))


def noise(random: Random) -> bytes:
    return b"".join(piece(random) for _ in range(random.randrange(4))) + random.randbytes(random.randrange(60))


def changed(random: Random, data: bytes) -> bytes:
    """Return the sample with one thing changed, left out, put in or said twice."""
    joints = [place + 1 for place, byte in enumerate(data) if byte in b"{[,:"]
    at = random.choice(joints) if joints and random.random() < 0.3 else random.randrange(len(data) + 1)
    end = min(len(data), at + random.randrange(40))
    return random.choice(
        [
            data[:at] + bytes(byte ^ 1 << random.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :],
            data[:at],
            data[:at] + data[end:],
            data[:at] + piece(random) + data[at:],
            data[:at] + piece(random) + data[end:],
            data[:end] + data[at:],
            data[at:] + data[:at],
            bytes((byte + 1) % 256 for byte in data[:1]) + data[1:] + piece(random),  # one element more than before
        ]
    )


def sample(random: Random, valid: list[bytes]) -> bytes:
    if random.random() < 0.2:
        return noise(random)
    data = random.choice(valid)
    for _ in range(random.randrange(1, 5)):
        data = changed(random, data)[:LONGEST]
    return data


def fuzz(name: str, count: int) -> None:
    target, seed = TARGETS[name], secrets.randbits(32)
    random = Random(seed)
    for _ in range(count):
        feed(target, sample(random, target.valid), seed)


def feed(target: Target, data: bytes, seed: int) -> None:
    began = time.process_time()
    try:
        target.read(data)
    except target.raises:
        pass
    except BaseException as error:
        raise AssertionError(f"{error!r} of {data!r}, seed {seed}") from error
    assert time.process_time() - began < SECONDS, (data, seed)


@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_brings_out_nothing_but_the_error_that_is_promised(name: str) -> None:
    tracemalloc.start()
    try:
        fuzz(name, 1000)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_for_long_brings_out_nothing_else_either(name: str) -> None:
    fuzz(name, 100_000)


@pytest.mark.parametrize("name", TARGETS)
def test_the_samples_that_are_spoilt_were_good(name: str) -> None:
    target = TARGETS[name]
    taken = 0
    for data in target.valid:
        with contextlib.suppress(*target.raises):
            target.read(data)
            taken += 1
    assert taken
