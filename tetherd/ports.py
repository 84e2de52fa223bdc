"""What roles need from the outside: small Protocols owned by the roles, implemented by drivers, faked by testing."""

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from tetherd.discovery.diagnosis import Vitals
from tetherd.discovery.hints import Drop, Hint, Source
from tetherd.discovery.racing import Attempt, Outcome
from tetherd.policy.membership import Standing
from tetherd.types import Buffer, Digest, RoleName, Seconds, Signature, Tensor
from tetherd.wire.assignments import Assignment, Bearings, Event, Site
from tetherd.wire.catalog import Alias, BlobState, Catalog, FileEntry, Version
from tetherd.wire.chunks import Blob, BlobSource, Ways
from tetherd.wire.manifest import Config
from tetherd.wire.messages import Request
from tetherd.wire.relay import Way
from tetherd.wire.roster import SignedRoster
from tetherd.wire.tokens import JoinToken

if TYPE_CHECKING:  # records bring cryptography along, which a runner does without
    from tetherd.wire.records import Record

R = TypeVar("R")

REQUEST_ID: Final[ContextVar[str]] = ContextVar("request_id", default="")
"""The request that the current task works for. Whoever takes a request in sets it; every log line carries it."""


class Context:
    """What travels beside a request: until when it matters, who sent it, and the id that its log lines carry.

    ``peer`` identifies a connection for its life; None stands for this very process. ``node`` is the id of the node at
    the other end, proven by its certificate; empty for this host, which is trusted.
    """

    __slots__ = ("deadline", "node", "peer", "request_id")

    def __init__(self, deadline: Seconds, peer: int | None = None, request_id: str = "", node: str = "") -> None:
        self.deadline = deadline
        self.peer = peer
        self.request_id = request_id
        self.node = node


Handler: TypeAlias = Callable[[Any, Context], Coroutine[Any, Any, Any]]
"""Answers one method: takes the request message and its context, returns the reply message or raises TetherError."""


class Role(Protocol):
    """A duty a host can be assigned."""

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what this role answers, by request class."""
        ...

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; call ``ready`` once when requests can be served."""
        ...


class Caller(Protocol):
    """Calls another role, in this process or another, without the caller knowing which."""

    async def call(self, request: Request[R], *, deadline: Seconds, request_id: str = "") -> R:
        """Return the reply. ``deadline`` is on the monotonic clock. Raises what the callee raised, or Unreachable."""
        ...


class Clock(Protocol):
    """Time. Roles never read it any other way."""

    def monotonic(self) -> Seconds:
        """Return seconds since an arbitrary moment; never goes back."""
        ...

    def wall(self) -> Seconds:
        """Return seconds since the epoch, as this host believes; may jump."""
        ...


class Ears(Protocol):
    """Takes in what the sources of discovery say. Never blocks, and never raises whatever it is told."""

    def hear(self, hint: Hint) -> None:
        """Take in where a source says that a node is."""
        ...

    def vanish(self, source: Source, origin: str, node: str) -> None:
        """Take note that an origin no longer speaks of a node."""
        ...

    def drop(self, drop: Drop) -> None:
        """Take note of something that was heard and not used, and why."""
        ...


class Prober(Protocol):
    """Tries addresses of peers."""

    async def race(self, attempts: Sequence[Attempt], node: str = "") -> Outcome:
        """Try addresses until one shows the key of ``node`` (empty: of any node); return it, and why others did not.

        Never raises.
        """
        ...


class Host(Protocol):
    """Measures the host that this daemon runs on."""

    def measure(self) -> Vitals:
        """Return how much of what it needs there is left. Blocks for a moment; never raises."""
        ...


class Directory(Protocol):
    """Keeps what nodes say of themselves, with their signature, where every member can ask for it."""

    async def put(self, name: bytes, value: bytes) -> int:
        """Keep a value of this node under a name until it stops; return its number. Raises TetherError."""
        ...

    async def get(self, node: str, name: bytes) -> "Record | None":
        """Return what a node last said under a name, None if that is nothing. Raises TetherError."""
        ...


