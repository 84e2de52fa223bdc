"""Inference over HTTP: the protocol's own client, both forms, compression, errors, disconnects."""

import asyncio
import gzip
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from tetherd.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    ModelLoadFailed,
    ModelUnloaded,
    QueueFull,
    RunnerLost,
    TetherError,
)
from tetherd.ports import REQUEST_ID
from tetherd.wire import messages as m

ADD = {
    "inputs": [
        {"name": "a", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]},
        {"name": "b", "shape": [1, 4], "datatype": "FP32", "data": [[10, 20, 30, 40]]},
    ]
}
DOUBLE = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


# --- the protocol's own client ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
async def test_triton_client(world: Any, binary_in: bool, binary_out: bool | None) -> None:
    a = np.arange(8, dtype=np.float32).reshape(2, 4)
    outputs = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
    async with triton.InferenceServerClient(world.address) as client:
        result = await client.infer(
            "add",
            [tensor("a", a, "FP32", binary_in), tensor("b", a, "FP32")],
            outputs=outputs,
            request_id="7",
            model_version="1",
        )
    np.testing.assert_array_equal(result.as_numpy("y"), a + a)
    assert result.get_response()["id"] == "7"
    assert result.get_response()["model_version"] == "1"
    assert (result.as_numpy("sum") is None) is (binary_out is not None)


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
async def test_triton_client_with_compression(
    world: Any, request_coding: str | None, response_coding: str | None
) -> None:
    a = np.zeros((400, 4), np.float32)
    async with triton.InferenceServerClient(world.address) as client:
        result = await client.infer(
            "add",
            [tensor("a", a, "FP32"), tensor("b", a + 1, "FP32")],
            request_compression_algorithm=request_coding,
            response_compression_algorithm=response_coding,
        )
    np.testing.assert_array_equal(result.as_numpy("y"), a + 1)


@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("BOOL", np.array([True, False])),
        ("INT8", np.array([-1, 2], np.int8)),
        ("UINT64", np.array([2**64 - 1], np.uint64)),
        ("FP16", np.array([1.5, np.inf], np.float16)),
        ("FP64", np.array([], np.float64)),
        ("BYTES", np.array([b"a\0b", "ü".encode(), b""], np.object_)),
    ],
)
async def test_triton_client_with_every_kind_of_data(world: Any, datatype: str, array: np.ndarray[Any, Any]) -> None:
    async with triton.InferenceServerClient(world.address) as client:
        result = await client.infer(f"echo-{datatype.lower()}", [tensor("x", array, datatype)])
    np.testing.assert_array_equal(result.as_numpy("y"), array)


async def test_triton_client_with_classes(world: Any) -> None:
    a = np.array([[1, 9, 3, 4]], np.float32)
    async with triton.InferenceServerClient(world.address) as client:
        wanted = [triton.InferRequestedOutput("y", class_count=2)]
        result = await client.infer("add", [tensor("a", a, "FP32"), tensor("b", a, "FP32")], outputs=wanted)
    assert result.as_numpy("y").tolist() == [[b"18.0:1:two", b"8.0:3:four"]]


async def test_triton_client_with_a_raw_body(world: Any) -> None:
    body = np.array([1, 2], np.float32).tobytes()
    answer = await world.ask(
        "POST", "/v2/models/double/infer", content=body, headers={"Inference-Header-Content-Length": "0"}
    )
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert np.frombuffer(answer.content[length:], np.float32).tolist() == [2, 4]


async def test_triton_client_is_told_in_the_protocols_words(world: Any) -> None:
    x = [tensor("x", np.zeros((1, 2), np.float32), "FP32")]
    async with triton.InferenceServerClient(world.address) as client:
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'nothing' is not found"):
            await client.infer("nothing", x)
        world.orchestrator.fail = QueueFull("full")
        with pytest.raises(InferenceServerException, match="Exceeds maximum queue size"):
            await client.infer("double", x)
        world.orchestrator.fail = DeadlineExceeded("late")
        with pytest.raises(InferenceServerException, match="Request timeout expired"):
            await client.infer("double", x, timeout=1000)


# --- both forms ------------------------------------------------------------------------------------------------------


async def test_a_v2_answer(world: Any) -> None:
    answer = await world.infer("add", ADD | {"id": "7", "outputs": [{"name": "y"}]})
    assert answer.json() == {
        "model_name": "add",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [11, 22, 33, 44]}],
    }
    request, _, request_id = world.orchestrator.asked[-1]
    assert (request.model, request.number, request.rows) == ("add", 1, 1)
    assert [given.name for given in request.inputs] == ["a", "b"]
    assert request_id == answer.headers["x-request-id"]


