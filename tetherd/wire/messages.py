"""Every request and reply that roles exchange, whether by reference in one process or over nng between two.

A request class names its method (``METHOD``) and its reply type (the class argument), so that a caller is typed end to
end: ``await caller.call(Infer(...))`` returns ``Inferred``. Fields may be added with defaults; none may be removed
within a protocol version.
"""

from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import msgspec

from tetherd.errors import Failure
from tetherd.types import ROLES, Digest, RoleName, Signature, Tensor
from tetherd.wire.roster import SignedRoster

Reply = TypeVar("Reply")


class Message(msgspec.Struct, array_like=True):
    """Base of all messages: encoded as arrays, fields by position."""


class Request(Message, Generic[Reply]):
    """A message that is answered by ``Reply``.

    A node of another host may send it if it has one of ``ROLES``, so by default none may; the same host always may.
    ``REPEATABLE``: a caller whose connection was lost may send it again, twice done is as good as once.
    ``ONCE``: twice is not as good later on, when others have changed what it changes; so whoever answers another host
    gives the same call of a node the same answer for ten minutes, and does nothing.
    """

    METHOD: ClassVar[str] = ""
    REPLY: ClassVar[Any] = None
    ROLES: ClassVar[frozenset[RoleName]] = frozenset()
    REPEATABLE: ClassVar[bool] = False
    ONCE: ClassVar[bool] = False


class Done(Message):
    """The reply to a request that has nothing to tell but that it is done."""


# --- inference: gateway to orchestrator ------------------------------------------------------------------------------


class Inferred(Message):
    """The answer to Infer, with where the time went (nanoseconds, monotonic, each measured in one process)."""

    outputs: list[Tensor]
    runner: str = ""
    batch_rows: int = 1
    attempts: int = 1
    queue_ns: int = 0
    infer_ns: int = 0


class Infer(Request[Inferred]):
    """Run one request on a model version.

    ``inputs`` are in the order of the model's signature. ``rows`` is the size of the first dimension of a batchable
    model's inputs, else 0. ``priority``: 0 = default, 1 = first, higher = later.
    """

    METHOD = "infer"
    REPLY = Inferred
    ROLES = frozenset({"gateway"})
    REPEATABLE = True
    request_id: str
    model: str
    number: int
    version: Digest
    inputs: list[Tensor]
    rows: int = 0
    priority: int = 0


# --- work: runner to orchestrator ------------------------------------------------------------------------------------


class Finished(Message):
    """The outcome of one batch: its outputs, rows of all its requests together, or one failure for all."""

    batch: int
    outputs: list[Tensor] = []
    failure: Failure | None = None
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0


class Batch(Message):
    """Work handed to a runner. ``id`` 0 means: nothing now, offer again.

    Each input holds the rows of all requests, one after the other. ``budget_ms`` is how long the execution may take
    before the orchestrator gives the batch to another runner.
    """

    id: int
    inputs: list[Tensor] = []
    request_ids: list[str] = []
    budget_ms: int = 0


class Take(Request[Batch]):
    """A runner's standing offer to execute a batch of a version, parked until there is work.

    ``finished`` is the result of the batch this slot was handed before. ``last``: it is all the runner has to say, the
    answer is an empty batch at once. ``held``: the batches that reached the runner and that it has not delivered.
    """

    METHOD = "take"
    REPLY = Batch
    ROLES = frozenset({"worker"})
    runner: str
    worker: str
    model: str
    number: int
    version: Digest
    max_rows: int
    finished: Finished | None = None
    last: bool = False
    held: list[int] = []


# --- placement: worker to orchestrator -------------------------------------------------------------------------------

RunnerState: TypeAlias = Literal["LOADING", "READY", "FAILED", "UNLOADING"]


class Loaded(Message):
    """One model version on one worker. ``reason`` says why it is FAILED; ``bytes`` is its resident memory."""

    runner: str
    model: str
    number: int
    version: Digest
    state: RunnerState
    reason: str = ""
    bytes: int = 0
    isolation: str = "process"
    since: float = 0.0  # seconds since the epoch
    pid: int = 0


class Load(Message):
    """Command to a worker: have this version loaded. ``fresh``: also when it failed a moment ago."""

    model: str
    number: int
    version: Digest
    pinned: bool = False
    fresh: bool = False


class Unload(Message):
    """Command to a worker: stop every runner of this version."""

    version: Digest


class Recycle(Message):
    """Command to a worker: this runner let its lease run out; kill it and start another.

    Its successor has a name of its own, so a command that comes late ends nothing else.
    """

    runner: str


class Cancel(Message):
    """Command to a worker: nobody waits for this batch of a runner any more; end its execution."""

    runner: str
    batch: int