class Engine(Protocol):
    """One loaded model version. ``execute`` is for one thread at a time, ``watch`` may be called from another."""

    signature: Signature
    bytes: int  # that its files take, the least that it needs in memory

    def execute(self, inputs: list[Tensor], budget: Seconds) -> tuple[list[Tensor], tuple[int, int, int]]:
        """Return the outputs in signature order, and nanoseconds spent on input, inference and output.

        Raises InvalidInput, ExecutionFailed, DeadlineExceeded.
        """
        ...

    def end(self, now: Seconds) -> None:
        """End the execution under way, if any."""
        ...

    def watch(self, now: Seconds) -> Seconds:
        """End an execution that is over its budget; return by how many seconds it is (0 = it is not)."""
        ...

    def close(self) -> None:
        """Give its memory back to the host. Nothing else is called from here on."""
        ...


class Blobs(Protocol):
    """Content-addressed storage. Thread-safe and blocking: roles call it off the event loop.

    Whoever asks for or appends to a blob *holds* it for a while: it is not removed under them.
    """

    def stat(self, digest: Digest) -> BlobState:
        """Return how much of the blob is stored; hold it if all of it is."""
        ...

    def append(self, digest: Digest, offset: int, size: int, data: Buffer) -> BlobState:
        """Append to the upload of a blob of ``size`` bytes; durable when this returns.

        Nothing happens if the blob is complete already. Raises OffsetConflict, DigestMismatch, InvalidInput,
        TooLarge, StorageFull, StorageFailed.
        """
        ...

    def read(self, digest: Digest, offset: int, length: int) -> tuple[bytes, int]:
        """Return at most ``length`` bytes and the blob's size. Raises BlobNotFound, InvalidInput, StorageFailed."""
        ...

    def copy(self, digest: Digest, target: Path) -> None:
        """Write the blob to a new file of its own, never a link. Raises BlobNotFound, StorageFull, StorageFailed."""
        ...

    def discard(self, digests: Collection[Digest]) -> set[Digest]:
        """Remove blobs, except those that are held; return the ones that stay because they are held."""
        ...

    def expire(self, kept: Collection[Digest], before: Seconds) -> None:
        """Remove what was last written ``before`` (seconds since the epoch) and is neither ``kept`` nor held."""
        ...


class Fetcher(Protocol):
    """Brings blobs from managers of other hosts into this host's store. Blocking; for one thread at a time."""

    def document(self, digest: Digest, limit: int, sources: Sequence[BlobSource]) -> bytes:
        """Return a blob of at most ``limit`` bytes, stored durably. Raises Unavailable, StorageFull, StorageFailed."""
        ...

    def fetch(self, blob: Blob, sources: Sequence[BlobSource]) -> None:
        """Store a blob durably, going on from what an earlier attempt brought.

        Raises Unavailable, DigestMismatch, StorageFull, StorageFailed.
        """
        ...

    def close(self) -> None:
        """End what is under way, from any thread; nothing is fetched from here on."""
        ...


class CatalogCopy(Protocol):
    """The catalog of another manager, kept here so that it can be read while that manager is away. Blocking."""

    def load(self) -> Catalog | None:
        """Return what was saved last; None where nothing was, or it is damaged: it will be sent again."""
        ...

    def save(self, catalog: Catalog) -> None:
        """Keep a catalog; durable when this returns. Raises StorageFull, StorageFailed."""
        ...


class Former(NamedTuple):
    """What was copied of the catalog of the manager on a node, and when, in seconds since the epoch."""

    node: str
    catalog: Catalog
    copied: Seconds


class Formers(Protocol):
    """The catalogs of the managers that this host followed before. Blocking. Raises StorageFailed."""

    def load(self) -> list[Former]:
        """Return those that can be read, the newest first."""
        ...

    def remove(self, node: str) -> None:
        """Forget one for good."""
        ...


