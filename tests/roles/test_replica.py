"""Managers that follow a primary: they copy what they are told to, answer reads, and change nothing."""

import asyncio
import contextlib
import threading
from hashlib import sha256

import pytest
from msgspec.structs import replace

from tetherd.drivers.models.replicas import FileCatalog
from tetherd.drivers.models.spared import Followed, followed
from tetherd.errors import Conflict, TetherError, Unavailable, Unreachable
from tetherd.ports import Context
from tetherd.roles.holdings import Here, Holders
from tetherd.roles.replica import Primary, Replica, Store
from tetherd.testing import MemoryBlobs
from tetherd.types import Digest, Signature, Tensor
from tetherd.wire.catalog import (
    Catalog,
    Commit,
    FileEntry,
    GetBlob,
    GetManifest,
    MoveAlias,
    PutBlob,
    Remove,
    Rollback,
    SetServing,
    Version,
    WatchCatalog,
)
from tetherd.wire.chunks import CHUNK
from tetherd.wire.manifest import Config, build, digest_of, encode_config
from tetherd.wire.messages import Done
from tetherd.wire.replication import GetHoldings, HandOver, ReportHoldings

CONFIG = encode_config(Config("onnx", Signature((), ())))


class Clock:
    """The event loop's time, and as much more as a test skips."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() + self.skipped

    def wall(self) -> float:
        return self.monotonic()


class Origin:
    """A primary: a catalog that the test changes, what belongs to it, and who holds what."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.catalog = Catalog(0, [], [])
        self.changed = asyncio.Event()
        self.blobs: dict[Digest, bytes] = {}
        self.followers: set[str] = set()
        self.away = False
        self.taken: list[Catalog] = []
        self.restart()

    def restart(self) -> None:
        """Forget who holds what."""
        self.holders = Holders(
            Here("primary", "origin:1", "founder"),
            clock=self.clock,
            versions=lambda: [one.version for one in self.catalog.versions],
            followers=lambda: self.followers,
        )

    async def take(self, request: HandOver, _: Context) -> Done:
        self.taken.append(request.catalog)
        self.catalog = replace(self.catalog, heritage={request.catalog.origin: request.catalog.epoch})
        self.show([*self.catalog.versions, *request.catalog.versions])
        return Done()

    def push(self, model: str, *contents: bytes) -> Version:
        files = [FileEntry(f"f{index}.onnx", digest_of(data), len(data)) for index, data in enumerate(contents)]
        lists = {
            digest_of(data): [sha256(data[at : at + CHUNK]).digest() for at in range(0, len(data), CHUNK)]
            for data in contents
            if len(data) > CHUNK
        }
        manifest = build(model, files, CONFIG, lists)
        self.blobs |= {digest_of(data): data for data in (manifest, CONFIG, *contents)}
        version = Version(model, 1, digest_of(manifest), digest_of(CONFIG), "onnx", Signature((), ()), 1, 0.0, files)
        self.show([*self.catalog.versions, version])
        return version

    def show(self, versions: list[Version], epoch: int | None = None) -> None:
        epoch = self.catalog.epoch + 1 if epoch is None else epoch
        self.catalog = replace(self.catalog, epoch=epoch, versions=versions)
        self.changed.set()
        self.changed = asyncio.Event()

    async def watch(self, request: WatchCatalog, _: Context) -> Catalog:
        while request.epoch == self.catalog.epoch:
            await self.changed.wait()
        return self.catalog


class Line:
    """Calls the primary as one node, as its certificate would say."""

    def __init__(self, origin: Origin, node: str) -> None:
        self.origin = origin
        self.node = node

    async def call(self, request, *, deadline, request_id=""):
        if self.origin.away:
            raise Unreachable("the primary is away")
        routes = {WatchCatalog: self.origin.watch, HandOver: self.origin.take, **self.origin.holders.routes()}
        return await routes[type(request)](request, Context(deadline, 1, request_id, self.node))


class Carrier:
    """Implements ports.Fetcher: takes blobs from whichever source has them, unless told to fail."""

    def __init__(self, blobs: MemoryBlobs, shelves: dict[str, dict[Digest, bytes] | MemoryBlobs]) -> None:
        self.blobs = blobs
        self.shelves = shelves
        self.brought: list[tuple[Digest, tuple[str, ...]]] = []
        self.failures = 0
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def document(self, digest, limit, sources):
        state = self.blobs.stat(digest)
        if not state.complete:
            self._bring(digest, sources)
        return self.blobs.read(digest, 0, limit)[0]

    def fetch(self, blob, sources):
        assert blob.chunks
        self._bring(blob.digest, sources)

    def close(self):
        self.closed = True
        self.gate.set()

    def _bring(self, digest, sources):
        self.gate.wait(10)
        if self.failures:
            self.failures -= 1
            raise Unavailable("no source answers")
        self.brought.append((digest, tuple(source.node for source in sources)))
        for source in sources:
            shelf = self.shelves[source.node]
            with contextlib.suppress(TetherError, KeyError):
                data = shelf[digest] if isinstance(shelf, dict) else shelf.read(digest, 0, 1 << 30)[0]
                self.blobs.append(digest, 0, len(data), data)
                return
        raise Unavailable("nobody has it")


