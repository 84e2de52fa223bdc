"""One manager's bulk path in a process of its own, for the benchmark: serves its store, and fetches when told to.

``python bulk_node.py FOLDER``: reads ``setup.json`` there, says its address on standard output, and answers each line
on standard input, a blob and who has it, with the seconds that it took to hold the blob durably.
"""

import asyncio
import resource
import sys
import time
from pathlib import Path

import msgspec

from tetherd.drivers.models.blobs import DiskBlobs
from tetherd.drivers.models.bulk import BulkServer
from tetherd.drivers.models.drafts import Drafts
from tetherd.drivers.models.fetch import BulkClient
from tetherd.drivers.models.replicas import StoreFetcher
from tetherd.drivers.tcp.mutual import dialling, listening
from tetherd.types import Credentials
from tetherd.wire.chunks import Blob, BlobSource


class Setup(msgspec.Struct):
    """Where a node listens, what it shows, and where its blobs are."""

    listen: str
    store: str
    credentials: Credentials


class Task(msgspec.Struct):
    """A blob to fetch, and who has it or fetches it too."""

    blob: Blob
    sources: list[BlobSource]


class Done(msgspec.Struct):
    """How long it took, and the CPU seconds of this process meanwhile."""

    seconds: float
    cpu: float


async def main(folder: Path) -> None:
    """Serve and fetch until standard input ends."""
    setup = msgspec.json.decode((folder / "setup.json").read_bytes(), type=Setup)
    serving, calling = listening(setup.credentials), dialling(setup.credentials)
    blobs, drafts = DiskBlobs(Path(setup.store), reserve=0, hold=0), Drafts()
    fetcher = StoreFetcher(blobs, drafts, BulkClient(lambda: calling), setup.credentials.node)
    server = BulkServer(setup.listen, shelf=blobs, drafts=drafts, context=lambda: serving, admit=lambda _: None)

    def fetch(task: Task) -> Done:
        blobs.discard({task.blob.digest})
        began, cpu = time.monotonic(), _cpu()
        fetcher.fetch(task.blob, task.sources)
        return Done(time.monotonic() - began, _cpu() - cpu)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run(lambda: print(server.address, flush=True)))
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            done = await asyncio.to_thread(fetch, msgspec.json.decode(line, type=Task))
            print(msgspec.json.encode(done).decode(), flush=True)
        running.cancel()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(Path(sys.argv[1])))