class Ledger(Protocol):
    """Versions and aliases. Blocking, used from one thread; every change is durable when its method returns.

    Each change makes the catalog's epoch grow, and an alias carries the epoch of its last move. All methods raise
    StorageFull and StorageFailed when the change was not recorded.
    """

    def catalog(self) -> Catalog:
        """Return every version and alias."""
        ...

    def references(self) -> set[Digest]:
        """Return every blob that a version needs: its files, its manifest and its config."""
        ...

    def taken(self, origin: str) -> Catalog | None:
        """Return what ``adopt`` took of another ledger, None where it never did."""
        ...

    def adopt(self, catalog: Catalog, taken: Catalog) -> None:
        """Say what ``catalog`` says, all at once, but as this ledger; remember that ``taken`` is part of it.

        A model that differs is replaced, one that it does not name stays as it is.
        """
        ...

    def commit(self, draft: Version, alias: str) -> Version:
        """Record a version under the next number (or find it), and move ``alias`` to it.

        ``latest`` moves too where the model has none. The draft's number is ignored.
        """
        ...

    def move(self, model: str, alias: str, number: int, expected_epoch: int = -1) -> Alias:
        """Point an alias at a version. Raises ModelNotFound, VersionNotFound, Conflict (with the current state)."""
        ...

    def rollback(self, model: str, alias: str) -> Alias:
        """Undo the last move of an alias that was not undone. Raises ModelNotFound, VersionNotFound, Conflict."""
        ...

    def set_serving(self, model: str, serving: bool) -> None:
        """Record whether work is taken for a model. Raises ModelNotFound."""
        ...

    def remove(self, model: str, number: int) -> set[Digest]:
        """Remove a version, or the model (0); return the blobs that no version needs any more. Raises Conflict."""
        ...


class Inspector(Protocol):
    """Looks into a version's files before they are accepted, where they can do no harm."""

    async def inspect(self, files: Sequence[FileEntry], copy: Callable[[Digest, Path], None]) -> Config:
        """Return the format and signature. ``copy`` fetches one file. Raises ModelInvalid, UnsupportedMedia."""
        ...


class Runner(Protocol):
    """A runner as its worker holds it: started ahead, then assigned once, ended once."""

    @property
    def pid(self) -> int:
        """Return its process, for people who look for it."""
        ...

    async def assign(self, assignment: Assignment) -> None:
        """Say what it is to be. Raises Unavailable when it is dead."""
        ...

    async def event(self) -> Event | None:
        """Wait for the next event; None when it has ended."""
        ...

    async def ending(self) -> str:
        """Return how it ended, in words, once there are no more events."""
        ...

    async def cancel(self, batch: int) -> None:
        """End the execution of a batch that it holds, if it still does."""
        ...

    async def follow(self, bearings: Bearings) -> None:
        """Say where those are now that it deals with, also while it loads."""
        ...

    async def stop(self, patience: Seconds) -> None:
        """Let it deliver what it executes, then end it: by force after ``patience``. 0 = at once."""
        ...


class Surroundings(Protocol):
    """Where those are that a worker and its runners call, as its host knows it at the moment."""

    def orchestrators(self) -> Sequence[Site]:
        """Return where orchestrators are, this host first; a node is the same one wherever it is."""
        ...

    def manager(self) -> Site:
        """Return where runners ask for models that no ``BlobSource`` is known for; no address = nowhere."""
        ...

    def caller(self, site: Site) -> Caller:
        """Return the caller of an orchestrator, which follows it when it moves."""
        ...

    def ways(self, source: BlobSource) -> Ways:
        """Return where a manager of another host can be fetched from."""
        ...


class Launcher(Protocol):
    """Starts runners."""

    async def launch(self) -> Runner:
        """Return a runner that waits for its assignment. Raises Unavailable when none can be started."""
        ...


class Junction(Protocol):
    """Where a relay's connections meet: joins those that bring the tickets of one session, and looks into none."""

    @property
    def port(self) -> int:
        """Return the port that tickets are brought to."""
        ...

    async def run(
        self, claim: Callable[[bytes], int], ended: Callable[[int, int], None], ready: Callable[[], None]
    ) -> None:
        """Serve until cancelled.

        ``claim`` turns a ticket into a session's id or raises Forbidden. ``ended`` is called with the id and the bytes
        that a session carried when it is over, unless it was ended from here.
        """
        ...

    def moved(self) -> Mapping[int, int]:
        """Return the bytes that each session under way has carried, both ways together."""
        ...

    def end(self, session: int) -> int:
        """Cut a session's connections; return the bytes it carried."""
        ...


