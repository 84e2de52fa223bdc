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
from tetherd.policy.succession import covers
from tetherd.ports import Blobs, Caller, CatalogCopy, Clock, Context, Fetcher, Formers, Handler
from tetherd.roles.copying import Copying
from tetherd.roles.holdings import Here
from tetherd.roles.reads import Reads
from tetherd.types import Digest, Seconds
from tetherd.wire.catalog import Catalog, Commit, MoveAlias, PutBlob, Remove, Rollback, SetServing, WatchCatalog
from tetherd.wire.messages import Request
from tetherd.wire.replication import GetHoldings, HandOver, HolderState, Holdings, ReportHoldings

_PARK: Final[Seconds] = 30.0
_ANSWER: Final[Seconds] = 5.0
_HEARTBEAT: Final[Seconds] = 2.0
_RETRY: Final[Seconds] = 1.0
_SWEEP: Final[Seconds] = 60.0

_log = logging.getLogger("tetherd.replica")


class Store(NamedTuple):
    """What a copy is made of: the blobs, what brings them, and the catalog that says what they are.

    ``formers``: the catalogs of managers that were followed before. ``spared`` (blocking): the blobs that stay though
    the catalog does not name them, since this host had them before.
    """

    blobs: Blobs
    fetcher: Fetcher
    catalog: CatalogCopy
    formers: Formers
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
        self._blobs, fetcher, self._copy, self._files, self._spared = store
        self._primary, self._primary_name = primary
        self._clock = clock
        self._keep = keep
        self._formers = store.formers.load()
        copy = store.catalog.load()
        self._seen = -1 if copy is None else copy.epoch  # the primary's epoch
        # Before the first word of a new primary there is what the one before said.
        before = self._formers[0].catalog if self._formers else Catalog(0, [], [])
        self._reads = Reads(store.blobs, clock, copy or before)
        self._copying = Copying(store.blobs, fetcher, self._versions)
        self._doomed: set[Digest] = set()
        self._current = False  # whether the primary said that its catalog is the one that is here

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what is answered here."""
        changes: list[type[Request[Any]]] = [PutBlob, Commit, MoveAlias, Rollback, SetServing, Remove]
        return {**self._reads.routes(), **dict.fromkeys(changes, self._refuse), GetHoldings: self._holdings}

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve and follow until cancelled."""
        await self._copying.look()
        ready()
        try:
            async with asyncio.TaskGroup() as group:
                for duty in (self._follow, self._report, self._copying.obey, self._sweep):
                    group.create_task(duty())
        finally:
            self._copying.close()

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
            needs = self._copying.needs
            held = sorted(set(needs).intersection(request.versions or needs))
            if request.versions and not held:
                raise  # so that who asks goes on to a manager that has something to say
            here = self._here
            mine = HolderState(here.node, here.name, here.address, alive=True, primary=False, held=held)
            return Holdings(COPIES, [mine])

    # --- following ---------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            watch = WatchCatalog(self._seen)
            try:
                catalog = await self._primary.call(watch, deadline=self._clock.monotonic() + _PARK)
                self._current = catalog == self._reads.catalog
                if catalog.epoch > self._seen:
                    await self._accept(catalog)
                elif catalog.epoch < self._seen:
                    await self._distrust(catalog)
                await self._hand_over(catalog)
            except TetherError as error:
                _log.info("cannot follow the primary", extra={"primary": self._primary_name, "reason": error.message})
                await asyncio.sleep(_RETRY)

    async def _accept(self, catalog: Catalog) -> None:
        await self._reads.on_disk(self._copy.save, catalog)
        self._reads.publish(catalog)
        self._seen, self._current = catalog.epoch, True
        gone = self._copying.needs.keys() - self._versions()
        self._doomed = self._doomed.union(*(self._copying.needs[version] for version in gone))
        await self._copying.look()
        self._copying.news.set()
        await self._reap()

    async def _distrust(self, catalog: Catalog) -> None:
        """Keep what is here: a primary that knows less than its follower has lost something."""
        _log.error(
            "the primary's catalog went back, so it is not followed: restore its state folder",
            extra={"primary": self._primary_name, "epoch": catalog.epoch, "here": self._seen},
        )
        await asyncio.sleep(_PARK)

    async def _hand_over(self, catalog: Catalog) -> None:
        """Give the primary what was copied of those before it, where it knows less of them; forget what it has."""
        for former in list(self._formers):
            if covers(catalog, former.catalog):
                await self._reads.on_disk(self._files.remove, former.node)
                self._formers.remove(former)
            else:
                await self._primary.call(HandOver(former.catalog), deadline=self._clock.monotonic() + _ANSWER)

    async def _report(self) -> None:
        copying = self._copying
        while True:
            copying.news.clear()
            fetching = (copying.fetching,) if copying.fetching else ()
            failing = tuple(sorted(copying.failing))
            report = ReportHoldings(self._here.name, self._here.address, sorted(copying.needs), fetching, failing)
            try:
                orders = await self._primary.call(report, deadline=self._clock.monotonic() + _ANSWER)
                copying.order(orders.fetch)
            except TetherError as error:
                _log.debug("the primary does not take reports", extra={"reason": error.message})
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    await copying.news.wait()
            except TimeoutError:
                continue

    # --- what is held ------------------------------------------------------------------------------------------------

    async def _kept(self) -> set[Digest]:
        """Return every blob that a version of the catalog needs, and what is spared."""
        spared = await self._reads.on_disk(self._spared)
        return spared.union(*(version.blobs() for version in self._reads.catalog.versions))

    def _versions(self) -> set[Digest]:
        return {version.version for version in self._reads.catalog.versions}

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
            await self._copying.look()
            await self._reap()
            if self._current:
                kept = await self._kept()
                await self._reads.on_disk(self._blobs.expire, kept, self._clock.wall() - self._keep)
        except TetherError as error:
            _log.warning("could not look after the copies", extra={"reason": error.message})
