"""The native API over models: list, show, publish, remove, aliases, load and unload."""

from typing import Annotated, Any, Final

import msgspec

from tetherd.errors import InvalidInput, TetherError, UnsupportedMedia
from tetherd.roles.gateway.catalog import Entry, Model
from tetherd.roles.gateway.exchange import Answer, Exchange, document
from tetherd.roles.gateway.fleet import Fleet, runners
from tetherd.roles.gateway.operations import Operations
from tetherd.roles.gateway.routing import Route
from tetherd.types import LATEST, parse_alias, parse_digest, parse_model, parse_reference
from tetherd.wire.catalog import Alias, FileEntry, GetManifest, Version
from tetherd.wire.replication import Holdings

ROOT: Final = "/api/v1/models"
MANIFEST: Final = (b"content-type", b"application/vnd.oci.image.manifest.v1+json")
_OCTETS: Final = "application/octet-stream"


class _File(msgspec.Struct):
    path: str
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0)]


class _Publish(msgspec.Struct):
    files: Annotated[list[_File], msgspec.Meta(min_length=1, max_length=10_000)]
    alias: str = LATEST


class _Point(msgspec.Struct):
    version: Annotated[int, msgspec.Meta(ge=1)]
    expected_epoch: Annotated[int, msgspec.Meta(ge=-1)] = -1