class Follower:
    """One host that follows."""

    def __init__(self, world: "World", node: str) -> None:
        self.blobs = MemoryBlobs()
        world.shelves[node] = self.blobs
        world.origin.followers.add(node)
        self.carrier = Carrier(self.blobs, world.shelves)
        self.copy = FileCatalog(world.root / f"{node}.json")
        self.spared: set[Digest] = set()
        self.world = world
        self.node = node
        self.start()

    def start(self) -> None:
        formers = Followed(self.world.root, self.world.root / f"followed-{self.node}.json")
        store = Store(self.blobs, self.carrier, self.copy, formers, lambda: self.spared)
        primary = Primary(Line(self.world.origin, self.node), "founder")
        here = Here(self.node, f"{self.node}:1", self.node.upper())
        self.replica = Replica(here, store=store, primary=primary, clock=self.world.clock)
        self.task = asyncio.create_task(self.replica.run(lambda: None))

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def keep(self, data: bytes) -> Digest:
        """Have something that was here before this host followed anybody."""
        digest = digest_of(data)
        self.blobs.append(digest, 0, len(data), data)
        return digest

    async def tidy_a_month_later(self) -> set[Digest]:
        """Return what is left; nothing is in use any more."""
        self.world.clock.skipped += 30 * 24 * 3600.0
        self.blobs.now += 10_000
        await self.replica._tidy()
        return set(self.blobs._blobs)

    async def ask(self, request):
        context = Context(self.world.clock.monotonic() + 5)
        return await self.replica.routes()[type(request)](request, context)


class World:
    def __init__(self, root) -> None:
        self.root = root
        self.clock = Clock()
        self.origin = Origin(self.clock)
        self.shelves = {"primary": self.origin.blobs}
        self.followers: list[Follower] = []

    def follower(self, node: str) -> Follower:
        self.followers.append(Follower(self, node))
        return self.followers[-1]

    async def holders(self, version: Version) -> set[str]:
        request = GetHoldings((version.version,))
        found = await self.origin.holders.routes()[GetHoldings](request, Context(0.0))
        return {one.name for one in found.holders if one.held}

    async def until(self, test) -> None:
        async with asyncio.timeout(10):
            while not await test():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.01)

    async def held_by(self, version: Version, *names: str) -> None:
        async def test() -> bool:
            return await self.holders(version) == {"founder", *names}

        await self.until(test)


@pytest.fixture
async def world(tmp_path):
    found = World(tmp_path)
    yield found
    for follower in found.followers:
        await follower.stop()


async def test_a_version_is_copied_shown_and_read(world):
    follower = world.follower("b")
    version = world.origin.push("digits", b"model", b"x" * (CHUNK + 1))
    await world.held_by(version, "B")
    assert (await follower.ask(WatchCatalog())).versions == [version]
    chunk = await follower.ask(GetManifest(version.version))
    assert digest_of(bytes(chunk.data.data)) == version.version
    assert bytes((await follower.ask(GetBlob(digest_of(b"model"), 0, 10))).data.data) == b"model"


async def test_every_change_is_refused_and_the_primary_named(world):
    follower = world.follower("b")
    digest = digest_of(b"")
    for change in (
        PutBlob(digest, 0, 0, Tensor("data", "UINT8", (0,), b"")),
        Commit("digits", []),
        MoveAlias("digits", "latest", 1),
        Rollback("digits", "latest"),
        SetServing("digits", False),
        Remove("digits"),
    ):
        with pytest.raises(Conflict, match="founder") as caught:
            await follower.ask(change)
        assert "founder" in caught.value.fix
        assert caught.value.details == {"primary": "founder"}


async def test_three_of_five_hold_it_and_a_lost_one_is_replaced(world):
    followers = {name: world.follower(name) for name in "bcde"}
    version = world.origin.push("digits", b"model")

    async def three() -> bool:
        return len(await world.holders(version)) == 3

    await world.until(three)
    first = await world.holders(version) - {"founder"}
    gone = followers[min(first).lower()]
    await gone.stop()
    await asyncio.sleep(0.1)
    assert await world.holders(version) == {"founder", *first}  # within the grace nothing moves
    assert sum(bool(one.carrier.brought) for one in followers.values()) == 2
    world.clock.skipped += 40
    for one in followers.values():
        one.replica._copying.news.set()
    await world.until(three)
    assert gone.node.upper() not in await world.holders(version)


