"""The primary manager's knowledge of who holds which version, and what it tells the others to fetch."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tetherd.policy import replication
from tetherd.policy.replication import COPIES
from tetherd.ports import Clock, Context, Handler
from tetherd.roles.copying import Copying
from tetherd.types import Digest, Seconds
from tetherd.wire.chunks import BlobSource
from tetherd.wire.messages import Request
from tetherd.wire.replication import Fetch, GetHoldings, HolderState, Holdings, Orders, ReportHoldings


class Here(BlobSource, frozen=True):
    """This manager: its node and the address where it serves blobs, both empty in no network, and its name."""

    name: str = ""


class Holders:
    """Who holds what. ``versions`` tells which versions there are, ``copying`` which of them are missing here.

    ``followers`` tells which other managers the network has: what is held by nodes that are none any more is given up
    at once. What they held before this one started, it learns from them.
    """

    def __init__(
        self,
        here: Here,
        *,
        clock: Clock,
        versions: Callable[[], list[Digest]],
        followers: Callable[[], Collection[str]],
        copying: Copying | None = None,
        copies: int = COPIES,
    ) -> None:
        self._here = here
        self._clock = clock
        self._versions = versions
        self._followers = followers
        self._copying = copying
        self._began = clock.monotonic()
        self._inherited = frozenset(versions())
        self._copies = copies
        self._told: dict[str, dict[Digest, Seconds]] = {}
        self._reports: dict[str, tuple[ReportHoldings, replication.Manager]] = {}

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what is answered here."""
        return {ReportHoldings: self._report, GetHoldings: self._get}

    def lacking(self) -> list[Fetch]:
        """Return what this manager is to fetch itself now."""
        now = self._clock.monotonic()
        return self._fetches(replication.lacking(self._versions(), self._mine(now), self._managers(), now))

    def lost(self) -> set[Digest]:
        """Return the versions that no manager holds of which anything is heard."""
        now, managers = self._clock.monotonic(), self._managers()
        return {version for version in self._versions() if not replication.holders(version, managers, now)}

    async def _report(self, request: ReportHoldings, context: Context) -> Orders:
        node, now = context.node, self._clock.monotonic()
        self._reports[node] = (request, self._known(node, request, now))
        orders = replication.plan(self._known_of(now), self._managers(), now, self._copies).get(node, [])
        told = self._told.get(node, {})
        self._told[node] = {order.version: told.get(order.version, now) for order in orders}
        self._reports[node] = (request, self._known(node, request, now))
        return Orders(self._fetches(orders))

    def _fetches(self, orders: Sequence[replication.Order]) -> list[Fetch]:
        return [Fetch(order.version, [self._source(node) for node in order.sources]) for order in orders]

    def _known_of(self, now: Seconds) -> list[Digest]:
        """Return the versions of which it is known who holds them: after a start, those from before only by and by."""
        silent = set(self._followers()) - self._reports.keys()
        if not silent or now - self._began > replication.GRACE:
            return self._versions()
        return [version for version in self._versions() if version not in self._inherited]

    def _known(self, node: str, request: ReportHoldings, now: Seconds) -> replication.Manager:
        """Return what a report means; what its node was just told counts as begun, or others would be told too."""
        told = {version for version, at in self._told.get(node, {}).items() if now - at <= replication.ALIVE}
        return replication.Manager(
            node=node,
            held=frozenset(request.held),
            seen=now,
            fetching=frozenset(told.union(request.fetching).difference(request.failing)),
            failing=frozenset(request.failing),
        )

    async def _get(self, request: GetHoldings, _: Context) -> Holdings:
        now = self._clock.monotonic()
        asked = set(request.versions or self._versions())
        states = [
            HolderState(
                node=manager.node,
                name=self._name(manager.node),
                address=self._source(manager.node).address,
                alive=manager.alive(now),
                primary=manager.node == self._here.node,
                held=sorted(asked.intersection(manager.held)),
            )
            for manager in self._managers()
        ]
        return Holdings(replication.wanted(self._managers(), now, self._copies), states)

    def _managers(self) -> list[replication.Manager]:
        """Return every manager that is not given up, this one first."""
        now = self._clock.monotonic()
        followers = set(self._followers())
        self._reports = {
            node: (said, seen)
            for node, (said, seen) in self._reports.items()
            if node in followers and not seen.lost(now)
        }
        return [self._mine(now), *(manager for _, manager in self._reports.values())]

    def _mine(self, now: Seconds) -> replication.Manager:
        if self._copying is None:
            return replication.Manager(self._here.node, frozenset(self._versions()), now)
        held = frozenset(self._versions()).difference(self._copying.missing)
        fetching = frozenset({self._copying.fetching} if self._copying.fetching else ())
        return replication.Manager(self._here.node, held, now, fetching, frozenset(self._copying.failing))

    def _source(self, node: str) -> BlobSource:
        return BlobSource(node, self._reports[node][0].address if node in self._reports else self._here.address)

    def _name(self, node: str) -> str:
        return self._reports[node][0].name if node in self._reports else self._here.name
