"""What managers say to each other about who holds which version: followers report, the primary says what to fetch."""

from tetherd.types import Digest
from tetherd.wire.catalog import Catalog
from tetherd.wire.chunks import BlobSource
from tetherd.wire.messages import Done, Message, Request


class Fetch(Message):
    """A version to fetch, and the managers to fetch it from: those who hold it, and those who fetch it too."""

    version: Digest
    sources: list[BlobSource]


class Orders(Message):
    """What a manager is to fetch now; what it does not hold by its next report is ordered again."""

    fetch: list[Fetch]


class ReportHoldings(Request[Orders]):
    """A manager that follows says what it holds: on every change, and as a heartbeat.

    ``address`` is where it serves blobs, ``name`` what people call it. Which node it is its certificate says.
    ``failing``: versions that it was told to fetch and could not.
    """

    METHOD = "holdings.report"
    REPLY = Orders
    ROLES = frozenset({"manager"})
    REPEATABLE = True
    name: str
    address: str
    held: list[Digest]
    fetching: tuple[Digest, ...] = ()
    failing: tuple[Digest, ...] = ()


class HolderState(Message):
    """One manager: whether it is heard of, and the versions that it holds, of those that were asked about."""

    node: str
    name: str
    address: str
    alive: bool
    primary: bool
    held: list[Digest]


class Holdings(Message):
    """Who holds what. ``wanted``: how many copies of a version there are to be, with the managers there are."""

    wanted: int
    holders: list[HolderState]


class GetHoldings(Request[Holdings]):
    """Ask who holds these versions; none named = every version. A manager that follows passes it on."""

    METHOD = "holdings.get"
    REPLY = Holdings
    ROLES = frozenset({"gateway", "worker", "manager"})
    REPEATABLE = True
    versions: tuple[Digest, ...] = ()


class HandOver(Request[Done]):
    """Give the primary what was copied of one before it, of which it knows less.

    That it has it, its next catalog shows in ``heritage``. Raises InvalidInput.
    """

    METHOD = "catalog.hand_over"
    REPLY = Done
    ROLES = frozenset({"manager"})
    REPEATABLE = True
    catalog: Catalog
