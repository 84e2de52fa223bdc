"""Brings a blob from several hosts at once, over ranged HTTPS with mutual TLS. Blocking; used by runners and managers.

Every chunk is checked by its own digest before it is stored, so a wrong one is its source's fault, who is asked no
more, and comes from another. The digests of chunks are in the version's manifest, which the version's own digest proves
(see wire/manifest): no source can lie about them. A blob whose manifest has none comes from one source at a time, and
is judged as a whole.
"""

import hashlib
import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tetherd.drivers.models.drafts import Draft
from tetherd.drivers.models.link import PACE, Link, Pace
from tetherd.drivers.tcp.dialer import POLL, Dialer, Refused
from tetherd.errors import DigestMismatch, Unavailable
from tetherd.policy.fetching import Plan
from tetherd.types import Digest
from tetherd.wire.chunks import CHUNK, Blob, BlobSource, Ways, said
from tetherd.wire.manifest import MAX_MANIFEST, digest_of

MAX_LANES: Final = 8
"""Each source gets two connections, because while a chunk of one is checked, another can arrive; this many in all."""

_WRONG: Final = "sent wrong bytes"

_log = logging.getLogger("tetherd.fetch")


class Fetched(msgspec.Struct, frozen=True):
    """Where a blob came from: bytes by node, and why others were asked no more."""

    bytes_from: dict[str, int]
    banned: dict[str, str]


class Fetch:
    """One blob being brought into a draft from ``sources``, in threads of its own."""

    def __init__(self, draft: Draft, sources: Sequence[BlobSource], dialer: Dialer, pace: Pace, salt: int) -> None:
        self._draft = draft
        self._blob = draft.blob
        self._sources = sources
        self._dialer = dialer
        self._pace = pace
        self._plan = Plan(len(draft.blob), have=draft.have, salt=salt)
        self._changed = threading.Condition()
        self._over = False
        self._failure: BaseException | None = None
        self._bytes: Counter[str] = Counter()
        self._moved = time.monotonic()
        for source in sources:
            self._plan.offer(source.node, ())  # until it says what it has

    def run(self, progress: Callable[[], None], ended: threading.Event) -> Fetched:
        """Return when every chunk is here and hashed. Raises Unavailable (also once ``ended``) and OSError."""
        lanes = [*self._sources, *self._sources][: max(MAX_LANES, len(self._sources))]
        links = [Link(source, self._dialer, self._pace, lambda: self._over) for source in lanes]
        threads = [
            threading.Thread(target=self._work, args=lane, daemon=True) for lane in zip(lanes, links, strict=True)
        ]
        for thread in threads:
            thread.start()
        try:
            self._follow(progress, ended)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            for link in links:
                link.abort()
            for thread in threads:
                thread.join()
        return Fetched(dict(self._bytes), dict(self._plan.banned))

    def _follow(self, progress: Callable[[], None], ended: threading.Event) -> None:
        """Hash what arrives, in order, until it is all here or cannot be."""
        moved = self._moved
        while True:
            with self._changed:
                if not self._settled():
                    self._changed.wait(POLL)
                finished = self._plan.finished
                if self._failure is not None:
                    raise self._failure
                if self._plan.stuck or time.monotonic() - self._moved > self._pace.stuck:
                    raise self._unavailable()
            if ended.is_set():
                raise Unavailable("the fetch was ended: this host is stopping")
            self._draft.hash_on()
            if self._moved != moved:
                moved = self._moved
                progress()
            if finished:
                return

    def _settled(self) -> bool:
        return self._plan.finished or self._plan.stuck or self._failure is not None

    def _unavailable(self) -> Unavailable:
        return unavailable(self._blob.digest, self._plan.banned)

    # --- in the threads, one for each connection -------------------------------------------------------------------

    def _work(self, source: BlobSource, link: Link) -> None:
        buffer = memoryview(bytearray(min(CHUNK, self._blob.size)))
        try:
            while not self._ended(source):
                index = self._take(source)
                try:
                    data = self._ask(source, link, index, buffer)
                except (Refused, OSError) as error:
                    self._failed(source, link, index, error)
                else:
                    if index is not None:
                        self._store(source, index, data)
        except BaseException as error:  # whoever waits for the blob has to learn of it
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()
        finally:
            link.close()

    def _ended(self, source: BlobSource) -> bool:
        with self._changed:
            return self._over or self._plan.finished or source.node in self._plan.banned

    def _take(self, source: BlobSource) -> int | None:
        with self._changed:
            return self._plan.take(source.node, time.monotonic())

    def _ask(self, source: BlobSource, link: Link, index: int | None, buffer: memoryview) -> memoryview:
        """Ask for a chunk and check it; where there is none to ask for, ask what there is, or wait."""
        if index is not None:
            data = link.read(self._blob, index, buffer)
            if self._blob.chunks and hashlib.sha256(data).digest() != self._blob.chunks[index]:
                raise Refused(_WRONG)
            return data
        with self._changed:
            whole = self._plan.whole(source.node)
        have = None if whole else link.held(self._blob)
        with self._changed:
            news = not whole and self._plan.offer(source.node, have)
            if not news:
                # Not woken by every chunk: asking a host each time what it has would cost it more than it gives.
                self._changed.wait_for(lambda: self._over or self._settled(), POLL)
        return buffer[:0]

    def _store(self, source: BlobSource, index: int, data: memoryview) -> None:
        self._draft.put(index, data)
        with self._changed:
            now = self._moved = time.monotonic()
            if self._plan.done(source.node, index, now):
                self._bytes[source.node] += len(data)
            self._changed.notify_all()

    def _failed(self, source: BlobSource, link: Link, index: int | None, error: Refused | OSError) -> None:
        link.close()
        final = isinstance(error, Refused) and error.final
        with self._changed:
            if self._over:
                return
            pause = self._plan.failed(source.node, index, str(error) or type(error).__name__, final=final)
            self._changed.notify_all()
            if source.node not in self._plan.banned:
                self._changed.wait_for(lambda: self._over, pause)
                return
        what = {"peer": source.node, "blob": self._blob.digest, "reason": str(error)}
        _log.warning("a source is asked no more", extra=what)


