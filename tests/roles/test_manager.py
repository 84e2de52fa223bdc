import asyncio
import contextlib
import tempfile
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest

from tetherd.drivers.models.blobs import DiskBlobs
from tetherd.drivers.models.ledger import SqliteLedger
from tetherd.errors import (
    BlobNotFound,
    Conflict,
    InvalidInput,
    ModelInvalid,
    ModelNotFound,
    OffsetConflict,
    StorageFailed,
    TooLarge,
    VersionNotFound,
)
from tetherd.ports import Context
from tetherd.roles.manager import Limits, Manager
from tetherd.roles.reads import MAX_CHUNK
from tetherd.types import Digest, Signature, Tensor, TensorSpec
from tetherd.wire.catalog import (
    Commit,
    FileEntry,
    GetBlob,
    GetManifest,
    MoveAlias,
    PutBlob,
    Remove,
    Rollback,
    SetServing,
    StatBlob,
    WatchCatalog,
)
from tetherd.wire.chunks import CHUNK
from tetherd.wire.manifest import Config, decode_config, digest_of, parse

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),), batchable=True)


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class Inspector:
    """Accepts every model but those that say otherwise; waits while ``gate`` is closed."""

    def __init__(self) -> None:
        self.seen: list[dict[str, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def inspect(self, files, copy):
        with tempfile.TemporaryDirectory() as directory:
            content = {}
            for file in files:
                copy(file.digest, Path(directory) / "file")
                content[file.path] = (Path(directory) / "file").read_bytes()
                (Path(directory) / "file").unlink()
        self.seen.append(content)
        self.entered.set()
        await self.gate.wait()
        if b"bad" in content["model.onnx"]:
            raise ModelInvalid("bad model")
        return Config("onnx", SIGNATURE)


class World:
    """A manager on a disk, asked the way other roles ask it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.inspector = Inspector()
        self.open()

    def open(self) -> None:
        self.blobs = DiskBlobs(self.root / "blobs", reserve=0, now=self.clock.monotonic)
        self.ledger = SqliteLedger(self.root / "ledger.sqlite")
        self.spared: set[Digest] = set()
        self.manager = Manager(
            blobs=self.blobs,
            ledger=self.ledger,
            inspector=self.inspector,
            clock=self.clock,
            limits=Limits(1 << 20),
            spared=lambda: self.spared,
        )

    def restart(self) -> None:
        self.ledger.close()
        self.open()

    async def ask(self, request, patience: float = 10.0):
        return await self.manager.routes()[type(request)](request, Context(self.clock.now + patience))

    async def upload(self, data: bytes) -> Digest:
        digest = digest_of(data)
        state = await self.ask(PutBlob(digest, 0, len(data), chunk(data)))
        assert state.complete
        return digest

    async def push(self, model: str = "digits", alias: str = "latest", **files: bytes):
        entries = [FileEntry(path, await self.upload(data), len(data)) for path, data in files.items()]
        return await self.ask(Commit(model, entries, alias))

    async def one(self, text: str, alias: str = "latest"):
        return await self.push(alias=alias, **{"model.onnx": text.encode(), "labels.txt": b"shared"})

    async def aliases(self) -> dict[str, int]:
        return {item.alias: item.number for item in (await self.ask(WatchCatalog())).aliases}

    def names(self) -> set[str]:
        return {path.name for path in (self.root / "blobs" / "sha256").iterdir()}


def chunk(data: bytes) -> Tensor:
    return Tensor("data", "UINT8", (len(data),), data)


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.ledger.close()


async def test_a_pushed_model_can_be_fetched_whole(world):
    version = await world.one("first")
    assert (version.number, version.signature, version.size, version.created) == (1, SIGNATURE, 11, 1000.0)
    manifest = (await world.ask(GetManifest(version.version))).data.data
    assert digest_of(manifest) == version.version
    parsed = parse(manifest)
    assert parsed.files() == version.files
    config = await world.ask(GetBlob(Digest(parsed.config.digest), 0, MAX_CHUNK))
    assert decode_config(config.data.data) == Config("onnx", SIGNATURE)
    for file in version.files:
        found = await world.ask(GetBlob(file.digest, 0, MAX_CHUNK))
        assert (digest_of(found.data.data), found.size) == (file.digest, file.size)
    assert world.inspector.seen == [{"labels.txt": b"shared", "model.onnx": b"first"}]


async def test_chunks_are_bounded_both_ways(world):
    data = bytes(MAX_CHUNK + 1)
    with pytest.raises(TooLarge):
        await world.ask(PutBlob(digest_of(data), 0, len(data), chunk(data)))
    await world.ask(PutBlob(digest_of(data), 0, len(data), chunk(data[:-1])))
    with pytest.raises(OffsetConflict):
        await world.ask(PutBlob(digest_of(data), 0, len(data), chunk(data[:-1])))
    assert (await world.ask(StatBlob(digest_of(data)))).offset == MAX_CHUNK
    await world.ask(PutBlob(digest_of(data), MAX_CHUNK, len(data), chunk(data[-1:])))
    assert len((await world.ask(GetBlob(digest_of(data), 0, 1 << 40))).data.data) == MAX_CHUNK


async def test_the_same_files_again_are_the_same_version_without_another_look(world):
    first = await world.one("first")
    second = await world.one("second", alias="canary")
    assert await world.aliases() == {"latest": 1, "canary": 2}
    assert await world.one("second") == second
    assert await world.aliases() == {"latest": 2, "canary": 2}
    assert await world.one("first", alias="canary") == first
    assert await world.aliases() == {"latest": 2, "canary": 1}
    assert len(world.inspector.seen) == 2


async def test_a_version_that_was_lost_is_whole_again_when_its_files_are_pushed(world):
    first = await world.one("first")
    names = world.names()
    for name in names:
        (world.root / "blobs" / "sha256" / name).unlink()
    world.restart()
    assert await world.one("first") == first
    assert world.names() == names


async def test_the_same_files_under_two_names_are_two_versions_that_share_their_blobs(world):
    mine = await world.push("digits", **{"model.onnx": b"same"})
    stored = world.names()
    other = await world.push("letters", **{"model.onnx": b"same"})
    assert mine.version != other.version
    assert mine.files == other.files
    assert world.names() - stored == {other.version.removeprefix("sha256:")}
    for version in (mine, other):
        assert parse((await world.ask(GetManifest(version.version))).data.data).model == version.model
    await world.ask(Remove("digits", 0))
    assert [version.model for version in (await world.ask(WatchCatalog())).versions] == ["letters"]
    assert (await world.ask(GetBlob(other.files[0].digest, 0, MAX_CHUNK))).data.data == b"same"


async def test_two_pushes_of_the_same_files_at_once_make_one_version(world):
    found = await asyncio.gather(*(world.one("first") for _ in range(4)))
    assert {version.number for version in found} == {1}
    assert len((await world.ask(WatchCatalog())).versions) == 1


async def test_what_is_missing_is_listed(world):
    digest = await world.upload(b"here")
    absent = digest_of(b"absent")
    with pytest.raises(BlobNotFound) as caught:
        await world.ask(Commit("digits", [FileEntry("labels.txt", digest, 4), FileEntry("model.onnx", absent, 6)]))
    assert caught.value.details == {"missing": [absent]}
    assert (await world.ask(WatchCatalog())).versions == []


@pytest.mark.parametrize(
    ("model", "path", "size", "alias", "error"),
    [
        ("digits", "model.onnx", 5, "latest", InvalidInput),
        ("Digits!", "model.onnx", 4, "latest", InvalidInput),
        ("digits", "model.onnx", 4, "3", InvalidInput),
        ("digits", "../model.onnx", 4, "latest", ModelInvalid),
        ("digits", "model.onnx", -1, "latest", ModelInvalid),
        ("digits", "model.onnx", (1 << 20) + 1, "latest", TooLarge),
    ],
)
async def test_bad_commits_leave_no_trace(world, model, path, size, alias, error):
    digest = await world.upload(b"here")
    with pytest.raises(error):
        await world.ask(Commit(model, [FileEntry(path, digest, size)], alias))
    catalog = await world.ask(WatchCatalog())
    assert (catalog.epoch, catalog.versions) == (0, [])
    assert world.inspector.seen == []


async def test_a_refused_model_leaves_its_files_and_nothing_else(world):
    with pytest.raises(ModelInvalid):
        await world.one("bad")
    assert (await world.ask(WatchCatalog())).versions == []
    assert len(world.names()) == 2


async def test_aliases_move_and_roll_back(world):
    for text in ("first", "second"):
        await world.one(text)
    seen = await world.ask(MoveAlias("digits", "stable", 1))
    assert (await world.ask(MoveAlias("digits", "stable", 2, seen.epoch))).previous == 1
    with pytest.raises(Conflict):
        await world.ask(MoveAlias("digits", "stable", 1, seen.epoch))
    assert (await world.ask(Rollback("digits", "stable"))).number == 1
    with pytest.raises(InvalidInput):
        await world.ask(MoveAlias("digits", "Not An Alias", 1))
    assert await world.aliases() == {"latest": 2, "stable": 1}


async def test_what_does_not_exist_is_said(world):
    await world.one("first")
    for request, error in (
        (MoveAlias("other", "stable", 1), ModelNotFound),
        (MoveAlias("digits", "stable", 9), VersionNotFound),
        (Remove("digits", 9), VersionNotFound),
        (Remove("other"), ModelNotFound),
        (GetManifest(digest_of(b"first")), VersionNotFound),
        (GetBlob(digest_of(b"nothing"), 0, 1), BlobNotFound),
    ):
        with pytest.raises(error):
            await world.ask(request)


async def test_watchers_all_learn_of_a_change(world):
    epoch = (await world.ask(WatchCatalog())).epoch
    watchers = [asyncio.create_task(world.ask(WatchCatalog(epoch))) for _ in range(5)]
    await asyncio.sleep(0)
    await world.one("first")
    for catalog in await asyncio.gather(*watchers):
        assert catalog.epoch > epoch
        assert [version.number for version in catalog.versions] == [1]


async def test_a_watcher_is_answered_before_it_gives_up(world):
    epoch = (await world.ask(WatchCatalog())).epoch
    async with asyncio.timeout(1):
        assert (await world.ask(WatchCatalog(epoch), patience=0.05)).epoch == epoch
        assert (await world.ask(WatchCatalog(epoch), patience=-1)).epoch == epoch


async def test_watchers_learn_what_was_unloaded(world):
    await world.one("first")
    epoch = (await world.ask(WatchCatalog())).epoch
    watcher = asyncio.create_task(world.ask(WatchCatalog(epoch)))
    await world.ask(SetServing("digits", False))
    assert (await watcher).unloaded == ["digits"]
    await world.ask(SetServing("digits", True))
    assert (await world.ask(WatchCatalog())).unloaded == []


async def test_a_watcher_that_is_ahead_is_answered_at_once(world):
    """Its manager came back with an older or empty ledger."""
    async with asyncio.timeout(1):
        assert (await world.ask(WatchCatalog(99), patience=100)).epoch == 0


async def test_everything_acknowledged_survives_a_restart(world):
    version = await world.one("first")
    partial = b"partial upload"
    await world.ask(PutBlob(digest_of(partial), 0, len(partial), chunk(partial[:5])))
    before = await world.ask(WatchCatalog())
    world.restart()
    assert await world.ask(WatchCatalog()) == before
    assert (await world.ask(GetManifest(version.version))).size
    assert (await world.ask(StatBlob(digest_of(partial)))).offset == 5
    assert (await world.ask(PutBlob(digest_of(partial), 5, len(partial), chunk(partial[5:])))).complete


async def test_removal_frees_the_disk_once_nobody_counts_on_the_files(world):
    await world.one("first")
    await world.one("second")
    world.clock.now += 1000
    await world.ask(Remove("digits", 1))
    await world.ask(StatBlob(digest_of(b"second")))
    assert len(world.names()) == 4
    with pytest.raises(BlobNotFound):
        await world.ask(GetBlob(digest_of(b"first"), 0, 1))
    await world.ask(Remove("digits"))
    assert world.names() == {digest_of(b"second").removeprefix("sha256:")}
    world.clock.now += 1000
    await swept(world)
    assert world.names() == set()


async def swept(world: World) -> None:
    """Run the role until its first sweep is over."""
    done = threading.Event()
    expire = world.blobs.expire

    def watched(kept, before):
        expire(kept, before)
        done.set()

    world.blobs.expire = watched
    ready = asyncio.Event()
    task = asyncio.create_task(world.manager.run(ready.set))
    await ready.wait()
    assert await asyncio.to_thread(done.wait, 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_removal_spares_the_files_of_a_commit_under_way(world):
    """Files of a version that is being removed are what another push relies on."""
    await world.one("first")
    world.clock.now += 1000
    world.inspector.gate.clear()
    world.inspector.entered.clear()
    files = [FileEntry("model.onnx", digest_of(b"first"), 5)]
    push = asyncio.create_task(world.ask(Commit("other", files)))
    await world.inspector.entered.wait()
    await world.ask(Remove("digits"))
    world.inspector.gate.set()
    assert (await push).number == 1
    assert (await world.ask(GetBlob(digest_of(b"first"), 0, 10))).data.data == b"first"


async def test_a_version_that_an_alias_needs_is_not_removed(world):
    await world.one("first")
    await world.one("second")
    with pytest.raises(Conflict):
        await world.ask(Remove("digits", 2))
    assert await world.aliases() == {"latest": 2}


async def test_a_caller_that_goes_away_does_not_hide_a_change(world):
    await world.one("first")
    await world.one("second")
    epoch = (await world.ask(WatchCatalog())).epoch
    watcher = asyncio.create_task(world.ask(WatchCatalog(epoch)))
    move = asyncio.create_task(world.ask(MoveAlias("digits", "stable", 1)))
    await asyncio.sleep(0)
    move.cancel()
    with pytest.raises(asyncio.CancelledError):
        await move
    assert {item.alias: item.number for item in (await watcher).aliases} == {"latest": 2, "stable": 1}


async def test_old_orphans_go_and_what_versions_need_stays(world):
    version = await world.one("first")
    await world.upload(b"orphan")
    world.clock.now += 1e12
    await swept(world)
    assert len(world.names()) == 4
    for file in version.files:
        assert (await world.ask(StatBlob(file.digest))).complete


async def test_a_disk_that_fails_does_not_end_the_role(world):
    await world.one("first")

    def fails(_):
        raise StorageFailed("the disk is gone")

    discard, world.blobs.discard = world.blobs.discard, fails
    world.clock.now += 1000
    await world.ask(Remove("digits"))
    assert (await world.ask(WatchCatalog())).versions == []
    world.blobs.discard = discard
    await swept(world)
    assert world.names() == set()


async def test_the_manifest_knows_every_chunk_of_a_large_file(tmp_path):
    world = World(tmp_path)
    world.manager._max_model = 16 << 20
    world.blobs._max_size = 16 << 20
    data = bytes(range(256)) * (CHUNK // 128) + b"rest"
    for at in range(0, len(data), MAX_CHUNK):
        await world.ask(PutBlob(digest_of(data), at, len(data), chunk(data[at : at + MAX_CHUNK])))
    files = [FileEntry("model.onnx", digest_of(data), len(data))]
    version = await world.ask(Commit("digits", files))
    found = parse(bytes((await world.ask(GetManifest(version.version))).data.data)).blobs()
    pieces = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    assert [list(item.chunks) for item in found if item.digest == digest_of(data)] == [
        [sha256(piece).digest() for piece in pieces]
    ]


async def test_what_is_spared_stays_though_no_version_needs_it(world):
    spared = await world.upload(b"followed before")
    await world.upload(b"abandoned")
    world.spared = {spared}
    world.clock.now = time.time() + 30 * 24 * 3600.0
    await world.manager._sweep()
    assert world.names() == {spared.removeprefix("sha256:")}


async def test_nothing_goes_while_what_is_spared_cannot_be_read(world):
    digest = await world.upload(b"followed before")

    def unreadable() -> set[Digest]:
        raise StorageFailed("a catalog is damaged")

    world.manager._spared = unreadable
    world.clock.now = time.time() + 30 * 24 * 3600.0
    await world.manager._sweep()
    assert world.names() == {digest.removeprefix("sha256:")}
