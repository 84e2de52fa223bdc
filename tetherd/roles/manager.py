"""Holds models: takes in their files, admits versions, moves aliases, and tells everyone who watches.

Everything it acknowledges is on disk before it answers. It decides what may go; the stores refuse what is in use.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeVar

from tetherd.errors import BlobNotFound, InvalidInput, ModelNotFound, TetherError, TooLarge, VersionNotFound
from tetherd.ports import Blobs, Clock, Context, Handler, Inspector, Ledger
from tetherd.roles.reads import MAX_CHUNK, Reads
from tetherd.types import Digest, Seconds, parse_alias, parse_model
from tetherd.wire.catalog import (
    Alias,
    BlobState,
    Catalog,
    Commit,
    FileEntry,
    MoveAlias,
    PutBlob,
    Remove,
    Rollback,
    SetServing,
    Version,
)
from tetherd.wire.chunks import CHUNK
from tetherd.wire.manifest import build, check_files, digest_of, encode_config
from tetherd.wire.messages import Done, Request

R = TypeVar("R")

_SWEEP: Final[Seconds] = 60.0

_log = logging.getLogger("tetherd.manager")


class Limits(NamedTuple):
    """``max_model`` bounds the bytes of a version.

    ``upload_ttl`` is how long an upload, or a blob that no version came to need, is kept for its continuation.
    """

    max_model: int = 8 << 30
    upload_ttl: Seconds = 7 * 24 * 3600.0


class Manager:
    """The manager role: blobs, versions and aliases of one host.

    ``spared`` (blocking): the blobs that stay though no version here needs them.
    """

    def __init__(
        self,
        *,
        blobs: Blobs,
        ledger: Ledger,
        inspector: Inspector,
        clock: Clock,
        limits: Limits = Limits(),  # noqa: B008 - immutable
        spared: Callable[[], set[Digest]] = set,
    ) -> None:
        self._blobs = blobs
        self._ledger = ledger
        self._inspector = inspector
        self._clock = clock
        self._max_model, self._upload_ttl = limits
        self._spared = spared
        self._reads = Reads(blobs, clock, ledger.catalog())
        self._books = ThreadPoolExecutor(1, "manager-books")  # one thread: changes happen one after the other
        self._doomed: set[Digest] = set()

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what this role answers."""
        return {
            **self._reads.routes(),
            PutBlob: self._put,
            Commit: self._commit,
            MoveAlias: self._move,
            Rollback: self._rollback,
            SetServing: self._set_serving,
            Remove: self._remove,
        }

    def versions(self) -> list[Digest]:
        """Return every version there is: this manager holds them all."""
        return [version.version for version in self._reads.catalog.versions]

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled, removing now and then what nobody needs."""
        ready()
        while True:
            await self._sweep()
            await asyncio.sleep(_SWEEP)

    # --- blobs ---

    async def _put(self, request: PutBlob, _: Context) -> BlobState:
        data = request.data.data
        if len(data) > MAX_CHUNK:
            raise TooLarge(
                f"a chunk has {len(data):,} bytes, {MAX_CHUNK:,} is the limit", fix="send the file in smaller chunks"
            )
        return await self._reads.on_disk(self._blobs.append, request.digest, request.offset, request.size, data)

    # --- versions and aliases ---

    async def _commit(self, request: Commit, _: Context) -> Version:
        parse_model(request.model)
        parse_alias(request.alias)
        files = sorted(request.files, key=lambda file: file.path)
        check_files(files)
        self._check_size(sum(file.size for file in files))
        await self._reads.on_disk(self._check_stored, files)
        known = self._find(request.model, files)
        if known is not None and await self._reads.on_disk(self._whole, known):
            try:
                await self.record(self._ledger.move, request.model, request.alias, known.number)
            except (ModelNotFound, VersionNotFound):
                pass  # it was removed a moment ago: these files make a new version
            else:
                return known
        return await self._admit(request, files)

    async def _admit(self, request: Commit, files: list[FileEntry]) -> Version:
        """Make a version that does not exist yet; nobody sees any of it before the ledger has it."""
        config = await self._inspector.inspect(files, self._blobs.copy)
        description = encode_config(config)
        chunks = await self._reads.on_disk(self._chunks, files)
        manifest = build(request.model, files, description, chunks)
        draft = Version(
            model=request.model,
            number=0,
            version=digest_of(manifest),
            config=digest_of(description),
            format=config.format,
            signature=config.signature,
            size=sum(file.size for file in files),
            created=self._clock.wall(),
            files=files,
        )
        await self._reads.on_disk(self._write, description, manifest)
        await self._reads.on_disk(self._check_stored, files)  # held again from now on, however long the inspection took
        return await self.record(self._ledger.commit, draft, request.alias)

    async def _move(self, request: MoveAlias, _: Context) -> Alias:
        parse_alias(request.alias)
        number, epoch = request.number, request.expected_epoch
        return await self.record(self._ledger.move, request.model, request.alias, number, epoch)

    async def _rollback(self, request: Rollback, _: Context) -> Alias:
        return await self.record(self._ledger.rollback, request.model, request.alias)

    async def _set_serving(self, request: SetServing, _: Context) -> Done:
        await self.record(self._ledger.set_serving, request.model, request.serving)
        return Done()

    async def _remove(self, request: Remove, _: Context) -> Done:
        self._doomed |= await self.record(self._ledger.remove, request.model, request.number)
        await self._reap()
        return Done()

    # --- what the above is made of ---

    def _find(self, model: str, files: list[FileEntry]) -> Version | None:
        return next(
            (version for version in self._reads.catalog.versions if version.model == model and version.files == files),
            None,
        )

    def _whole(self, version: Version) -> bool:
        """Tell whether a version is here; of one that was taken over, the documents may not be."""
        return all(self._blobs.stat(digest).complete for digest in version.blobs())

    def _check_size(self, size: int) -> None:
        if size > self._max_model:
            raise TooLarge(
                f"the model has {size:,} bytes, {self._max_model:,} is the limit",
                fix="push a smaller model, or raise manager.max_model in the manager's configuration",
            )

    def _check_stored(self, files: Sequence[FileEntry]) -> None:
        """Raise BlobNotFound unless all files are stored; they are held from here on."""
        states = [self._blobs.stat(file.digest) for file in files]
        missing = [file for file, state in zip(files, states, strict=True) if not state.complete]
        if missing:
            raise BlobNotFound(
                f"{len(missing)} of {len(files)} files are not stored here, {missing[0].path!r} is the first",
                fix="push the model again: only what is missing is sent",
                details={"missing": [file.digest for file in missing]},
            )
        for file, state in zip(files, states, strict=True):
            if state.offset != file.size:
                raise InvalidInput(
                    f"{file.path!r} is listed with {file.size:,} bytes but has {state.offset:,}", fix="push it again"
                )

    def _chunks(self, files: Sequence[FileEntry]) -> dict[Digest, list[bytes]]:
        """Return the digest of every chunk of the files that have several."""
        found: dict[Digest, list[bytes]] = {}
        for file in files:
            if file.size > CHUNK and file.digest not in found:
                starts = range(0, file.size, CHUNK)
                found[file.digest] = [sha256(self._blobs.read(file.digest, at, CHUNK)[0]).digest() for at in starts]
        return found

    def _write(self, *documents: bytes) -> None:
        for document in documents:
            digest = digest_of(document)
            state = self._blobs.stat(digest)
            if not state.complete:
                self._blobs.append(digest, state.offset, len(document), memoryview(document)[state.offset :])

    async def record(self, act: Callable[..., R], *arguments: Any) -> R:
        """Change the ledger and let everyone see it, also when the caller is gone before it is done."""

        def change() -> tuple[R, Catalog]:
            return act(*arguments), self._ledger.catalog()

        task = asyncio.get_running_loop().run_in_executor(self._books, change)
        task.add_done_callback(self._publish)
        result, _ = await asyncio.shield(task)
        return result

    def _publish(self, change: asyncio.Future[tuple[Any, Catalog]]) -> None:
        if change.cancelled() or change.exception() is not None:
            return
        _, catalog = change.result()
        if catalog.epoch != self._reads.catalog.epoch:
            self._reads.publish(catalog)

    async def _sweep(self) -> None:
        await self._reap()
        try:
            kept = await self._needed()
            await self._reads.on_disk(self._blobs.expire, kept, self._clock.wall() - self._upload_ttl)
        except TetherError as error:
            _log.warning("could not look for abandoned uploads: %s", error.message)

    async def _reap(self) -> None:
        """Remove the blobs of removed versions; those that an upload or commit counts on now wait for the next time."""
        doomed, self._doomed = self._doomed, set()
        if not doomed:
            return
        try:
            doomed -= await self._needed()
            self._doomed |= await self._reads.on_disk(self._blobs.discard, doomed)
        except TetherError as error:
            self._doomed |= doomed
            _log.warning("could not remove the files of removed versions: %s", error.message)

    async def _needed(self) -> set[Digest]:
        spared = await self._reads.on_disk(self._spared)
        return spared | await asyncio.get_running_loop().run_in_executor(self._books, self._ledger.references)