class Guest(Protocol):
    """A connection on this host that is to be continued through a relay."""

    @property
    def place(self) -> tuple[str, int]:
        """Return address and port of this end of it."""
        ...

    async def carry(self, way: Way) -> int:
        """Continue it until both ends are done; return the bytes that came from the relay.

        Raises Unreachable where the relay does not answer; the connection can then be tried with another way.
        """
        ...

    def close(self) -> None:
        """Cut it, unless it was carried to its end."""
        ...


class Door(Protocol):
    """A listener on this host's loopback that leads elsewhere."""

    @property
    def address(self) -> str:
        """Return ``127.0.0.1:port``."""
        ...

    def close(self) -> None:
        """Listen no more and cut what goes through."""
        ...


class Tunnels(Protocol):
    """This host's ends of relayed connections."""

    async def connect(self, host: str, port: int) -> Guest:
        """Connect to a listener of this host. Raises Unreachable."""
        ...

    def listen(self, receive: Callable[[Guest], Coroutine[Any, Any, None]]) -> Door:
        """Open a door: ``receive`` is run for each connection, which is closed when it returns. Raises Unavailable."""
        ...


class Papers(Protocol):
    """This host's membership as it is kept and asked for. Blocking; every change is durable when its method returns.

    All methods raise Forbidden for keys that others can read, StorageFull and StorageFailed.
    """

    def load(self) -> Standing | None:
        """Return this host's standing; None while it is in no network. Raises BadRoster."""
        ...

    def found(self, network: str, roles: tuple[RoleName, ...]) -> Standing:
        """Found a network of that name on this host, which gets ``roles`` in it. Raises Conflict."""
        ...

    def join(self, token: JoinToken, consent: Callable[[tuple[RoleName, ...]], None]) -> Standing:
        """Join with a token. Raises Conflict, PinMismatch, WrongNetwork, ClockSkew, Unreachable, TokenExpired, ...

        ``consent`` is given the roles that the network grants; where it raises, nothing of it is kept here, and this
        host may ask again with the same token.
        """
        ...

    def renew(self) -> Standing:
        """Get the next certificate. Raises Unreachable, Revoked, ClockSkew."""
        ...

    def accept(self, signed: SignedRoster, keys: Mapping[int, bytes]) -> Standing:
        """Keep a roster if it is newer than the one that is held. Raises BadRoster, WrongNetwork."""
        ...

    def rotate(self, lagging: Sequence[str], *, force: bool) -> Standing:
        """Take the next step towards another root of the network; ``lagging`` names who lacks the newest roster.

        Raises Conflict while members are not ready for it, NotInNetwork.
        """
        ...

    def rotation(self, lagging: Sequence[str]) -> tuple[str, list[str]]:
        """Return how far the step to another root has gone, and by name whom the next one waits for.

        It is "" (there is none), "announced" or "switched". Raises NotInNetwork.
        """
        ...

    def rekey(self, lagging: Sequence[str], *, force: bool) -> Standing:
        """Make the next key that members share; see ``rotate``. Raises Conflict, NotInNetwork."""
        ...

    def retire(self) -> Standing:
        """Drop the shared keys before the newest. Raises NotInNetwork."""
        ...

    def reach(self, address: str, enrol: str) -> Standing:
        """Be reached at ``address`` too, and on the founder for joining at ``enrol`` (HOST:PORT; empty = nowhere else).

        It takes the place of what was named before. Raises NotInNetwork.
        """
        ...

    def publish(self) -> Standing:
        """Take over what the authority on this host has decided. Raises NotInNetwork."""
        ...

    def leave(self) -> None:
        """Be in no network any more; with the authority, if it is here, the network ends."""
        ...

    def invite(self, roles: tuple[RoleName, ...], ttl: Seconds, name: str) -> JoinToken:
        """Make a join token. Raises NotInNetwork where the authority is on another host."""
        ...

    def change(self, node: str, **values: Any) -> Standing:
        """Change what the roster says of a member. Raises NodeNotFound, NotInNetwork."""
        ...

    def forget(self, node: str) -> Standing:
        """Strike a member off the roster. Raises NodeNotFound, NotInNetwork."""
        ...