async def test_who_is_sent_away_is_replaced_at_once(world):
    followers = {name: world.follower(name) for name in "bcd"}
    version = world.origin.push("digits", b"model")

    async def three() -> bool:
        return len(await world.holders(version)) == 3

    await world.until(three)
    before = await world.holders(version) - {"founder"}
    gone = followers[min(before).lower()]
    await gone.stop()
    world.origin.followers.discard(gone.node)
    assert gone.node.upper() not in await world.holders(version)
    for one in followers.values():
        one.replica._copying.news.set()
    await world.until(three)
    (spare,) = followers.keys() - {name.lower() for name in before}
    assert {gone.node not in sources for _, sources in followers[spare].carrier.brought} == {True}


async def test_a_primary_that_comes_back_first_hears_who_holds_what(world):
    origin, old = world.origin, world.origin.push("digits", b"model")
    origin.followers = {"b", "c"}

    async def orders(node: str, *held: Digest) -> set[Digest]:
        report = ReportHoldings(node.upper(), f"{node}:1", list(held))
        return {order.version for order in (await Line(origin, node).call(report, deadline=1.0)).fetch}

    assert await orders("b") == {old.version}
    origin.restart()
    new = origin.push("more", b"another")
    assert await orders("b") == {new.version}, "c may hold the other one"
    assert await orders("c", old.version) == {new.version}
    assert await orders("b") == {old.version, new.version}
    origin.restart()
    assert await orders("b") == set()
    world.clock.skipped += 40
    assert await orders("b") == {old.version, new.version}, "c is not waited for any longer"


async def test_it_reads_on_while_the_primary_is_away_also_after_a_restart(world):
    follower = world.follower("b")
    version = world.origin.push("digits", b"model")
    await world.held_by(version, "B")
    world.origin.away = True
    await follower.stop()
    follower.start()
    await asyncio.sleep(0)
    assert (await follower.ask(WatchCatalog())).versions == [version]
    assert bytes((await follower.ask(GetBlob(digest_of(b"model"), 0, 10))).data.data) == b"model"
    (mine,) = (await follower.ask(GetHoldings((version.version,)))).holders
    assert (mine.node, mine.alive, mine.primary, mine.held) == (follower.node, True, False, [version.version])
    assert (await follower.ask(GetHoldings())).holders == [mine]
    with pytest.raises(Unreachable):
        await follower.ask(GetHoldings((digest_of(b"another"),)))


async def test_what_failed_is_tried_again(world):
    follower = world.follower("b")
    follower.carrier.failures = 1
    version = world.origin.push("digits", b"model")
    await world.held_by(version, "B")


async def test_what_one_cannot_hold_another_does(world):
    full = world.follower("b")
    full.carrier.failures = 1_000
    others = [world.follower(name) for name in "cd"]
    version = world.origin.push("digits", b"model")
    await world.held_by(version, "C", "D")
    assert all(one.carrier.brought for one in others)


async def test_followers_are_sources_for_each_other(world):
    followers = [world.follower(name) for name in "bc"]
    for one in followers:
        one.carrier.gate.clear()
    await asyncio.sleep(0.05)
    version = world.origin.push("digits", b"model")
    for one in followers:
        one.carrier.gate.set()
    await world.held_by(version, "B", "C")
    seen = {sources for one in followers for _, sources in one.carrier.brought}
    assert seen <= {("primary", "b"), ("primary", "c"), ("primary", "b", "c"), ("primary", "c", "b"), ("primary",)}
    assert all(one.node not in sources for one in followers for _, sources in one.carrier.brought)


async def test_what_is_removed_goes_once_nobody_uses_it_and_what_is_shared_stays(world):
    follower = world.follower("b")
    first, second = world.origin.push("one", b"model", b"shared"), world.origin.push("two", b"other", b"shared")
    await world.held_by(first, "B")
    await world.held_by(second, "B")
    follower.blobs.now += 10_000  # nothing is in use any more
    world.origin.show([second])

    async def gone() -> bool:
        return digest_of(b"model") not in follower.blobs._blobs  # asking for it would keep it

    await world.until(gone)
    kept = (second.version, digest_of(b"other"), digest_of(b"shared"), digest_of(CONFIG))
    assert all(follower.blobs.stat(digest).complete for digest in kept)