def _nothing() -> None:
    """Stand for a caller that does not care how it gets on."""


class BulkClient:
    """Fetches blobs.

    ``context`` is asked for the TLS context of each fetch, so a renewed certificate is used; ``ways`` where to dial a
    source, each time that one is dialled.
    """

    def __init__(
        self, context: Callable[[], ssl.SSLContext], pace: Pace = PACE, ways: Callable[[BlobSource], Ways] = said
    ) -> None:
        self._context = context
        self._pace = pace
        self._ways = ways
        self._ended = threading.Event()

    def close(self) -> None:
        """End what is under way, from any thread."""
        self._ended.set()

    def fetch(
        self, draft: Draft, sources: Sequence[BlobSource], *, salt: int = 0, progress: Callable[[], None] = _nothing
    ) -> Fetched:
        """Bring what is missing of a blob into its draft; when this returns, the whole has the blob's digest.

        ``salt`` tells hosts that fetch the same blob apart (see Plan); ``progress`` is called when something has
        arrived. Raises Unavailable with what every source did, DigestMismatch where the chunks are right and the whole
        is not, and OSError of the disk.
        """
        blob = draft.blob
        if blob.size and not blob.chunks:
            return self._fetch_whole(draft, sources, progress)
        found = Fetch(draft, sources, self._dialer(), self._pace, salt).run(progress, self._ended)
        if draft.digest() != blob.digest:
            draft.forget()
            raise DigestMismatch(
                f"the chunks that the manifest lists do not make up {blob.digest[:19]}", fix="push the model again"
            )
        return found

    def document(self, digest: Digest, limit: int, sources: Sequence[BlobSource]) -> bytes:
        """Return a blob of at most ``limit`` bytes, such as a manifest, from the first source that has it.

        Raises Unavailable.
        """
        banned: dict[str, str] = {}
        dialer = self._dialer()
        for source in sources:
            link = Link(source, dialer, self._pace, lambda: False)
            try:
                data = bytes(link.whole(digest, limit))
            except (Refused, OSError) as error:
                banned[source.node] = str(error) or type(error).__name__
                continue
            finally:
                link.close()
            if digest_of(data) == digest:
                return data
            banned[source.node] = _WRONG
        raise unavailable(digest, banned)

    def _dialer(self) -> Dialer:
        return Dialer(self._context(), self._ways, self._pace.connect)

    def _fetch_whole(self, draft: Draft, sources: Sequence[BlobSource], progress: Callable[[], None]) -> Fetched:
        """Try one source after the other, each from the start: only the whole tells whose bytes are right."""
        banned: dict[str, str] = {}
        for source in sources:
            draft.forget()
            try:
                found = Fetch(draft, [source], self._dialer(), self._pace, 0).run(progress, self._ended)
            except Unavailable as error:
                banned |= error.details.get("sources", {})
                continue
            if draft.digest() == draft.blob.digest:
                return Fetched(found.bytes_from, banned)
            banned[source.node] = _WRONG
            _log.warning("a source sent wrong bytes", extra={"peer": source.node, "blob": draft.blob.digest})
        draft.forget()
        raise unavailable(draft.blob.digest, banned)


class FleetOrigin:
    """Managers of other hosts, all at once. ``progress`` is called while something arrives."""

    resumes = True

    def __init__(self, client: BulkClient, sources: Sequence[BlobSource], progress: Callable[[], None]) -> None:
        self._client = client
        self._sources = sources
        self._progress = progress

    def manifest(self, version: Digest) -> bytes:
        """Return a version's manifest."""
        return self._client.document(version, MAX_MANIFEST, self._sources)

    def document(self, digest: Digest, size: int) -> bytes:
        """Return a small blob."""
        return self._client.document(digest, size, self._sources)

    def bring(self, blob: Blob, target: Path) -> None:
        """Write a blob to ``target``, going on from what an earlier attempt left there."""
        self._client.fetch(Draft(blob, target), self._sources, progress=self._progress)


def unavailable(digest: Digest, banned: Mapping[str, str]) -> Unavailable:
    """Return the error that says why nobody brought a blob."""
    reasons = [f"{node[:12]}: {why}" for node, why in banned.items()] or ["no source has all of it"]
    return Unavailable(
        f"{digest[:19]} could not be fetched ({'; '.join(reasons)})",
        fix="see that the managers run and can be reached; what has arrived is kept",
        details={"sources": dict(banned)},
    )