async def test_a_native_answer(world: Any) -> None:
    for body in ({"inputs": {"x": [[1, 2]]}}, {"data": [[1, 2]]}, [[1, 2]]):
        answer = await world.ask("POST", "/api/v1/inference/double", json=body, headers={"X-Request-Id": "mine"})
        document = answer.json()
        assert document["outputs"] == {"y": [[2, 4]]}
        assert (document["id"], document["model"], document["version"]) == ("mine", "double", 1)
        assert (document["batch"], document["runner"], document["attempts"]) == (3, "r1", 1)
        assert document["timing"]["queue_ms"] == 1
        assert document["timing"]["infer_ms"] == 2
        assert document["digest"].startswith("sha256:")
        assert answer.headers["x-request-id"] == "mine"


async def test_the_native_path_takes_v2_requests(world: Any) -> None:
    answer = await world.ask("POST", "/api/v1/inference/double", json=DOUBLE)
    assert answer.json()["model_name"] == "double"


@pytest.mark.parametrize(
    ("path", "factor"),
    [
        ("/v2/models/double/infer", 2),
        ("/v2/models/double/versions/2/infer", 4),
        ("/v2/models/double@next/infer", 4),
        ("/v2/models/double@2/infer", 4),
        ("/api/v1/inference/double@next", 4),
        ("/v2/models/d%6fuble/infer", 2),
        ("/v2/models/double/infer?anything=1", 2),
    ],
)
async def test_references(world: Any, path: str, factor: int) -> None:
    for _ in range(2):  # the second time by the remembered path
        answer = await world.ask("POST", path, json=DOUBLE)
        assert answer.json()["outputs"][0]["data"] == [factor, 2 * factor]


async def test_a_moved_alias_counts_from_the_next_request_on(world: Any) -> None:
    assert (await world.infer("double", DOUBLE)).json()["model_version"] == "1"
    moved = await world.ask("PUT", "/api/v1/models/double/aliases/latest", json={"version": 2})
    assert moved.status_code == 200
    assert (await world.infer("double", DOUBLE)).json()["model_version"] == "2"


async def test_deadline_and_priority_travel(world: Any) -> None:
    await world.infer("double", DOUBLE | {"parameters": {"timeout": 5_000_000, "priority": 3}})
    await world.infer("double", DOUBLE)
    (first, soon, _), (second, later, _) = world.orchestrator.asked[-2:]
    assert (first.priority, second.priority) == (3, 0)
    assert 50 < later - soon < 56


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/nothing/infer", 400),
        ("/api/v1/inference/nothing", 404),
        ("/v2/models/double/versions/9/infer", 404),
        ("/v2/models/double/versions/x/infer", 404),
        ("/v2/models/double@nowhere/infer", 404),
        ("/v2/models/%2e%2e%2f/infer", 400),
        ("/v2/models/%252e%252e%252f/infer", 400),
        ("/v2/models/..%5c/infer", 400),
        ("/v2/models/a%00b/infer", 400),
        ("/v2/models/%ff/infer", 400),
        ("/v2/models/" + "a" * 10_240 + "/infer", 400),
        ("/v2/models//infer", 400),
        ("/v2/models/%20/infer", 400),
        ("/v2/models/d%D0%BEuble/infer", 400),
        ("/v2/models/stats/infer", 400),
        ("/v2/models/double/infer/", 404),
        ("/v2/models/double", 405),
        ("/nowhere", 404),
    ],
)
async def test_paths(world: Any, path: str, status: int) -> None:
    answer = await world.ask("POST", path, json=DOUBLE)
    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (QueueFull("full"), 429, "Exceeds maximum queue size: full"),
        (DeadlineExceeded("late"), 503, "Request timeout expired: late"),
        (ModelLoadFailed("bad graph"), 503, "failed to load 'double': bad graph"),
        (ModelUnloaded("nobody wants it"), 503, "nobody wants it"),
        (RunnerLost("died 3 times"), 503, "died 3 times"),
        (ExecutionFailed("no"), 500, "no"),
    ],
)
async def test_failures_of_the_cluster(world: Any, error: TetherError, status: int, words: str) -> None:
    world.orchestrator.fail = error
    answer = await world.infer("double", DOUBLE)
    assert answer.status_code == status
    assert answer.json()["error"] == words
    assert answer.json()["code"] == error.code
    assert ("retry-after" in answer.headers) is (status == 429)
    native = await world.ask("POST", "/api/v1/inference/double", json=[[1, 2]])
    assert native.status_code == error.status


