"""Every request and reply that roles exchange, whether by reference in one process or over nng between two.

A request class names its method (``METHOD``) and its reply type (the class argument), so that a caller is typed end to
end: ``await caller.call(Infer(...))`` returns ``Inferred``. Fields may be added with defaults; none may be removed
within a protocol version.
"""

from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import msgspec

from tetherd.errors import Failure
from tetherd.types import Digest, RoleName, Tensor

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
    ``slot``: which of the runner's slots offers; it has one batch at a time.
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
    slot: int = 0


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
