"""Open Inference Protocol v2, all but inference itself: health, metadata, configuration, statistics."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from tetherd.errors import ModelNotFound, TetherError, Unavailable, VersionNotFound
from tetherd.roles.gateway.catalog import PLATFORMS, Entry
from tetherd.roles.gateway.exchange import Answer, Exchange, document
from tetherd.roles.gateway.operations import Operations
from tetherd.roles.gateway.routing import Route
from tetherd.roles.gateway.status import Status
from tetherd.types import Reference, TensorSpec, parse_model, parse_reference
from tetherd.wire.messages import Durations, VersionStats
from tetherd.wire.openinference import EXTENSIONS

MODEL: Final = "/v2/models/{model}"
VERSION: Final = MODEL + "/versions/{version}"
INFER_ERRORS: Final = (400, 404, 408, 413, 415, 429, 500, 503)
_TYPES: Final = {"BYTES": "TYPE_STRING"}
_INFER: Final[tuple[str, dict[str, Any]]] = ("application/octet-stream", {})


class OpenInference:
    """Handlers of ``/v2``. A model in a path may carry an alias (``digits@stable``) where no version follows."""

    def __init__(
        self,
        *,
        version: str,
        operations: Operations,
        status: Status,
        max_batch: int,
        infer: Callable[[Exchange, Entry], Awaitable[Answer]],
    ) -> None:
        self._version = version
        self._operations = operations
        self._infer = infer
        self._status = status
        self._max_batch = max_batch

    def routes(self) -> list[Route]:
        """Return the paths under ``/v2``, each model's also with a version."""
        routes = [
            Route("GET", "/v2", self.server, "Server metadata"),
            Route("GET", "/v2/health/live", self.live, "Whether the server lives"),
            Route("GET", "/v2/health/ready", self.ready, "Whether the server is ready", errors=(400,)),
            Route("GET", "/v2/models/stats", self.all_stats, "Statistics of all models", errors=(503,)),
        ]
        for path in (MODEL, VERSION):
            routes += [
                Route("GET", path, self.metadata, "Model metadata", errors=(400, 404, 503)),
                Route("GET", path + "/ready", self.model_ready, "Whether a model is ready", errors=(400, 404, 503)),
                Route("GET", path + "/config", self.config, "Model configuration", errors=(400, 404, 503)),
                Route("GET", path + "/stats", self.stats, "Statistics of a model", errors=(400, 404, 503)),
                Route("POST", path + "/infer", self.infer, "Infer", {200: "Outputs"}, INFER_ERRORS, _INFER),
            ]
        return routes

    def entry(self, exchange: Exchange) -> Entry:
        """Return the version that the path means. Raises ModelNotFound, VersionNotFound, InvalidInput."""
        number = exchange.params.get("version")
        if number is None:
            return self._operations.view().resolve(parse_reference(exchange.params["model"]))
        name = parse_model(exchange.params["model"])
        if not (number.isascii() and number.isdigit() and len(number) <= 9):
            raise VersionNotFound(f"model '{name}' has no version {number[:20]!r}: versions are numbers")
        return self._operations.view().resolve(Reference(name, version=int(number)))

    async def infer(self, exchange: Exchange) -> Answer:
        """Answer an inference request."""
        return await self._infer(exchange, self.entry(exchange))

    async def server(self, _: Exchange) -> Answer:
        """Answer with the server's name, version and what it can do of the protocol's extensions."""
        return document({"name": "tether", "version": self._version, "extensions": EXTENSIONS})

    async def live(self, _: Exchange) -> Answer:
        """Answer that the server lives."""
        return Answer(200)

    async def ready(self, _: Exchange) -> Answer:
        """Answer whether a model request could be served now; the protocol's status for no is 400."""
        reason = await self._status.reason()
        return document({"error": reason}, 400) if reason else Answer(200)

    async def metadata(self, exchange: Exchange) -> Answer:
        """Answer with a model's versions, inputs and outputs."""
        entry = self.entry(exchange)
        model = self._operations.view().model(entry.version.model)
        return document(
            {
                "name": model.name,
                "versions": [str(number) for number in sorted(model.versions)],
                "platform": PLATFORMS.get(entry.version.format, entry.version.format),
                "inputs": [_tensor(spec) for spec in entry.signature.inputs],
                "outputs": [_tensor(spec) for spec in entry.signature.outputs],
            }
        )

    async def model_ready(self, exchange: Exchange) -> Answer:
        """Answer whether the model takes requests. Not loaded yet is ready: the first request loads it."""
        entry = self.entry(exchange)
        standing = (await self._operations.fleet()).standing(entry.version)
        if not standing.serves:
            raise Unavailable(f"model '{entry.version.model}' is not ready: {standing.reason or standing.state}")
        return Answer(200)

    async def config(self, exchange: Exchange) -> Answer:
        """Answer with the model's configuration, as read from its graph."""
        entry = self.entry(exchange)
        batchable = entry.signature.batchable
        config: dict[str, Any] = {
            "name": entry.version.model,
            "platform": PLATFORMS.get(entry.version.format, entry.version.format),
            "backend": entry.version.format,
            "max_batch_size": self._max_batch if batchable else 0,
            "input": [_field(spec, batchable) | {"optional": spec.optional} for spec in entry.signature.inputs],
            "output": [_field(spec, batchable) for spec in entry.signature.outputs],
        }
        if entry.signature.labels:
            config["output"][0]["label_filename"] = "labels.txt"
        if batchable:
            config["dynamic_batching"] = {}
        return document(config)

    async def stats(self, exchange: Exchange) -> Answer:
        """Answer with the counters of one model: of the version in the path, else of all."""
        name = self.entry(exchange).version.model
        number = exchange.params.get("version")
        return await self._stats(
            lambda counted: counted.model == name and (number is None or counted.number == int(number))
        )

    async def all_stats(self, _: Exchange) -> Answer:
        """Answer with the counters of all versions that have served since the orchestrator started."""
        return await self._stats(lambda _: True)

    async def _stats(self, chosen: Any) -> Answer:
        fleet = await self._operations.fleet()
        if fleet.state is None:
            raise fleet.error or Unavailable("the orchestrator does not answer")
        memory: dict[str, int] = {}
        for worker in fleet.state.workers:
            for loaded in worker.runners:
                memory[loaded.version] = memory.get(loaded.version, 0) + loaded.bytes
        found = [_statistics(counted, memory) for counted in fleet.state.stats if chosen(counted)]
        return document({"model_stats": found})


