"""What every manager answers, whether it may change anything or only follows: the catalog, manifests and blobs."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from tetherd.errors import VersionNotFound
from tetherd.ports import Blobs, Clock, Context, Handler
from tetherd.types import Digest, Seconds, Tensor
from tetherd.wire.catalog import BlobState, Catalog, Chunk, GetBlob, GetManifest, StatBlob, WatchCatalog
from tetherd.wire.manifest import MAX_MANIFEST
from tetherd.wire.messages import Request

R = TypeVar("R")

MAX_CHUNK: Final = 1 << 20
_MARGIN: Final[Seconds] = 0.5
_DISK_THREADS: Final = 8


class Reads:
    """Answers from a store of blobs and a catalog, which whoever owns this replaces as it changes."""

    def __init__(self, blobs: Blobs, clock: Clock, catalog: Catalog) -> None:
        self.catalog = catalog
        self._blobs = blobs
        self._clock = clock
        self._disk = ThreadPoolExecutor(_DISK_THREADS, "manager-disk")
        self._changed = asyncio.Event()

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what is answered here."""
        return {StatBlob: self._stat, GetBlob: self._get, GetManifest: self._manifest, WatchCatalog: self._watch}

    def publish(self, catalog: Catalog) -> None:
        """Show a changed catalog to everyone, those who wait for it first."""
        self.catalog = catalog
        self._changed.set()
        self._changed = asyncio.Event()

    async def on_disk(self, act: Callable[..., R], *arguments: Any) -> R:
        """Do what blocks on a disk, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, act, *arguments)

    async def _stat(self, request: StatBlob, _: Context) -> BlobState:
        return await self.on_disk(self._blobs.stat, request.digest)

    async def _get(self, request: GetBlob, _: Context) -> Chunk:
        return await self._read(request.digest, request.offset, min(request.length, MAX_CHUNK))

    async def _manifest(self, request: GetManifest, _: Context) -> Chunk:
        if all(version.version != request.version for version in self.catalog.versions):
            raise VersionNotFound(f"there is no version {request.version}", fix="see tetherctl models versions")
        return await self._read(request.version, 0, MAX_MANIFEST)

    async def _read(self, digest: Digest, offset: int, length: int) -> Chunk:
        data, size = await self.on_disk(self._blobs.read, digest, offset, length)
        return Chunk(size, Tensor("data", "UINT8", (len(data),), data))

    async def _watch(self, request: WatchCatalog, context: Context) -> Catalog:
        """Answer when the catalog is another than the caller has, or shortly before the caller gives up."""
        patience = context.deadline - self._clock.monotonic()
        try:
            async with asyncio.timeout(patience - min(_MARGIN, patience / 10)):
                while request.epoch == self.catalog.epoch:
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self.catalog