class Models:
    """Handlers of ``/api/v1/models``."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def routes(self) -> list[Route]:
        """Return the paths under ``/api/v1/models``."""
        one, alias = ROOT + "/{model}", ROOT + "/{model}/aliases/{alias}"
        gone, publishing = (400, 404, 503), (400, 404, 409, 413, 415, 422, 503, 507)
        point = ("application/json", msgspec.json.schema(_Point))
        publish = ("application/json", msgspec.json.schema(_Publish))
        made = {200: "These files are a version already", 201: "A new version"}
        return [
            Route("GET", ROOT, self.ls, "List models", errors=(503,)),
            Route("GET", one, self.show, "Show a model with all its versions", errors=gone),
            Route("PUT", ROOT + "/{model}", self.upload, "Publish one ONNX file", made, publishing, (_OCTETS, {})),
            Route("DELETE", one, self.remove, "Remove a model or one version", {204: "Removed"}, (*gone, 409)),
            Route("POST", ROOT + "/{model}/versions", self.publish, "Publish blobs", made, publishing, publish),
            Route("PUT", alias, self.point, "Point an alias at a version", errors=(*gone, 409), body=point),
            Route("POST", alias + "/rollback", self.roll_back, "Point an alias back", errors=(*gone, 409)),
            Route("POST", one + "/load", self.load, "Load a version and keep it", errors=gone),
            Route("POST", one + "/unload", self.unload, "Unload a model", errors=gone),
            Route("GET", one + "/holders", self.holders, "Say which managers hold its versions", errors=gone),
            Route("GET", one + "/manifest", self.manifest, "Read a version's manifest", errors=gone),
        ]

    def _model(self, exchange: Exchange) -> Model:
        return self._operations.view().model(parse_model(exchange.params["model"]))

    def _entry(self, exchange: Exchange) -> tuple[Model, Entry]:
        reference = parse_reference(exchange.params["model"])
        view = self._operations.view()
        return view.model(reference.model), view.resolve(reference)

    async def ls(self, _: Exchange) -> Answer:
        """List all models."""
        view, fleet = self._operations.view(), await self._operations.fleet()
        return document({"models": [_line(view.models[name], None, fleet) for name in sorted(view.models)]})

    async def show(self, exchange: Exchange) -> Answer:
        """Show one model; ``version`` is the one that the reference means."""
        reference = parse_reference(exchange.params["model"])
        model = self._operations.view().model(reference.model)
        unnamed = reference.version is None and reference.alias == LATEST
        entry = None if unnamed else self._operations.view().resolve(reference)
        fleet = await self._operations.fleet()
        versions = [_version(model.versions[number].version, fleet) for number in sorted(model.versions)]
        aliases = {name: _alias(alias) for name, alias in sorted(model.aliases.items())}
        return document(_line(model, entry, fleet) | {"versions": versions, "aliases": aliases})

    async def publish(self, exchange: Exchange) -> Answer:
        """Make a version of blobs that are stored already."""
        name = parse_model(exchange.params["model"])
        wish = await exchange.json(_Publish)
        files = [FileEntry(file.path, parse_digest(file.digest), file.size) for file in wish.files]
        return await self._commit(name, files, parse_alias(wish.alias), exchange)

    async def upload(self, exchange: Exchange) -> Answer:
        """Publish one ONNX file that is the request's body.

        It is held in memory, because its digest, under which it is stored, is known only at its end.
        """
        name = parse_model(exchange.params["model"])
        kind = (exchange.header(b"content-type") or _OCTETS).partition(";")[0].strip().lower()
        if kind not in (_OCTETS, "application/onnx", "application/x-onnx"):
            raise UnsupportedMedia(f"a model is uploaded as {_OCTETS}, not as {kind[:80]!r}")
        body = await exchange.body()
        digest = await self._operations.store(body, exchange.request_id)
        return await self._commit(name, [FileEntry("model.onnx", digest, len(body))], LATEST, exchange)

    async def _commit(self, name: str, files: list[FileEntry], alias: str, exchange: Exchange) -> Answer:
        version, new = await self._operations.commit(name, files, alias, exchange.request_id)
        fleet = await self._operations.fleet()
        copies = await self._copies(version, exchange.request_id)
        return document({"name": name} | _version(version, fleet) | {"copies": copies}, 201 if new else 200)

    async def _copies(self, version: Version, request_id: str) -> dict[str, int] | None:
        """Return how far a version has spread; None where nobody can tell now: it is safe here in any case."""
        try:
            found = await self._operations.holdings([version.version], request_id)
        except TetherError:
            return None
        return {"held": sum(bool(holder.held) for holder in found.holders), "wanted": found.wanted}

    async def holders(self, exchange: Exchange) -> Answer:
        """Say for every version of a model which managers hold it, and how many are to."""
        reference = parse_reference(exchange.params["model"])
        model = self._operations.view().model(reference.model)
        versions = [model.versions[number].version for number in sorted(model.versions)]
        found = await self._operations.holdings([version.version for version in versions], exchange.request_id)
        return document(
            {
                "name": model.name,
                "wanted": found.wanted,
                "versions": [
                    {"number": version.number, "digest": version.version, "holders": _holders(version, found)}
                    for version in versions
                ],
            }
        )

    async def remove(self, exchange: Exchange) -> Answer:
        """Remove a model, or the version that the reference numbers."""
        reference = parse_reference(exchange.params["model"])
        if reference.version is None and "@" in exchange.params["model"]:
            raise InvalidInput("an alias cannot be removed this way", fix="give a version number, as in digits@3")
        model = self._operations.view().model(reference.model)
        if reference.version is not None:
            self._operations.view().resolve(reference)
        await self._operations.remove(model, reference.version or 0, exchange.request_id)
        return Answer(204)

    async def point(self, exchange: Exchange) -> Answer:
        """Point an alias at a version, once it is ready to serve."""
        model, alias = self._model(exchange), parse_alias(exchange.params["alias"])
        wish = await exchange.json(_Point)
        moved = await self._operations.point(model, alias, wish.version, wish.expected_epoch, exchange.request_id)
        return document({"model": model.name, "alias": alias} | _alias(moved))

    async def roll_back(self, exchange: Exchange) -> Answer:
        """Point an alias at where it was before."""
        model, alias = self._model(exchange), parse_alias(exchange.params["alias"])
        moved = await self._operations.roll_back(model, alias, exchange.request_id)
        return document({"model": model.name, "alias": alias} | _alias(moved))

    async def load(self, exchange: Exchange) -> Answer:
        """Load a version; answered when it is ready."""
        model, entry = self._entry(exchange)
        await self._operations.load(entry, exchange.request_id)
        return document({"name": model.name, "version": entry.version.number, "state": "READY"})

    async def unload(self, exchange: Exchange) -> Answer:
        """Unload a model, all its versions, and refuse work for it; answered when its runners are gone."""
        reference = parse_reference(exchange.params["model"])
        if "@" in exchange.params["model"]:
            raise InvalidInput(
                "unloading is about a model with all its versions, and this names one of them",
                fix=f"name the model only: {reference.model}",
            )
        model = self._operations.view().model(reference.model)
        await self._operations.unload(model, exchange.request_id)
        return document({"name": model.name, "state": "UNLOADED"})

    async def manifest(self, exchange: Exchange) -> Answer:
        """Answer with the manifest's bytes, whose SHA-256 is the version's digest."""
        _, entry = self._entry(exchange)
        chunk = await self._operations.ask(GetManifest(entry.version.version), exchange.request_id)
        return Answer(200, bytes(chunk.data.data), [MANIFEST])


def _line(model: Model, entry: Entry | None, fleet: Fleet) -> dict[str, Any]:
    version = (entry or model.current).version
    standing = fleet.standing(version)
    return {
        "name": model.name,
        "version": version.number,
        "digest": version.version,
        "format": version.format,
        "size": version.size,
        "created": version.created,
        "aliases": {name: alias.number for name, alias in sorted(model.aliases.items())},
        "state": standing.state,
        "reason": standing.reason,
        "loaded": standing.state == "READY",
        "versions": len(model.versions),
    }


def _version(version: Version, fleet: Fleet) -> dict[str, Any]:
    standing = fleet.standing(version)
    return {
        "number": version.number,
        "digest": version.version,
        "size": version.size,
        "created": version.created,
        "format": version.format,
        "files": [{"path": file.path, "digest": file.digest, "size": file.size} for file in version.files],
        "inputs": msgspec.to_builtins(version.signature.inputs),
        "outputs": msgspec.to_builtins(version.signature.outputs),
        "batchable": version.signature.batchable,
        "state": standing.state,
        "reason": standing.reason,
        "runners": runners(standing.runners),
    }


def _holders(version: Version, found: Holdings) -> list[dict[str, Any]]:
    return [
        {"name": holder.name, "node": holder.node, "alive": holder.alive, "primary": holder.primary}
        for holder in found.holders
        if version.version in holder.held
    ]


def _alias(alias: Alias) -> dict[str, Any]:
    return {"number": alias.number, "epoch": alias.epoch, "previous": alias.previous}
