"""Versions as they lie in a store: which are there in full, and those that a manager was told to bring."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tetherd.errors import TetherError
from tetherd.ports import Blobs, Fetcher
from tetherd.types import Digest, Seconds
from tetherd.wire.chunks import CHUNK
from tetherd.wire.manifest import MAX_MANIFEST, parse
from tetherd.wire.replication import Fetch

_RETRY: Final[Seconds] = 1.0

_log = logging.getLogger("tetherd.copying")


class Copying:
    """The versions that ``versions`` names, as ``blobs`` has them; ``fetcher`` brings what is not there.

    ``needs`` has of each version that is here in full its manifest and its blobs; ``missing`` are the others, all of
    them until somebody looked. ``news`` is set when any of it changed.
    """

    def __init__(self, blobs: Blobs, fetcher: Fetcher, versions: Callable[[], Iterable[Digest]]) -> None:
        self.needs: dict[Digest, set[Digest]] = {}
        self.missing = set(versions())
        self.fetching: Digest | None = None
        self.failing: set[Digest] = set()
        self.news = asyncio.Event()
        self._blobs = blobs
        self._fetcher = fetcher
        self._versions = versions
        self._orders: dict[Digest, Fetch] = {}
        self._ordered = asyncio.Event()

    def order(self, orders: Sequence[Fetch]) -> None:
        """Bring these versions, and no others any more."""
        self._orders = {order.version: order for order in orders}
        self.failing.intersection_update(self._orders)
        self._ordered.set()

    async def obey(self) -> None:
        """Bring what is ordered, one version after the other: one already uses all the way there is."""
        while True:
            if not self._orders:
                self._ordered.clear()
                await self._ordered.wait()
                continue
            version, order = next(iter(self._orders.items()))
            if version in self.needs:
                del self._orders[version]
                continue
            self.fetching = version
            try:
                await asyncio.to_thread(self._bring, order)
                self.failing.discard(version)
                _log.info("holding a copy", extra={"version": version})
            except TetherError as error:
                self.failing.add(version)
                _log.warning("could not copy a version", extra={"version": version, "reason": error.message})
                await asyncio.sleep(_RETRY)
            finally:
                self.fetching = None
                self._orders.pop(version, None)
            await self.look()
            self.news.set()

    async def look(self) -> None:
        """Find out which versions are here in full."""
        named = set(self._versions())
        self.needs = await asyncio.to_thread(self._find, named)
        self.missing = named.difference(self.needs)

    def close(self) -> None:
        """End what is under way."""
        self._fetcher.close()

    def _bring(self, order: Fetch) -> None:
        """Bring a version's blobs, and its manifest first: it says what they are, and which chunks they are made of."""
        manifest = self._fetcher.document(order.version, MAX_MANIFEST, order.sources)
        for blob in parse(manifest).blobs():
            if blob.size <= CHUNK:
                self._fetcher.document(blob.digest, blob.size, order.sources)
            else:
                self._fetcher.fetch(blob, order.sources)

    def _find(self, versions: Iterable[Digest]) -> dict[Digest, set[Digest]]:
        found: dict[Digest, set[Digest]] = {}
        for version in versions:
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
