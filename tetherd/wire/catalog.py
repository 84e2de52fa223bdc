"""Versions, aliases and blobs, and what gateways, workers and runners ask of the manager that keeps them."""

import msgspec

from tetherd.types import Digest, Signature, Tensor
from tetherd.wire.messages import Done, Message, Request


class FileEntry(Message):
    """One file of a version: path relative to the model's directory (``/`` as separator), digest and bytes."""

    path: str
    digest: Digest
    size: int


class Version(Message):
    """One immutable version. ``version`` is its manifest's digest; ``number`` counts from 1 within the model.

    ``config`` is its description's digest: with it the version names every blob that it needs.
    """

    model: str
    number: int
    version: Digest
    config: Digest
    format: str
    signature: Signature
    size: int
    created: float  # seconds since the epoch
    files: list[FileEntry]

    def blobs(self) -> set[Digest]:
        """Return every blob that it needs."""
        return {self.version, self.config, *(file.digest for file in self.files)}


class Alias(Message):
    """Where a name points now. ``epoch`` grows with every move; ``previous`` is where rollback would go."""

    model: str
    alias: str
    number: int
    epoch: int
    previous: int | None = None


class Catalog(Message):
    """Every version and alias at one moment; ``epoch`` grows with every change.

    ``unloaded``: models that were unloaded on purpose, for which no work is taken. ``spent``: the highest number that a
    model ever gave, where no version has it any more; it is not given again. ``origin``: the ledger that says it, which
    no host changes when it is somebody else; ``heritage``: other ledgers that went into this one, up to which epoch.
    """

    epoch: int
    versions: list[Version]
    aliases: list[Alias]
    unloaded: list[str] = msgspec.field(default_factory=list)
    spent: dict[str, int] = msgspec.field(default_factory=dict)
    origin: str = ""
    heritage: dict[str, int] = msgspec.field(default_factory=dict)


class WatchCatalog(Request[Catalog]):
    """Ask for the catalog; parked while it is still at ``epoch`` (a cursor, -1 = answer at once)."""

    METHOD = "catalog.watch"
    REPLY = Catalog
    ROLES = frozenset({"gateway", "orchestrator", "worker", "manager"})
    REPEATABLE = True
    epoch: int = -1


class BlobState(Message):
    """What the manager holds of a blob: ``offset`` bytes received of it, complete or not."""

    digest: Digest
    complete: bool
    offset: int


class StatBlob(Request[BlobState]):
    """Ask how much of a blob is stored; BlobNotFound is never raised, ``offset`` is 0 instead."""

    METHOD = "blob.stat"
    REPLY = BlobState
    ROLES = frozenset({"gateway"})
    REPEATABLE = True
    digest: Digest


class PutBlob(Request[BlobState]):
    """Append ``data`` (a UINT8 tensor, at most 1 MiB) to a blob's partial upload at ``offset``.

    The chunk that completes ``size`` bytes makes the manager check the digest and store the blob durably before it
    answers. Raises OffsetConflict, DigestMismatch, TooLarge, StorageFull.
    """

    METHOD = "blob.put"
    REPLY = BlobState
    ROLES = frozenset({"gateway"})
    digest: Digest
    offset: int
    size: int
    data: Tensor


class Chunk(Message):
    """Bytes of a blob (a UINT8 tensor) and the blob's whole size."""

    size: int
    data: Tensor


class GetBlob(Request[Chunk]):
    """Read at most ``length`` (at most 1 MiB) bytes of a blob from ``offset``. Raises BlobNotFound."""

    METHOD = "blob.get"
    REPLY = Chunk
    ROLES = frozenset({"gateway", "worker", "manager"})
    REPEATABLE = True
    digest: Digest
    offset: int
    length: int


class Commit(Request[Version]):
    """Make a version of blobs that are all stored: validate, write the manifest, record, move the alias.

    The same files again give the version that exists. Raises ModelInvalid, BlobNotFound, InvalidInput, Conflict.
    """

    METHOD = "model.commit"
    REPLY = Version
    ROLES = frozenset({"gateway"})
    REPEATABLE = True
    ONCE = True
    model: str
    files: list[FileEntry]
    alias: str = "latest"


class GetManifest(Request[Chunk]):
    """Read a version's manifest (canonical JSON, whose SHA-256 is the version's digest). Raises VersionNotFound."""

    METHOD = "model.manifest"
    REPLY = Chunk
    ROLES = frozenset({"gateway", "worker", "manager"})
    REPEATABLE = True
    version: Digest


class MoveAlias(Request[Alias]):
    """Point an alias at a version number; ``expected_epoch`` guards against a concurrent move (-1 = any)."""

    METHOD = "alias.move"
    REPLY = Alias
    ROLES = frozenset({"gateway"})
    ONCE = True
    model: str
    alias: str
    number: int
    expected_epoch: int = -1


class Rollback(Request[Alias]):
    """Point an alias at where it was before its last move."""

    METHOD = "alias.rollback"
    REPLY = Alias
    ROLES = frozenset({"gateway"})
    ONCE = True
    model: str
    alias: str


class SetServing(Request[Done]):
    """Say whether work is taken for a model; it stays so over restarts. Raises ModelNotFound."""

    METHOD = "model.serving"
    REPLY = Done
    ROLES = frozenset({"gateway"})
    REPEATABLE = True
    ONCE = True
    model: str
    serving: bool


class Remove(Request[Done]):
    """Remove a version (``number``) or the whole model (0). Raises Conflict while an alias needs the version."""

    METHOD = "model.remove"
    REPLY = Done
    ROLES = frozenset({"gateway"})
    ONCE = True
    model: str
    number: int = 0
