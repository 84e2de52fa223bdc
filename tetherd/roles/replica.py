"""The manager role on a host whose manager is not the primary: follows its catalog and holds copies of its versions.

It answers every read, also while the primary is away, and changes nothing by itself. What it holds is what lies in its
store: nothing else is recorded that could disagree with it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from tetherd.errors import Conflict, TetherError, Unreachable
from tetherd.policy.replication import COPIES
from tetherd.ports import Blobs, Caller, CatalogCopy, Clock, Context, Fetcher, Handler
from tetherd.roles.holdings import Here
from tetherd.roles.reads import Reads
from tetherd.types import Digest, Seconds
from tetherd.wire.catalog import Catalog, Commit, MoveAlias, PutBlob, Remove, Rollback, SetServing, WatchCatalog
from tetherd.wire.chunks import CHUNK
from tetherd.wire.manifest import MAX_MANIFEST, parse
from tetherd.wire.messages import Request
from tetherd.wire.replication import Fetch, GetHoldings, HolderState, Holdings, ReportHoldings

_PARK: Final[Seconds] = 30.0
_ANSWER: Final[Seconds] = 5.0
_HEARTBEAT: Final[Seconds] = 2.0
_RETRY: Final[Seconds] = 1.0
_SWEEP: Final[Seconds] = 60.0

_log = logging.getLogger("tetherd.replica")


class Store(NamedTuple):
    """What a copy is made of: the blobs, what brings them, and the catalog that says what they are.

    ``spared`` (blocking): the blobs that stay though the catalog does not name them, since this host had them before.
    """

    blobs: Blobs
    fetcher: Fetcher
    catalog: CatalogCopy
    spared: Callable[[], set[Digest]] = set


class Primary(NamedTuple):
    """The manager that is followed, and what people call its host."""

    caller: Caller
    name: str


class Replica:
    """A manager that follows ``primary``.

    ``keep``: how long a file that no version needs any more, or a transfer that nobody goes on with, stays on disk.
    """

    def __init__(
        self, here: Here, *, store: Store, primary: Primary, clock: Clock, keep: Seconds = 7 * 24 * 3600.0
    ) -> None:
        self._here = here
        self._blobs, self._fetcher, self._copy, self._spared = store
        self._primary, self._primary_name = primary
        self._clock = clock
        self._keep = keep
        self._reads = Reads(store.blobs, clock, store.catalog.load() or Catalog(0, [], []))
        self._needs: dict[Digest, set[Digest]] = {}  # of each version that is held: its manifest and its blobs
        self._doomed: set[Digest] = set()
        self._current = False  # whether the primary said that its catalog is the one that is here
        self._fetching: Digest | None = None
        self._failing: set[Digest] = set()
        self._orders: dict[Digest, Fetch] = {}
        self._ordered = asyncio.Event()
        self._news = asyncio.Event()

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what is answered here."""
        changes: list[type[Request[Any]]] = [PutBlob, Commit, MoveAlias, Rollback, SetServing, Remove]
        return {**self._reads.routes(), **dict.fromkeys(changes, self._refuse), GetHoldings: self._holdings}

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve and follow until cancelled."""
        await self._look()
        ready()
        try:
            async with asyncio.TaskGroup() as group:
                for duty in (self._follow, self._report, self._obey, self._sweep):
                    group.create_task(duty())
        finally:
            self._fetcher.close()

    # --- what it answers besides reads -------------------------------------------------------------------------------

    async def _refuse(self, _: Any, __: Context) -> Any:
        raise Conflict(
            f"the manager of this host follows the one of {self._primary_name}, where models are changed",
            fix=f"run the command on {self._primary_name}, or name its gateway with --endpoint",
            details={"primary": self._primary_name},
        )

    async def _holdings(self, request: GetHoldings, context: Context) -> Holdings:
        try:
            return await self._primary.call(request, deadline=context.deadline, request_id=context.request_id)
        except Unreachable:
            held = sorted(set(self._needs).intersection(request.versions or self._needs))
            if request.versions and not held:
                raise  # so that who asks goes on to a manager that has something to say
            here = self._here
            mine = HolderState(here.node, here.name, here.address, alive=True, primary=False, held=held)
            return Holdings(COPIES, [mine])

    # --- following ---------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            mine = self._reads.catalog.epoch
            try:
                catalog = await self._primary.call(WatchCatalog(mine), deadline=self._clock.monotonic() + _PARK)
                self._current = catalog == self._reads.catalog
                if catalog.epoch > mine:
                    await self._accept(catalog)
                elif catalog.epoch < mine:
                    await self._distrust(catalog)
            except TetherError as error:
                _log.info("cannot follow the primary", extra={"primary": self._primary_name, "reason": error.message})
                await asyncio.sleep(_RETRY)

    async def _accept(self, catalog: Catalog) -> None:
        await self._reads.on_disk(self._copy.save, catalog)
        self._reads.publish(catalog)
        self._current = True
        named = {version.version for version in catalog.versions}
        self._doomed = self._doomed.union(*(needs for version, needs in self._needs.items() if version not in named))
        await self._look()
        self._news.set()
        await self._reap()

    async def _distrust(self, catalog: Catalog) -> None:
        """Keep what is here: a primary that knows less than its follower has lost something."""
        _log.error(
            "the primary's catalog went back, so it is not followed: restore its state folder",
            extra={"primary": self._primary_name, "epoch": catalog.epoch, "here": self._reads.catalog.epoch},
        )
        await asyncio.sleep(_PARK)

    async def _report(self) -> None:
        while True:
            self._news.clear()
            fetching = (self._fetching,) if self._fetching else ()
            failing = tuple(sorted(self._failing))
            report = ReportHoldings(self._here.name, self._here.address, sorted(self._needs), fetching, failing)
            try:
                orders = await self._primary.call(report, deadline=self._clock.monotonic() + _ANSWER)
                self._orders = {order.version: order for order in orders.fetch}
                self._failing.intersection_update(self._orders)
                self._ordered.set()
            except TetherError as error:
                _log.debug("the primary does not take reports", extra={"reason": error.message})
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _obey(self) -> None:
        """Fetch what is ordered, one version after the other: one already uses all the way there is."""
        while True:
            if not self._orders:
                self._ordered.clear()
                await self._ordered.wait()
                continue
            version, order = next(iter(self._orders.items()))
            if version in self._needs:
                del self._orders[version]
                continue
            self._fetching = version
            try:
                await self._reads.on_disk(self._bring, order)
                self._failing.discard(version)
                _log.info("holding a copy", extra={"version": version})
            except TetherError as error:
                self._failing.add(version)
                _log.warning("could not copy a version", extra={"version": version, "reason": error.message})
                await asyncio.sleep(_RETRY)
            finally:
                self._fetching = None
                self._orders.pop(version, None)
            await self._look()
            self._news.set()

    def _bring(self, order: Fetch) -> None:
        """Bring a version's blobs, and its manifest first: it says what they are, and which chunks they are made of."""
        manifest = self._fetcher.document(order.version, MAX_MANIFEST, order.sources)
        for blob in parse(manifest).blobs():
            if blob.size <= CHUNK:
                self._fetcher.document(blob.digest, blob.size, order.sources)
            else:
                self._fetcher.fetch(blob, order.sources)

    # --- what is held ------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Find out which versions are here in full."""
        found = await self._reads.on_disk(self._find)
        self._needs = found

    def _find(self) -> dict[Digest, set[Digest]]:
        found: dict[Digest, set[Digest]] = {}
        for version in {version.version for version in self._reads.catalog.versions}:
            try:
                needed = self._needed(version)
                if all(self._blobs.stat(digest).complete for digest in needed):
                    found[version] = needed
            except TetherError as error:
                _log.warning("a version cannot be read", extra={"version": version, "reason": error.message})
        return found

    def _needed(self, version: Digest) -> set[Digest]:
        """Return the blobs of a version; its manifest alone where that is not here."""
        if not self._blobs.stat(version).complete:
            return {version}
        manifest, _ = self._blobs.read(version, 0, MAX_MANIFEST)
        return {version, *(blob.digest for blob in parse(manifest).blobs())}

    async def _kept(self) -> set[Digest]:
        """Return every blob that a version of the catalog needs, as far as that is known here, and what is spared."""
        spared = await self._reads.on_disk(self._spared)
        listed = {file.digest for version in self._reads.catalog.versions for file in version.files}
        known = {version.version for version in self._reads.catalog.versions}
        return spared.union(listed, known, *self._needs.values())

    async def _reap(self) -> None:
        """Remove what only versions needed that are gone; what is in use stays for the next time."""
        doomed = self._doomed - await self._kept()
        self._doomed = await self._reads.on_disk(self._blobs.discard, doomed)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            await self._tidy()

    async def _tidy(self) -> None:
        """Remove what nobody needs, once the primary said what that is."""
        try:
            await self._look()
            await self._reap()
            if self._current:
                kept = await self._kept()
                await self._reads.on_disk(self._blobs.expire, kept, self._clock.wall() - self._keep)
        except TetherError as error:
            _log.warning("could not look after the copies", extra={"reason": error.message})
