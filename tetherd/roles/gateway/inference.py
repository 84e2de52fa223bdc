"""The way of an inference request through the gateway. Everything here runs for each request: keep it short."""

from typing import Final

from tetherd.config.schema import DAY
from tetherd.errors import InvalidInput
from tetherd.ports import Caller, Clock
from tetherd.roles.gateway import encoding
from tetherd.roles.gateway.catalog import Entry
from tetherd.roles.gateway.exchange import BINARY, JSON, Answer, Exchange, Headers
from tetherd.types import Seconds
from tetherd.wire import inference, jsondata, native, openinference
from tetherd.wire.inference import Prepared
from tetherd.wire.messages import Infer, Inferred

MAX_ROWS: Final = 65_536
"""Rows that one request may bring; a batch beyond it is better sent as several requests."""


class Inference:
    """Decodes, checks, has executed and encodes."""

    def __init__(self, *, orchestrator: Caller, clock: Clock, timeout: Seconds) -> None:
        self._orchestrator = orchestrator
        self._clock = clock
        self._timeout = timeout

    async def v2(self, exchange: Exchange, entry: Entry) -> Answer:
        """Answer an Open Inference request."""
        body = await self._body(exchange)
        return await self._answer_v2(exchange, entry, _decode(exchange, entry, body))

    async def native(self, exchange: Exchange, entry: Entry) -> Answer:
        """Answer a native request, or an Open Inference one in its own form."""
        body = await self._body(exchange)
        if openinference.HEADER_LENGTH in exchange.headers:
            return await self._answer_v2(exchange, entry, _decode(exchange, entry, body))
        parsed = jsondata.parse(body)
        if native.is_open_inference(parsed):
            request = openinference.from_document(parsed)
            return await self._answer_v2(exchange, entry, inference.prepare(request, entry.signature))
        request = native.decode(parsed, entry.signature)
        del parsed  # the parsed document is larger than its text
        started = self._clock.monotonic()
        inferred = await self._execute(exchange, entry, inference.prepare(request, entry.signature))
        elapsed = self._clock.monotonic() - started
        version = entry.version
        text = native.encode(
            inferred.outputs,
            {
                "id": request.id or exchange.request_id,
                "model": version.model,
                "version": version.number,
                "digest": version.version,
                "outputs": {},
                "timing": {
                    "total_ms": round(elapsed * 1e3, 3),
                    "queue_ms": round(inferred.queue_ns / 1e6, 3),
                    "infer_ms": round(inferred.infer_ns / 1e6, 3),
                },
                "batch": inferred.batch_rows,
                "runner": inferred.runner,
                "attempts": inferred.attempts,
            },
        )
        return _outputs(text, [JSON])

    async def _body(self, exchange: Exchange) -> bytes:
        body = await exchange.body()
        coding = exchange.headers.get(b"content-encoding")
        return body if coding is None else await encoding.unpack(exchange, body, coding)

    async def _answer_v2(self, exchange: Exchange, entry: Entry, prepared: Prepared) -> Answer:
        inferred = await self._execute(exchange, entry, prepared)
        text, length = openinference.encode(prepared.request, prepared.wanted, inferred.outputs, entry.served)
        if length is None:
            return _outputs(text, [JSON])
        return _outputs(text, [BINARY, (openinference.HEADER_LENGTH, b"%d" % length)])

    async def _execute(self, exchange: Exchange, entry: Entry, prepared: Prepared) -> Inferred:
        request, rows = prepared.request, prepared.rows
        if rows > MAX_ROWS:
            raise InvalidInput(f"the request has {rows} rows, more than {MAX_ROWS}", fix="send it in parts")
        version = entry.version
        timeout = min(request.timeout_us / 1e6, DAY) if request.timeout_us else self._timeout
        state = exchange.scope.get("state")
        if state is not None:
            state["abandon"] = True  # when the client goes away, nobody else wants the answer
        infer = Infer(
            exchange.request_id,
            version.model,
            version.number,
            version.version,
            prepared.inputs,
            rows,
            min(request.priority, 2**31 - 1),
        )
        deadline = self._clock.monotonic() + timeout
        return await self._orchestrator.call(infer, deadline=deadline, request_id=exchange.request_id)


def _outputs(body: bytes, headers: Headers) -> Answer:
    answer = Answer(200, body, headers)
    answer.outputs = True
    return answer


def _decode(exchange: Exchange, entry: Entry, body: bytes) -> Prepared:
    length = exchange.number(openinference.HEADER_LENGTH)
    if length is None:
        return entry.templates.read(body)
    if length:
        return entry.templates.read_binary(body, length)
    return inference.prepare(openinference.decode_raw(body, entry.signature), entry.signature)