def in_words(error: TetherError, model: str) -> tuple[TetherError, int]:
    """Return an error in the protocol's words, and its status there: an unknown model is 400, no time left is 503."""
    status, message = error.status, error.message
    if isinstance(error, ModelNotFound):
        status, message = 400, f"Request for unknown model: '{model[:80]}' is not found"
    elif error.code == "QUEUE_FULL":
        message = f"Exceeds maximum queue size: {message}"
    elif error.code == "DEADLINE_EXCEEDED":
        status, message = 503, f"Request timeout expired: {message}"
    elif error.code == "MODEL_LOAD_FAILED" and "failed to load" not in message:
        message = f"failed to load '{model[:80]}': {message}"
    worded = type(error)(message, fix=error.fix, retry_after=error.retry_after, details=error.details)
    return worded, status


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _field(spec: TensorSpec, batchable: bool) -> dict[str, Any]:
    kind = _TYPES.get(spec.datatype, f"TYPE_{spec.datatype}")
    return {"name": spec.name, "data_type": kind, "dims": spec.shape[1:] if batchable else spec.shape}


def _durations(value: Durations) -> dict[str, int]:
    return msgspec.structs.asdict(value)


def _statistics(counted: VersionStats, memory: dict[str, int]) -> dict[str, Any]:
    return {
        "name": counted.model,
        "version": str(counted.number),
        "last_inference": counted.last_inference_ms,
        "inference_count": counted.inference_count,
        "execution_count": counted.execution_count,
        "inference_stats": {
            "success": _durations(counted.success),
            "fail": _durations(counted.fail),
            "queue": _durations(counted.queue),
            "compute_input": _durations(counted.input),
            "compute_infer": _durations(counted.infer),
            "compute_output": _durations(counted.output),
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": batch.rows,
                "compute_input": _durations(batch.input),
                "compute_infer": _durations(batch.infer),
                "compute_output": _durations(batch.output),
            }
            for batch in counted.batches
        ],
        "memory_usage": [{"type": "CPU", "id": 0, "byte_size": memory[counted.version]}]
        if counted.version in memory
        else [],
    }