class Commands(Message):
    """What a worker is to do, in order. Empty: nothing now, ask again.

    They come again, under the same ``number``, until the worker says that it received it; 0 where nothing is to do.
    """

    load: list[Load] = []
    unload: list[Unload] = []
    recycle: list[Recycle] = []
    cancel: list[Cancel] = []
    number: int = 0


class Report(Request[Done]):
    """A worker's state, sent on every change and as a heartbeat (each second)."""

    METHOD = "worker.report"
    REPLY = Done
    ROLES = frozenset({"worker"})
    REPEATABLE = True
    worker: str
    node: str
    memory_limit: int
    memory_used: int
    max_concurrency: int
    runners: list[Loaded] = []
    stopping: bool = False


class NextCommands(Request[Commands]):
    """A worker asks for its commands; parked until there are some. ``received``: the number of the last it acted on."""

    METHOD = "worker.commands"
    REPLY = Commands
    ROLES = frozenset({"worker"})
    worker: str
    received: int = 0


# --- operation: gateway to orchestrator ------------------------------------------------------------------------------


class Ensure(Request[Done]):
    """Load a version now, and pin it; answered when it is ready or has failed (ModelLoadFailed)."""

    METHOD = "model.load"
    REPLY = Done
    ROLES = frozenset({"gateway"})
    REPEATABLE = True
    ONCE = True
    model: str
    number: int
    version: Digest


class Release(Request[Done]):
    """Unload a version (``number``) or all of a model (0); answered when its runners are gone.

    ``refuse``: take no more work for the model until it is loaded again.
    """

    METHOD = "model.unload"
    REPLY = Done
    ROLES = frozenset({"gateway"})
    REPEATABLE = True
    ONCE = True
    model: str
    number: int = 0
    refuse: bool = True


class Durations(msgspec.Struct, frozen=True, array_like=True):
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0


class BatchStats(Message):
    """How executions with one batch size went."""

    rows: int
    input: Durations
    infer: Durations
    output: Durations


class VersionStats(Message):
    """Counters of one version since the orchestrator started."""

    model: str
    number: int
    version: Digest
    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Durations = Durations()
    fail: Durations = Durations()
    queue: Durations = Durations()
    input: Durations = Durations()
    infer: Durations = Durations()
    output: Durations = Durations()
    batches: list[BatchStats] = []


class QueueState(Message):
    """The work of one version at one instant. ``parked``: offers that wait for work; ``leased``: rows handed out."""

    model: str
    number: int
    version: Digest
    waiting: int
    leased: int
    parked: int
    limit: int


class WorkerState(Message):
    """One worker as the orchestrator knows it."""

    worker: str
    node: str
    memory_limit: int
    memory_used: int
    max_concurrency: int
    busy: int
    seen_ms_ago: int
    stopping: bool
    runners: list[Loaded]


class FleetState(Message):
    """What the orchestrator sees."""

    workers: list[WorkerState]
    queues: list[QueueState]
    stats: list[VersionStats]


class GetFleet(Request[FleetState]):
    """Ask the orchestrator what it sees."""

    METHOD = "fleet"
    REPLY = FleetState
    ROLES = frozenset({"gateway", "orchestrator", "worker", "manager"})
    REPEATABLE = True


# --- models: gateway, worker and runner to manager -------------------------------------------------------------------


class FileEntry(Message):
    """One file of a version: path relative to the model's directory (``/`` as separator), digest and bytes."""

    path: str
    digest: Digest
    size: int


class Version(Message):
    """One immutable version. ``version`` is its manifest's digest; ``number`` counts from 1 within the model."""

    model: str
    number: int
    version: Digest
    format: str
    signature: Signature
    size: int
    created: float  # seconds since the epoch
    files: list[FileEntry]


class Alias(Message):
    """Where a name points now. ``epoch`` grows with every move; ``previous`` is where rollback would go."""

    model: str
    alias: str
    number: int
    epoch: int
    previous: int | None = None


class Catalog(Message):
    """Every version and alias at one moment; ``epoch`` grows with every change.

    ``unloaded``: models that were unloaded on purpose, for which no work is taken.
    """

    epoch: int
    versions: list[Version]
    aliases: list[Alias]
    unloaded: list[str] = []


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


# --- membership: any node to any that can be dialled ------------------------------------------------------------------


class Rostered(Message):
    """The newest list of members that a node holds, and the keys that members share, by epoch."""

    roster: SignedRoster
    keys: dict[int, bytes] = {}


class WatchRoster(Request[Rostered]):
    """Ask for the list of members; parked while its epoch is not beyond ``epoch`` (-1 = answer at once)."""

    METHOD = "roster.watch"
    REPLY = Rostered
    ROLES = frozenset(ROLES)
    REPEATABLE = True
    epoch: int = -1


class Resign(Request[Done]):
    """The calling node leaves the network. Raises NotInNetwork where the authority is on another host."""

    METHOD = "roster.resign"
    REPLY = Done
    ROLES = frozenset(ROLES)
    REPEATABLE = True
