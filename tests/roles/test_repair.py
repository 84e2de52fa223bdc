"""A primary that does not hold what it took over fetches it from those who do, and says what nobody has."""

import asyncio

from tetherd.policy.replication import GRACE
from tetherd.ports import Context
from tetherd.roles.copying import Copying
from tetherd.roles.holdings import Here, Holders
from tetherd.roles.repair import Repair
from tetherd.testing import MemoryBlobs
from tetherd.types import Signature
from tetherd.wire.catalog import FileEntry
from tetherd.wire.manifest import Config, build, digest_of, encode_config
from tetherd.wire.replication import GetHoldings, ReportHoldings

CONFIG = encode_config(Config("onnx", Signature((), ())))
MANIFEST = build("m", [FileEntry("m.onnx", digest_of(b"model"), 5)], CONFIG)
VERSION, LOST = digest_of(MANIFEST), digest_of(b"lost")
CONTENTS = {digest_of(data): data for data in (MANIFEST, CONFIG, b"model")}


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class Fetcher:
    def __init__(self, blobs: MemoryBlobs) -> None:
        self.blobs = blobs
        self.closed = False
        self.asked: set[str] = set()

    def document(self, digest, limit, sources):
        self.asked |= {source.node for source in sources}
        self.blobs.append(digest, 0, len(CONTENTS[digest]), CONTENTS[digest])
        return CONTENTS[digest]

    def close(self):
        self.closed = True


async def test_what_is_missing_is_fetched_and_what_is_lost_is_named(caplog):
    clock, blobs = Clock(), MemoryBlobs()
    fetcher = Fetcher(blobs)
    copying = Copying(blobs, fetcher, lambda: [VERSION, LOST])
    holders = Holders(
        Here("me", "me:1", "me"),
        clock=clock,
        versions=lambda: [VERSION, LOST],
        followers=lambda: ["b"],
        copying=copying,
    )
    repair = asyncio.create_task(Repair(holders, copying, clock).run(lambda: None))

    async def held() -> list[list[str]]:
        found = await holders.routes()[GetHoldings](GetHoldings(), Context(0.0))
        return [one.held for one in found.holders]

    assert await held() == [[]]
    report = ReportHoldings("b", "b:1", [VERSION])
    await holders.routes()[ReportHoldings](report, Context(0.0, node="b"))
    copying.news.set()
    async with asyncio.timeout(10):
        while copying.missing != {LOST}:  # noqa: ASYNC110 - what is waited for tells somebody else
            await asyncio.sleep(0.01)
        assert await held() == [[VERSION], [VERSION]]
        assert fetcher.asked == {"b"}
        assert "no manager that is there holds" not in caplog.text
        clock.now += GRACE + 1
        copying.news.set()
        while "no manager that is there holds" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    (line,) = [one for one in caplog.records if "no manager" in one.message]
    assert line.version == LOST
    repair.cancel()
    await asyncio.gather(repair, return_exceptions=True)
    assert fetcher.closed
