"""The worker role: does what orchestrators command, reports what is loaded, and keeps memory within its limit."""

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tetherd.config.schema import LogFormat, LogLevel
from tetherd.config.schema import Worker as Settings
from tetherd.errors import TetherError, Unavailable
from tetherd.policy import placement
from tetherd.policy.catalog import View
from tetherd.ports import Caller, Clock, Handler, Launcher, Runner, Surroundings
from tetherd.roles.worker.copies import Copy, Group, Keeper, stop
from tetherd.roles.worker.link import HEARTBEAT, Link
from tetherd.types import Isolation, Seconds, parse_reference
from tetherd.wire.assignments import Assignment, Bearings, Site, identity
from tetherd.wire.catalog import Catalog, Version, WatchCatalog
from tetherd.wire.chunks import BlobSource
from tetherd.wire.messages import Commands, Load, Recycle, Report, Request, Unload
from tetherd.wire.replication import GetHoldings

_PARK: Final[Seconds] = 30.0
_RETRY: Final[Seconds] = 0.25
_HOLDINGS: Final[Seconds] = 5.0
_SPARE_RETRY: Final[Seconds] = 10.0

_log = logging.getLogger("tetherd.worker")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is called, and what its runners need to know of this host."""

    worker: str
    node: str
    cache_dir: str
    max_message: int
    identity: str = ""
    node_id: str = ""  # of this host; empty in no network
    log_level: LogLevel = "info"
    log_format: LogFormat = "json"


class Worker:
    """Supervises runners. Runs nothing itself and listens on nothing."""

    def __init__(
        self,
        *,
        place: Place,
        settings: Settings,
        surroundings: Surroundings,
        manager: Caller,
        launchers: Mapping[Isolation, Launcher],
        clock: Clock,
    ) -> None:
        self._place = place
        self._settings = settings
        self._surroundings = surroundings
        self._links: dict[str, Link] = {}  # by what stays the same of an orchestrator when it moves
        self._manager = manager
        self._launchers = launchers
        self._clock = clock
        self._groups: dict[str, Group] = {}
        self._known_sources: dict[str, tuple[BlobSource, ...]] = {}
        self._names = (f"{place.worker}.{number}" for number in itertools.count(1))
        self._spare: Runner | None = None
        self._spared = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._stopping = False

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return nothing: a worker only asks."""
        return {}

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled, then let runners deliver what they execute and end them."""
        async with asyncio.TaskGroup() as self._tasks:
            self._meet(self._surroundings.orchestrators())
            own = (self._follow, self._tidy, self._keep_spare, self._preload)
            duties = [self._tasks.create_task(duty()) for duty in own]
            ready()
            try:
                await asyncio.wait(duties, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                # Before the keepers are cancelled with their group: a runner whose keeper ends is killed.
                await self._leave()

    async def _leave(self) -> None:
        self._stopping = True
        await asyncio.gather(*(link.leave() for link in self._links.values()))
        await asyncio.gather(*(stop(group, self._tell) for group in self._groups.values()))
        if self._spare:
            await self._spare.stop(0)

    # --- what orchestrators hear and say ------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Serve every orchestrator there is, and have the runners know where everybody is."""
        while True:
            await asyncio.sleep(HEARTBEAT)
            self._meet(self._surroundings.orchestrators())
            for group in self._groups.values():
                for copy in group.copies:
                    if copy.runner and copy.bearings != (now := self._bearings(group)):
                        copy.bearings = now
                        self._spawn(copy.runner.follow(now))

    def _meet(self, sites: Sequence[Site]) -> None:
        found = {identity(site): site for site in sites}
        for gone in self._links.keys() - found.keys():
            self._links.pop(gone).end()
        for name in found.keys() - self._links.keys():
            link = Link(self._surroundings.caller(found[name]), state=self._state, obey=self._do, clock=self._clock)
            self._links[name] = link
            link.begin(self._spawn)

    def _bearings(self, group: Group) -> Bearings:
        ways = {source.node: self._surroundings.ways(source) for source in group.sources}
        return Bearings(tuple(self._surroundings.orchestrators()), ways)

    def _tell(self) -> None:
        for link in self._links.values():
            link.changed.set()

    def _state(self) -> Report:
        return Report(
            worker=self._place.worker,
            node=self._place.node,
            memory_limit=self._settings.memory_limit,
            memory_used=self._memory_used(),
            max_concurrency=self._settings.max_concurrency,
            runners=[copy for group in self._groups.values() for copy in group.report()],
            stopping=self._stopping,
        )

    def _do(self, commands: Commands) -> None:
        for unload in commands.unload:
            self._unload(unload)
        for load in commands.load:
            self._load(load)
        for recycle in commands.recycle:
            self._recycle(recycle)
        for cancel in commands.cancel:
            if (copy := self._copy(cancel.runner)) and copy.runner:
                self._spawn(copy.runner.cancel(cancel.batch))

    # --- loading -----------------------------------------------------------------------------------------------------

    def _load(self, load: Load) -> None:
        group = self._groups.get(load.version)
        if group is not None and group.stopping:
            group.successor = load  # once it is gone
            return
        if group is not None and not (group.failed and load.fresh):
            group.pinned = group.pinned or load.pinned
            self._tell()
            return
        settings = self._settings.settings(load.model)
        group = Group(load, settings.isolation, self._clock.monotonic())
        self._make_room(settings.runners)
        self._groups[load.version] = group
        for _ in range(settings.runners):
            copy = Copy(self._names, self._clock.wall())
            group.copies.append(copy)
            self._spawn(self._keep(group, copy))
        _log.info("loading", extra={"model": load.model, "version": load.number, "copies": settings.runners})
        self._tell()

    async def _keep(self, group: Group, copy: Copy) -> None:
        keeper = Keeper(
            group,
            copy,
            clock=self._clock,
            start=self._start,
            changed=self._tell,
            load_timeout=self._settings.load_timeout,
        )
        await keeper.keep()
        if group.stopping:
            group.copies.remove(copy)
            if not group.copies and self._groups.get(group.load.version) is group:
                del self._groups[group.load.version]
                if group.successor is not None and not self._stopping:
                    self._load(group.successor)
            self._tell()

    async def _start(self, group: Group, copy: Copy) -> Runner:
        group.sources = await self._sources(group.load)
        copy.bearings = self._bearings(group)
        assignment = self._assignment(group, copy, copy.bearings)
        if group.isolation == "process" and self._spare is not None:
            spare, self._spare = self._spare, None
            self._spared.set()
            with contextlib.suppress(Unavailable):  # it died while it waited
                return await _assigned(spare, assignment)
        return await _assigned(await self._launchers[group.isolation].launch(), assignment)

    async def _sources(self, load: Load) -> tuple[BlobSource, ...]:
        """Return the managers of other hosts that hold a version; none where this host's own does."""
        if not self._place.node_id:
            return ()
        try:
            request = GetHoldings((load.version,))
            found = await self._manager.call(request, deadline=self._clock.monotonic() + _HOLDINGS)
        except TetherError:
            return self._known_sources.get(load.version, ())
        holders = [one for one in found.holders if one.alive and one.held]
        here = any(one.node == self._place.node_id for one in holders)
        sources = () if here else tuple(BlobSource(one.node, one.address) for one in holders)
        self._known_sources = {v: known for v, known in self._known_sources.items() if v in self._groups}
        self._known_sources[load.version] = sources
        return sources

    def _assignment(self, group: Group, copy: Copy, bearings: Bearings) -> Assignment:
        manager = self._surroundings.manager()
        load, settings = group.load, self._settings.settings(group.load.model)
        return Assignment(
            runner=copy.id,
            worker=self._place.worker,
            model=load.model,
            number=load.number,
            version=load.version,
            orchestrators=bearings.orchestrators,
            manager=manager.address,
            cache_dir=self._place.cache_dir,
            threads=settings.threads or max(1, (os.cpu_count() or 1) // 2),
            memory_limit=self._settings.memory_limit,
            max_message=self._place.max_message,
            keep=2 * self._settings.max_runners,
            log_level=self._place.log_level,
            log_format=self._place.log_format,
            sources=group.sources,
            ways=bearings.ways,
            manager_node=manager.node,
            identity=self._place.identity,
        )

    def _unload(self, unload: Unload) -> None:
        group = self._groups.get(unload.version)
        if group is None:
            return
        if group.failed:
            del self._groups[unload.version]
            self._tell()
            return
        group.stopping = True  # at once: a command that follows must not take it for loaded
        group.copies = [copy for copy in group.copies if copy.state != "FAILED"]  # no keeper is left to remove these
        self._spawn(stop(group, self._tell))
        _log.info("unloading", extra={"model": group.load.model, "version": group.load.number})

    def _recycle(self, recycle: Recycle) -> None:
        copy = self._copy(recycle.runner)
        if copy and copy.runner:
            _log.warning("ending a runner that hangs", extra={"runner": copy.id})
            self._spawn(copy.runner.stop(0))

    def _copy(self, runner: str) -> Copy | None:
        copies = (copy for group in self._groups.values() for copy in group.copies)
        return next((copy for copy in copies if copy.id == runner), None)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        assert self._tasks is not None
        return self._tasks.create_task(work)

    # --- memory ------------------------------------------------------------------------------------------------------

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            self._make_room(0)
            idle = self._settings.idle_unload
            now = self._clock.monotonic()
            for group in list(self._groups.values()):
                if idle and not group.pinned and not group.stopping and now - group.used > idle and not group.failed:
                    self._unload(Unload(group.load.version))

    def _make_room(self, coming: int) -> None:
        """Unload the least recently used while memory is over its limit, or there are too many runners."""
        groups = [group for group in self._groups.values() if not group.failed and not group.stopping]
        now = self._clock.monotonic()
        surplus = sum(len(group.copies) for group in groups) + coming - self._settings.max_runners
        over = self._memory_used() - self._settings.memory_limit
        for version in placement.evict([group.resident(now) for group in groups], over=over, surplus=surplus):
            _log.info("evicting", extra={"model": self._groups[version].load.model, "over_bytes": max(over, 0)})
            self._unload(Unload(self._groups[version].load.version))

    def _memory_used(self) -> int:
        return sum(copy.bytes for group in self._groups.values() for copy in group.copies)

    async def _keep_spare(self) -> None:
        """Keep a process started ahead, so that loading a model does not wait for its imports."""
        while self._settings.spare:
            self._spared.clear()
            try:
                self._spare = await self._launchers["process"].launch()
            except TetherError as error:
                _log.warning("no spare runner", extra={"reason": error.message})
                await asyncio.sleep(_SPARE_RETRY)
                continue
            await self._spared.wait()
            # The one that took it loads a model now; starting another at once would slow that down.
            await asyncio.sleep(HEARTBEAT)

    async def _preload(self) -> None:
        """Load what the configuration names, as soon as it exists, and again when an alias moves."""
        references = [parse_reference(text) for text in self._settings.preload]
        epoch, loaded = -1, set[str]()
        while references:
            try:
                catalog: Catalog = await self._manager.call(
                    WatchCatalog(epoch), deadline=self._clock.monotonic() + _PARK
                )
            except TetherError:
                await asyncio.sleep(_RETRY)
                continue
            epoch = catalog.epoch
            view = View(catalog, lambda version: version)
            wanted: dict[str, Version] = {}
            for reference in references:
                with contextlib.suppress(TetherError):
                    view.check_serving(reference.model)
                    version = view.resolve(reference)
                    wanted[version.version] = version
            for old in loaded - set(wanted):
                if group := self._groups.get(old):
                    group.pinned = False  # its alias moved on: it may go when memory is short
            for version in wanted.values():
                self._load(Load(version.model, version.number, version.version, pinned=True))
            loaded = set(wanted)


async def _assigned(runner: Runner, assignment: Assignment) -> Runner:
    """Say to a runner what it is to be; one that was not told is ended, since nobody else knows of it."""
    try:
        await runner.assign(assignment)
    except BaseException:
        await runner.stop(0)
        raise
    return runner
