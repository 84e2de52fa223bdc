"""What a gateway asks of manager and orchestrator on behalf of operators, with the catalog kept in step."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, TypeVar

from tetherd.ports import Caller, Clock
from tetherd.roles.gateway.catalog import Entry, Model, View
from tetherd.roles.gateway.fleet import Fleet, look
from tetherd.types import Digest, Reference, Seconds, Tensor
from tetherd.wire.catalog import (
    Alias,
    BlobState,
    Commit,
    FileEntry,
    MoveAlias,
    PutBlob,
    Remove,
    Rollback,
    SetServing,
    Version,
)
from tetherd.wire.messages import Ensure, Release, Request
from tetherd.wire.replication import GetHoldings, Holdings

CHUNK: Final = 1024 * 1024
PATIENCE: Final[Seconds] = 120.0
"""How long loading or publishing a model may take."""

_BRIEF: Final[Seconds] = 2.0

R = TypeVar("R")


class Operations:
    """Calls that change models. Each returns when this gateway's own catalog shows the change.

    ``refresh`` fetches the catalog now; ``view`` is the one in force.
    """

    def __init__(
        self,
        *,
        orchestrator: Caller,
        manager: Caller,
        clock: Clock,
        view: Callable[[], View],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self.view = view
        self._orchestrator = orchestrator
        self._manager = manager
        self._clock = clock
        self._refresh = refresh

    async def fleet(self) -> Fleet:
        """Return what the orchestrator sees now."""
        return await look(self._orchestrator, self._clock, self.view().unloaded)

    async def ask(self, request: Request[R], request_id: str) -> R:
        """Call the manager."""
        return await self._manager.call(request, deadline=self._clock.monotonic() + PATIENCE, request_id=request_id)

    async def holdings(self, versions: Iterable[Digest], request_id: str) -> Holdings:
        """Return which managers hold these versions. Raises Unavailable."""
        request = GetHoldings(tuple(versions))
        return await self._manager.call(request, deadline=self._clock.monotonic() + _BRIEF, request_id=request_id)

    async def store(self, body: bytes, request_id: str) -> Digest:
        """Store bytes that are in memory; return their digest."""
        digest = Digest(f"sha256:{hashlib.sha256(body).hexdigest()}")
        await self.put(digest, 0, len(body), _cut(body), request_id)
        return digest

    async def put(
        self, digest: Digest, offset: int, size: int, pieces: AsyncIterator[bytes], request_id: str
    ) -> BlobState:
        """Append pieces of at most 1 MiB to a blob, one after the other, so that a slow disk slows its sender."""
        state: BlobState | None = None
        async for piece in pieces:
            state = await self.ask(PutBlob(digest, offset, size, octets(piece)), request_id)
            offset += len(piece)
        if state is not None:
            return state
        return await self.ask(PutBlob(digest, offset, size, octets(b"")), request_id)

    async def commit(self, model: str, files: list[FileEntry], alias: str, request_id: str) -> tuple[Version, bool]:
        """Publish a version; return it and whether it is new."""
        known = self.view().digests
        version = await self.ask(Commit(model, files, alias), request_id)
        await self._refresh()
        return version, version.version not in known

    async def load(self, entry: Entry, request_id: str) -> None:
        """Take work for a model, load a version of it, and wait until that is ready.

        Raises ModelLoadFailed, Unavailable.
        """
        version = entry.version
        await self._set_serving(version.model, True, request_id)
        await self._orchestrator.call(
            Ensure(version.model, version.number, version.version),
            deadline=self._clock.monotonic() + PATIENCE,
            request_id=request_id,
        )

    async def unload(self, model: Model, request_id: str, number: int = 0, *, refuse: bool = True) -> None:
        """Stop the runners of a model, or of one version of it; ``refuse`` work for it from now on."""
        if refuse:
            await self._set_serving(model.name, False, request_id)
        await self._orchestrator.call(
            Release(model.name, number, refuse), deadline=self._clock.monotonic() + PATIENCE, request_id=request_id
        )

    async def _set_serving(self, model: str, serving: bool, request_id: str) -> None:
        await self.ask(SetServing(model, serving), request_id)
        await self._refresh()

    async def point(self, model: Model, alias: str, number: int, expected_epoch: int, request_id: str) -> Alias:
        """Move an alias to a version, once that version is ready to serve."""
        await self.load(self.view().resolve(Reference(model.name, version=number)), request_id)
        moved = await self.ask(MoveAlias(model.name, alias, number, expected_epoch), request_id)
        await self._refresh()
        return moved

    async def roll_back(self, model: Model, alias: str, request_id: str) -> Alias:
        """Point an alias to where it was before, once that version is ready to serve."""
        current = model.aliases.get(alias)
        if current is not None and current.previous in model.versions:
            await self.load(model.versions[current.previous], request_id)
        moved = await self.ask(Rollback(model.name, alias), request_id)
        await self._refresh()
        return moved

    async def remove(self, model: Model, number: int, request_id: str) -> None:
        """Remove a version, or the model (0), and stop its runners."""
        await self.ask(Remove(model.name, number), request_id)
        await self._refresh()
        await self.unload(model, request_id, number, refuse=False)


def octets(data: bytes) -> Tensor:
    """Return bytes as the tensor that carries them in messages."""
    return Tensor("data", "UINT8", (len(data),), data)


async def _cut(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), CHUNK):
        yield body[start : start + CHUNK]
