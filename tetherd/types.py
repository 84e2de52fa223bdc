"""Vocabulary: the values every layer speaks of. Frozen, and without behaviour beyond their own parsing."""

import re
from typing import Final, Literal, NewType, TypeAlias

import msgspec

from tetherd.errors import InvalidInput

Seconds: TypeAlias = float
Buffer: TypeAlias = bytes | bytearray | memoryview
RoleName: TypeAlias = Literal["gateway", "orchestrator", "worker", "manager", "relay"]
Isolation: TypeAlias = Literal["process", "thread"]

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hexadecimal digits."""

DEFAULT_ROLES: Final[tuple[RoleName, ...]] = ("gateway", "orchestrator", "worker", "manager")
"""What a host does that was told nothing: everything that needs no other host."""

ROLES: Final[tuple[RoleName, ...]] = (*DEFAULT_ROLES, "relay")
LATEST: Final = "latest"
"""The alias an unqualified model name stands for."""

RESERVED_NAMES: Final = frozenset({"stats"})
"""Words the Open Inference Protocol uses where a model name could stand (``/v2/models/stats``)."""

_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_NODE_ID = re.compile(r"[0-9a-f]{64}")


class Datatype(msgspec.Struct, frozen=True):
    """One Open Inference datatype: its wire name, bytes per element (0 = variable) and NumPy type string."""

    name: str
    size: int
    numpy: str


DATATYPES: Final[dict[str, Datatype]] = {
    kind.name: kind
    for kind in (
        Datatype("BOOL", 1, "|b1"),
        Datatype("UINT8", 1, "|u1"),
        Datatype("UINT16", 2, "<u2"),
        Datatype("UINT32", 4, "<u4"),
        Datatype("UINT64", 8, "<u8"),
        Datatype("INT8", 1, "|i1"),
        Datatype("INT16", 2, "<i2"),
        Datatype("INT32", 4, "<i4"),
        Datatype("INT64", 8, "<i8"),
        Datatype("FP16", 2, "<f2"),
        Datatype("BF16", 2, "<u2"),  # NumPy has no bfloat16: its bits travel as 16-bit words
        Datatype("FP32", 4, "<f4"),
        Datatype("FP64", 8, "<f8"),
        Datatype("BYTES", 0, "|O"),
    )
}


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input or output of a model. ``shape`` holds -1 where a dimension is free."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


class Signature(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model takes and gives, read from its graph.

    ``batchable``: the first dimension of every input and output is free and means rows, so rows of several
    requests may run together. ``labels``: names of the classes of the first output, from ``labels.txt``.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool = False
    labels: tuple[str, ...] = ()


class Tensor:
    """One tensor in flight: ``data`` holds little-endian, row-major elements.

    A BYTES element is a 32-bit length and that many bytes, as the Open Inference Protocol writes it, so that a
    tensor passes from socket to runner without being encoded again. A plain class and no Struct, so that the frame
    codec is asked about it and can keep ``data`` out of the header.
    """

    __slots__ = ("data", "datatype", "name", "shape")

    def __init__(self, name: str, datatype: str, shape: tuple[int, ...], data: Buffer) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self.data = data

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensor):
            return NotImplemented
        mine, theirs = (self.name, self.datatype, self.shape), (other.name, other.datatype, other.shape)
        return mine == theirs and bytes(self.data) == bytes(other.data)

    __hash__ = None  # type: ignore[assignment]  # its data may be a mutable buffer

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.datatype!r}, {self.shape!r}, {len(self.data)} bytes)"


class Reference(msgspec.Struct, frozen=True):
    """A model as a user names it: ``digits``, ``digits@3`` (a version number) or ``digits@stable`` (an alias)."""

    model: str
    version: int | None = None
    alias: str = LATEST

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.model}@{self.version}"
        return self.model if self.alias == LATEST else f"{self.model}@{self.alias}"


class Credentials(msgspec.Struct, frozen=True):
    """What a node shows its peers and judges them by, as PEM text.

    ``node`` is its id; ``chain_pem`` its certificate, then the issuing one; ``roots_pem`` every root it trusts.
    """

    node: str
    key_pem: str
    chain_pem: str
    roots_pem: str

    def __repr__(self) -> str:
        return f"Credentials(node={self.node!r})"  # whatever is printed or logged shows no key


Cause: TypeAlias = Literal[
    "none", "address", "refused", "unreachable", "silent", "no-tls", "old-tls", "closed", "own-certificate",
    "other-network", "expired", "not-yet-valid", "wrong-node", "not-a-member", "turned-away",
    "version", "mtu",
]  # fmt: skip


class Finding(msgspec.Struct, frozen=True):
    """Why a node cannot be reached at an address; cause ``none``: it can. ``node``: who is there, if known."""

    cause: Cause
    message: str
    fix: str = ""
    node: str = ""


def is_node_id(text: str) -> bool:
    """Tell whether ``text`` is 64 lower-case hexadecimal digits, as the id of a node is."""
    return _NODE_ID.fullmatch(text) is not None


def parse_model(text: str) -> str:
    """Return ``text`` if it can name a model; raise InvalidInput otherwise."""
    if not _MODEL.fullmatch(text) or text in RESERVED_NAMES:
        raise InvalidInput(
            f"{text[:80]!r} is not a model name",
            fix="use 1 to 64 of a-z 0-9 . _ - starting with a letter or digit ('stats' is taken)",
        )
    return text


def parse_alias(text: str) -> str:
    """Return ``text`` if it can name an alias; raise InvalidInput otherwise."""
    if not _ALIAS.fullmatch(text):
        raise InvalidInput(f"{text[:80]!r} is not an alias", fix="use 1 to 32 of a-z 0-9 . _ - starting with a letter")
    return text


def parse_digest(text: str) -> Digest:
    """Return ``text`` if it is a SHA-256 digest in canonical form; raise InvalidInput otherwise."""
    if not _DIGEST.fullmatch(text):
        raise InvalidInput(f"{text[:80]!r} is not a digest", fix="use sha256: and 64 lower-case hexadecimal digits")
    return Digest(text)


def parse_node(text: str) -> str:
    """Return ``text`` if it is a node's id, the SHA-256 of its public key; raise InvalidInput otherwise."""
    if not is_node_id(text):
        raise InvalidInput(f"{text[:80]!r} is not a node id", fix="a node id has 64 lower-case hexadecimal digits")
    return text


def parse_host_name(text: str) -> str:
    """Return ``text`` if a node or a network can be called so; raise InvalidInput otherwise."""
    if not _HOST_NAME.fullmatch(text):
        raise InvalidInput(f"{text[:80]!r} is not a name", fix="use 1 to 64 letters, digits and . _ -")
    return text


def digest_hex(digest: str) -> str:
    """Return a digest's 64 hexadecimal digits, which are safe in a path; raise InvalidInput if it is none."""
    return parse_digest(digest).removeprefix("sha256:")


def parse_reference(text: str) -> Reference:
    """Parse ``model``, ``model@version`` or ``model@alias``; raise InvalidInput otherwise."""
    model, at, rest = text.partition("@")
    parse_model(model)
    if not at:
        return Reference(model)
    if rest.isascii() and rest.isdigit() and len(rest) <= 9:
        return Reference(model, version=int(rest))
    return Reference(model, alias=parse_alias(rest))
