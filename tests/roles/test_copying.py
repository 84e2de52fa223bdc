"""Which versions lie in a store in full, and how those come that do not."""

import asyncio
import contextlib

from tetherd.errors import Unavailable
from tetherd.roles.copying import Copying
from tetherd.testing import MemoryBlobs
from tetherd.types import Signature
from tetherd.wire.catalog import FileEntry
from tetherd.wire.chunks import CHUNK, BlobSource
from tetherd.wire.manifest import Config, build, digest_of, encode_config
from tetherd.wire.replication import Fetch

CONFIG = encode_config(Config("onnx", Signature((), ())))
SOURCES = [BlobSource("a", "a:1")]


class Shelf:
    """Implements ports.Fetcher with whatever was put on it."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self.blobs = blobs
        self.contents = {digest_of(CONFIG): CONFIG}
        self.whole: list[str] = []

    def put(self, model: str, content: bytes):
        files = [FileEntry("m.onnx", digest_of(content), len(content))]
        manifest = build(model, files, CONFIG)
        self.contents |= {digest_of(manifest): manifest, digest_of(content): content}
        return digest_of(manifest)

    def document(self, digest, limit, sources):
        assert sources == SOURCES
        if digest not in self.contents:
            raise Unavailable("no source has it")
        data = self.contents[digest]
        self.blobs.append(digest, 0, len(data), data)
        return data

    def fetch(self, blob, sources):
        self.whole.append(blob.digest)
        self.document(blob.digest, blob.size, sources)

    def close(self):
        pass


@contextlib.asynccontextmanager
async def running(copying: Copying):
    task = asyncio.create_task(copying.obey())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_until_somebody_looked_everything_is_missing():
    blobs = MemoryBlobs()
    shelf = Shelf(blobs)
    version = shelf.put("m", b"model")
    for data in shelf.contents.values():
        blobs.append(digest_of(data), 0, len(data), data)
    copying = Copying(blobs, shelf, lambda: [version])
    assert (copying.missing, copying.needs) == ({version}, {})
    await copying.look()
    assert (copying.missing, copying.needs) == (set(), {version: set(shelf.contents)})


async def test_what_is_ordered_is_brought_small_files_whole_and_large_ones_in_chunks():
    blobs = MemoryBlobs()
    shelf = Shelf(blobs)
    small, large = shelf.put("small", b"model"), shelf.put("large", b"x" * (CHUNK + 1))
    copying = Copying(blobs, shelf, lambda: [small, large])
    async with running(copying), asyncio.timeout(10):
        copying.order([Fetch(small, SOURCES), Fetch(large, SOURCES)])
        while len(copying.needs) < 2:
            await copying.news.wait()
            copying.news.clear()
    assert (copying.missing, copying.failing, copying.fetching) == (set(), set(), None)
    assert shelf.whole == [digest_of(b"x" * (CHUNK + 1))]


async def test_what_could_not_be_brought_is_named_until_it_is_not_ordered_any_more():
    blobs = MemoryBlobs()
    shelf = Shelf(blobs)
    version = digest_of(b"nobody has this manifest")
    copying = Copying(blobs, shelf, lambda: [version])
    async with running(copying), asyncio.timeout(10):
        copying.order([Fetch(version, SOURCES)])
        await copying.news.wait()
    assert (copying.missing, copying.failing) == ({version}, {version})
    copying.order([])
    assert copying.failing == set()