@pytest.mark.parametrize(
    ("error", "level"),
    [(ModelUnloaded("unloaded"), "INFO"), (QueueFull("full"), "INFO"), (RunnerLost("died"), "WARNING")],
)
async def test_what_was_chosen_is_no_warning(
    world: Any, caplog: pytest.LogCaptureFixture, error: TetherError, level: str
) -> None:
    caplog.set_level("INFO", "tetherd.gateway")
    world.orchestrator.fail = error
    await world.infer("double", DOUBLE)
    assert [record.levelname for record in caplog.records if record.message.endswith(error.message)] == [level]


async def test_bugs_are_answered_without_their_story(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    ids = []
    caplog.handler.addFilter(lambda _: ids.append(REQUEST_ID.get()) or True)
    world.orchestrator.fail = RuntimeError("secret")
    answer = await world.infer("double", DOUBLE)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert ids
    assert set(ids) == {answer.headers["x-request-id"]}


async def test_outputs_that_json_cannot_carry(world: Any) -> None:
    x = [{"name": "x", "shape": [1], "datatype": "BF16", "parameters": {"binary_data_size": 2}}]
    head = orjson.dumps({"inputs": x})
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = await world.ask("POST", "/v2/models/echo-bf16/infer", content=head + b"\0\0", headers=headers)
    assert answer.status_code == 400
    assert "binary_data" in answer.json()["fix"]
    assert not [asked for asked, *_ in world.orchestrator.asked if isinstance(asked, m.Infer)]


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("gzip", gzip.compress(orjson.dumps(DOUBLE)), 200),
        ("deflate", zlib.compress(orjson.dumps(DOUBLE)), 200),
        ("identity", orjson.dumps(DOUBLE), 200),
        ("gzip", gzip.compress(bytes(200_000)), 413),
        ("gzip", gzip.compress(orjson.dumps(DOUBLE))[:-9], 400),
        ("gzip", gzip.compress(orjson.dumps(DOUBLE)) + b"x", 400),
        ("gzip", b"no", 400),
        ("gzip, gzip", gzip.compress(gzip.compress(orjson.dumps(DOUBLE))), 415),
        ("br", b"no", 415),
    ],
)
async def test_content_encodings(worlds: Any, coding: str, body: bytes, status: int) -> None:
    async with worlds(max_body=100_000) as world:
        answer = await world.ask("POST", "/v2/models/double/infer", content=body, headers={"Content-Encoding": coding})
        assert answer.status_code == status


async def test_a_body_too_large_is_refused_before_it_is_read(worlds: Any) -> None:
    async with worlds(max_body=1000) as world:
        host, port = world.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v2/models/double/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1001\r\n\r\n")
        assert b" 413 " in await reader.readline()
        writer.close()

        async def chunks() -> Any:
            for _ in range(20):
                yield bytes(100)

        answer = await world.ask("POST", "/v2/models/double/infer", content=chunks())
        assert answer.status_code == 413


async def test_a_client_that_leaves_cancels_its_work(world: Any) -> None:
    world.orchestrator.gate = asyncio.Event()
    host, port = world.address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = orjson.dumps(DOUBLE)
    writer.write(
        b"POST /v2/models/double/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    await world.orchestrator.waiting.wait()
    writer.close()
    async with asyncio.timeout(1):
        await world.orchestrator.cancelled.wait()


async def test_zero_rows_are_answered(world: Any) -> None:
    answer = await world.infer("double", {"inputs": [{"name": "x", "shape": [0, 2], "datatype": "FP32", "data": []}]})
    assert answer.json()["outputs"][0] == {"name": "y", "datatype": "FP32", "shape": [0, 2], "data": []}


async def test_too_many_rows_are_refused(world: Any) -> None:
    data = bytes(8 * 65_537)
    head = orjson.dumps(
        {
            "inputs": [
                {"name": "x", "shape": [65_537, 2], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
            ]
        }
    )
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = await world.ask("POST", "/v2/models/double/infer", content=head + data, headers=headers)
    assert answer.status_code == 400
    assert "65537 rows" in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999999999999999999", ""])
async def test_header_lengths_that_are_none(world: Any, length: str) -> None:
    answer = await world.infer("double", DOUBLE, headers={"Inference-Header-Content-Length": length})
    assert answer.status_code == 400


async def test_answers_are_compressed_only_for_who_asks(world: Any) -> None:
    rows = {"inputs": [{"name": "x", "shape": [300, 2], "datatype": "FP32", "data": [1] * 600}]}
    plain = await world.infer("double", rows, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    packed = await world.infer("double", rows, headers={"Accept-Encoding": "gzip;q=0.5, deflate"})
    assert packed.headers["content-encoding"] == "deflate"
    assert packed.json() == plain.json()
    small = await world.infer("double", DOUBLE, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in small.headers
