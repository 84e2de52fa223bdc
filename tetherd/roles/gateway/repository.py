"""The Open Inference Protocol's model repository extension: index, load (with files), unload."""

import base64
import binascii
import re
from typing import Any, Final

import msgspec

from tetherd.errors import InvalidInput, ModelLoadFailed, ModelNotFound
from tetherd.roles.gateway.catalog import Entry
from tetherd.roles.gateway.exchange import Answer, Exchange, document
from tetherd.roles.gateway.fleet import State
from tetherd.roles.gateway.operations import Operations
from tetherd.roles.gateway.routing import Route
from tetherd.types import LATEST, Reference, parse_model
from tetherd.wire import jsondata
from tetherd.wire.catalog import FileEntry

_FILE: Final = re.compile(r"file:(\d{1,9})/(.{1,255})", re.DOTALL)
_STATES: Final[dict[State, str]] = {"READY": "READY", "IDLE": "READY", "LOADING": "LOADING", "UNLOADING": "UNLOADING"}


class _Index(msgspec.Struct):
    ready: bool = False


class _Change(msgspec.Struct):
    parameters: dict[str, Any] = {}


class Repository:
    """Handlers of ``/v2/repository``."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def routes(self) -> list[Route]:
        """Return the paths under ``/v2/repository``."""
        model = "/v2/repository/models/{model}"
        change = ("application/json", msgspec.json.schema(_Change))
        index = ("application/json", msgspec.json.schema(_Index))
        errors = (400, 404, 413, 422, 503)
        return [
            Route(
                "POST", "/v2/repository/index", self.index, "List versions and states", errors=(400, 503), body=index
            ),
            Route("POST", model + "/load", self.load, "Load a model", errors=errors, body=change),
            Route("POST", model + "/unload", self.unload, "Unload a model", errors=errors, body=change),
        ]

    async def index(self, exchange: Exchange) -> Answer:
        """Answer with every version and how it stands; with ``ready`` only those that take requests."""
        wish = await exchange.json(_Index, empty=_Index())
        fleet = await self._operations.fleet()
        listed = []
        for name, model in sorted(self._operations.view().models.items()):
            for number, entry in sorted(model.versions.items()):
                standing = fleet.standing(entry.version)
                state = _STATES.get(standing.state, "UNAVAILABLE")
                if wish.ready and state != "READY":
                    continue
                line = {"name": name, "version": str(number), "state": state}
                listed.append(line | {"reason": standing.reason} if standing.reason else line)
        return document(listed)

    async def load(self, exchange: Exchange) -> Answer:
        """Load the model's latest version; files that come along are published as a new version first."""
        name = parse_model(exchange.params["model"])
        parameters = (await exchange.json(_Change, empty=_Change())).parameters
        files = {key: value for key, value in parameters.items() if key.startswith("file:")}
        _check_config(parameters.get("config"), with_files=bool(files))
        try:
            entry = await self._publish(name, files, exchange.request_id) if files else self._latest(name)
        except ModelNotFound as error:
            raise InvalidInput(f"failed to load '{name}': {error.message}", fix=error.fix) from None
        try:
            await self._operations.load(entry, exchange.request_id)
        except ModelLoadFailed as error:
            raise ModelLoadFailed(f"failed to load '{name}': {error.message}", fix=error.fix) from None
        return Answer(200)

    def _latest(self, name: str) -> Entry:
        return self._operations.view().resolve(Reference(name))

    async def _publish(self, name: str, files: dict[str, Any], request_id: str) -> Entry:
        entries = []
        for key, value in files.items():
            path, data = _file(key, value)
            entries.append(FileEntry(path, await self._operations.store(data, request_id), len(data)))
        version, _ = await self._operations.commit(name, entries, LATEST, request_id)
        return self._operations.view().resolve(Reference(name, version=version.number))

    async def unload(self, exchange: Exchange) -> Answer:
        """Unload a model and refuse requests for it until it is loaded again."""
        name = parse_model(exchange.params["model"])
        await exchange.json(_Change, empty=_Change())
        await self._operations.unload(self._operations.view().model(name), exchange.request_id)
        return Answer(200)


def _check_config(config: Any, *, with_files: bool) -> None:
    """Refuse a configuration that would have to be obeyed: everything is read from the model's graph."""
    if config is None:
        if with_files:
            raise InvalidInput("files need the parameter config beside them", fix="send config: '{}'")
        return
    if not with_files:
        raise InvalidInput("failed to load: the configuration cannot be overridden, it is read from the model's graph")
    if not isinstance(config, str):
        raise InvalidInput("config must be a JSON object in a string")
    jsondata.fields(jsondata.parse(config.encode()), "config")


def _file(key: str, value: Any) -> tuple[str, bytes]:
    """Return the path and content of one ``file:<version>/<name>`` parameter."""
    match = _FILE.fullmatch(key)
    if match is None or not isinstance(value, str):
        raise InvalidInput(f"parameter {key[:80]!r} must be file:<version>/<name> with base64 content")
    try:
        return match[2], base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"parameter {key[:80]!r} is not base64") from None