async def test_a_primary_that_lost_its_memory_takes_nothing_from_its_followers(world, caplog):
    follower = world.follower("b")
    version = world.origin.push("digits", b"model")
    await world.held_by(version, "B")
    another = follower.keep(b"of a catalog that was lost")
    assert (await follower.ask(WatchCatalog())).epoch > 0
    world.origin.show([], epoch=0)

    async def noticed() -> bool:
        return "went back" in caplog.text

    await world.until(noticed)
    assert await follower.tidy_a_month_later() == {another, *world.origin.blobs}
    assert (await follower.ask(WatchCatalog())).versions == [version]
    assert follower.blobs.stat(digest_of(b"model")).complete


def of_another(world, origin: str, epoch: int, *versions: Version):
    """Have a copy of the catalog of a primary before, and return its file."""
    path = followed(world.root, origin)
    FileCatalog(path).save(Catalog(epoch, list(versions), [], origin=origin))
    return path


async def test_until_its_new_primary_answers_it_reads_what_it_copied_of_the_one_before(world):
    version = world.origin.push("digits", b"model")
    path = of_another(world, "gone", 1000, version)
    world.origin.away = True
    follower = world.follower("b")
    assert (await follower.ask(WatchCatalog())).versions == [version]
    world.origin.away = False
    world.origin.catalog = replace(world.origin.catalog, heritage={"gone": 1000})

    async def removed() -> bool:
        return not path.exists()

    await world.until(removed)
    assert (await follower.ask(WatchCatalog())).epoch == world.origin.catalog.epoch
    assert world.origin.taken == []


async def test_what_it_knows_more_of_a_primary_before_it_hands_over(world):
    version = world.origin.push("digits", b"model")
    world.origin.show([])
    world.origin.catalog = replace(world.origin.catalog, heritage={"gone": 999})
    path = of_another(world, "gone", 1000, version)
    follower = world.follower("b")
    assert path.exists()

    async def removed() -> bool:
        return not path.exists()

    await world.until(removed)
    assert [one.epoch for one in world.origin.taken] == [1000]
    assert (await follower.ask(WatchCatalog())).versions == [version]
    await world.held_by(version, "B")


async def test_stopping_ends_a_transfer(world):
    follower = world.follower("b")
    follower.carrier.gate.clear()
    world.origin.push("digits", b"model")
    await asyncio.sleep(0.1)
    await follower.stop()
    assert follower.carrier.closed


async def test_a_report_counts_for_the_node_of_the_connection_alone(world):
    version = world.origin.push("digits", b"model")
    world.origin.followers.add("liar")
    liar = Line(world.origin, "liar")
    orders = await liar.call(ReportHoldings("founder", "x:1", []), deadline=0)
    assert [order.version for order in orders.fetch] == [version.version]
    assert [(source.node, source.address) for source in orders.fetch[0].sources] == [("primary", "origin:1")]
    found = await liar.call(GetHoldings(), deadline=0)
    assert {one.node: one.held for one in found.holders} == {"primary": [version.version], "liar": []}
    assert [one.node for one in found.holders if one.primary] == ["primary"]
    assert found.wanted == 2


async def test_nothing_goes_before_the_primary_said_what_there_is(world):
    world.origin.away = True
    follower = world.follower("b")
    mine = follower.keep(b"from when it ran alone")
    assert await follower.tidy_a_month_later() == {mine}
    world.origin.away = False
    version = world.origin.push("digits", b"model")
    await world.held_by(version, "B")
    assert await follower.tidy_a_month_later() == set(world.origin.blobs)


async def test_what_the_host_had_before_stays(world):
    follower = world.follower("b")
    mine = follower.keep(b"in the ledger of this host")
    first, second = world.origin.push("one", b"model", b"shared"), world.origin.push("two", b"other")
    await world.held_by(first, "B")
    await world.held_by(second, "B")
    follower.spared = {mine, digest_of(b"shared")}
    follower.blobs.now += 10_000
    world.origin.show([second])

    async def gone() -> bool:
        return digest_of(b"model") not in follower.blobs._blobs

    await world.until(gone)
    left = await follower.tidy_a_month_later()
    assert left == {*follower.spared, second.version, digest_of(b"other"), digest_of(CONFIG)}


async def test_a_damaged_version_is_one_that_is_not_held(world):
    follower = world.follower("b")
    damaged, whole = world.origin.push("one", b"model"), world.origin.push("two", b"other")
    await world.held_by(damaged, "B")
    await world.held_by(whole, "B")
    await follower.stop()
    follower.blobs._blobs[damaged.version] = b"no manifest"
    follower.start()
    await world.held_by(whole, "B")

    async def told() -> bool:
        needs = follower.replica._copying.needs
        return damaged.version not in needs and whole.version in needs

    await world.until(told)
    assert not follower.task.done()
