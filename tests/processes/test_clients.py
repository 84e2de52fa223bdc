"""The protocol's own client against a daemon: synchronous and asynchronous, JSON and binary, every datatype."""

import base64
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from typing import Any

import graphs
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from harness import DIGITS, EXAMPLE, EXPECTED, Daemon, is_right
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

KINDS = tuple(graphs.TYPES)
TOGETHER = {"every": tuple(kind for kind in KINDS if kind != "BF16"), "brains": ("BF16", "FP32", "BOOL")}
"""Datatypes by model: ONNX Runtime's Python interface cannot take a bfloat16 and a string in one call."""
SHAPES = [(2, 3), (1, 1), (3, 0), (0, 3)]
NOT_IN_JSON = {"FP16", "BF16"}
TEXTS = ["plain", "", "Grüße, 世界 \U0001f600", "with\0nul", 'quo"te\\', "line\nbreak"]


@pytest.fixture(scope="module")
def server(daemon: Daemon) -> Daemon:
    """A daemon with a model for every purpose."""
    daemon.ctl("models", "push", str(DIGITS))
    for name, kinds in TOGETHER.items():
        daemon.push(name, graphs.identities({kind.lower(): (kind, ("n", "m")) for kind in kinds}))
        daemon.push(f"{name}-scalars", graphs.identities({kind.lower(): (kind, ()) for kind in kinds}))
    daemon.push("simple", graphs.sum_and_difference())
    daemon.push("text", graphs.identity("BYTES", ("n",)))
    daemon.push("row", graphs.identity("FP32", (1, "m")))
    return daemon


@pytest.fixture(scope="module")
def client(server: Daemon) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as client:
        yield client


def values(kind: str, shape: tuple[int, ...]) -> Any:
    """Return an array of many different values of a datatype, extremes among them."""
    size = int(np.prod(shape))
    if kind == "BYTES":
        texts = [TEXTS[index % len(TEXTS)].encode() for index in range(size)]
        return np.array(texts, dtype=np.object_).reshape(shape)
    if kind == "BOOL":
        return (np.arange(size) % 2 == 0).reshape(shape)
    if kind.startswith(("FP", "BF")):
        # All exact in a bfloat16, the narrowest of them.
        return (np.arange(size) * 0.5 - 1).astype(triton_to_np_dtype(kind)).reshape(shape)
    bounds = np.iinfo(triton_to_np_dtype(kind))
    return np.resize(np.array([bounds.min, bounds.max, 7], bounds.dtype), size).reshape(shape)


def given(name: str, kind: str, array: Any, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def same(got: Any, wanted: Any, kind: str) -> bool:
    if kind == "BYTES":
        plain = [one if isinstance(one, bytes) else str(one).encode() for one in got.ravel()]
        return plain == list(wanted.ravel()) and got.shape == wanted.shape
    return bool(np.array_equal(got, wanted)) and got.shape == wanted.shape


def digits() -> Any:
    return np.array(EXAMPLE["inputs"]["pixels"], np.float32)


# --- tensors ---------------------------------------------------------------------------------------------------------


def echo(client: triton.InferenceServerClient, model: str, arrays: dict[str, Any], binary: tuple[bool, bool]) -> None:
    """Send arrays by datatype, and compare what comes back; ``binary``: whether they go and come in binary."""
    # Half-precision floats have no JSON form: they stay binary, and the request is a mixed one.
    going, coming = ({kind: one or kind in NOT_IN_JSON for kind in arrays} for one in binary)
    result = client.infer(
        model,
        [given(kind.lower(), kind, array, binary=going[kind]) for kind, array in arrays.items()],
        outputs=[triton.InferRequestedOutput(f"{kind.lower()}_out", binary_data=coming[kind]) for kind in arrays],
    )
    for kind, array in arrays.items():
        head = result.get_output(f"{kind.lower()}_out")
        assert (head["datatype"], head["shape"]) == (kind, list(array.shape))
        assert ("data" in head) == (not coming[kind])
        assert same(result.as_numpy(f"{kind.lower()}_out"), array, kind), kind


BOTH_WAYS = pytest.mark.parametrize("binary", list(itertools.product([True, False], repeat=2)), ids=str)


@BOTH_WAYS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("model", TOGETHER)
def test_every_datatype(
    client: triton.InferenceServerClient, model: str, shape: tuple[int, ...], binary: tuple[bool, bool]
) -> None:
    echo(client, model, {kind: values(kind, shape) for kind in TOGETHER[model]}, binary)


@BOTH_WAYS
@pytest.mark.parametrize("model", TOGETHER)
def test_scalars(client: triton.InferenceServerClient, model: str, binary: tuple[bool, bool]) -> None:
    echo(client, f"{model}-scalars", {kind: values(kind, (1,)).reshape(()) for kind in TOGETHER[model]}, binary)


@pytest.mark.parametrize("kind", sorted(NOT_IN_JSON))
def test_half_precision_has_no_json_form(server: Daemon, kind: str) -> None:
    server.push("half", graphs.identity(kind, ("n",)))
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": kind, "data": [1.0]}]}
    reply = server.call("POST", "/v2/models/half/infer", body)
    assert reply.status == 400
    assert kind in reply.json()["error"]


def test_many_texts_of_all_lengths(client: triton.InferenceServerClient) -> None:
    array = np.array([b"x" * length for length in range(300)] + [text.encode() for text in TEXTS], dtype=np.object_)
    for binary in (True, False):
        result = client.infer(
            "text",
            [given("x", "BYTES", array, binary=binary)],
            outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
        )
        assert same(result.as_numpy("y"), array, "BYTES")


@pytest.mark.parametrize("request_form", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_form", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression_both_ways(
    client: triton.InferenceServerClient, request_form: str | None, response_form: str | None, binary: bool
) -> None:
    left = np.arange(64, dtype=np.int32).reshape(4, 16)
    inputs = [given("INPUT0", "INT32", left, binary=binary), given("INPUT1", "INT32", left[::-1].copy(), binary=binary)]
    result = client.infer(
        "simple",
        inputs,
        outputs=[triton.InferRequestedOutput("OUTPUT0", binary_data=binary)],
        request_compression_algorithm=request_form,
        response_compression_algorithm=response_form,
    )
    assert np.array_equal(result.as_numpy("OUTPUT0"), left + left[::-1])
    assert result.as_numpy("OUTPUT1") is None


def test_outputs_default_to_all_and_ids_are_echoed(client: triton.InferenceServerClient) -> None:
    ones = np.ones((2, 16), np.int32)
    result = client.infer(
        "simple", [given("INPUT0", "INT32", ones), given("INPUT1", "INT32", ones, binary=False)], request_id="my-id"
    )
    assert result.get_response()["id"] == "my-id"
    assert result.get_response()["model_name"] == "simple"
    assert result.get_response()["model_version"] == "1"
    assert np.array_equal(result.as_numpy("OUTPUT0"), 2 * ones)
    assert np.array_equal(result.as_numpy("OUTPUT1"), 0 * ones)


def test_a_raw_binary_request(server: Daemon) -> None:
    floats = np.arange(5, dtype="<f4")
    reply = server.call(
        "POST", "/v2/models/row/infer", floats.tobytes(), headers={"Inference-Header-Content-Length": "0"}
    )
    assert reply.status == 200, reply.body
    length = int(reply.headers["inference-header-content-length"])
    head = json.loads(reply.body[:length])
    assert head["outputs"][0]["shape"] == [1, 5]
    assert reply.body[length:] == floats.tobytes()


def test_a_raw_binary_request_of_one_text(server: Daemon) -> None:
    text = len(b"hello").to_bytes(4, "little") + b"hello"
    reply = server.call("POST", "/v2/models/text/infer", text, headers={"Inference-Header-Content-Length": "0"})
    assert reply.status == 200, reply.body
    assert reply.body.endswith(text)


def test_classification_with_labels(client: triton.InferenceServerClient) -> None:
    wanted = triton.InferRequestedOutput("scores", class_count=3)
    result = client.infer("digits", [given("pixels", "FP32", digits())], outputs=[wanted])
    best = result.as_numpy("scores")
    assert best.shape == (1, 3)
    labels = (DIGITS / "labels.txt").read_text().split()
    scores = EXPECTED["outputs"]["scores"][0]
    for found, index in zip(best[0], np.argsort(scores)[::-1][:3], strict=True):
        score, number, label = (found if isinstance(found, str) else found.decode()).split(":")
        assert (int(number), label) == (index, labels[index])
        assert float(score) == pytest.approx(scores[index], rel=1e-3)


def test_classification_of_many_rows_and_without_labels(client: triton.InferenceServerClient) -> None:
    left = np.arange(48, dtype=np.int32).reshape(3, 16)
    zeros = np.zeros_like(left)
    result = client.infer(
        "simple",
        [given("INPUT0", "INT32", left), given("INPUT1", "INT32", zeros)],
        outputs=[triton.InferRequestedOutput("OUTPUT0", class_count=2, binary_data=False)],
    )
    assert result.as_numpy("OUTPUT0").tolist() == [[f"{row * 16 + 15}:15", f"{row * 16 + 14}:14"] for row in range(3)]


# --- everything else -------------------------------------------------------------------------------------------------


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("digits", "9")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("digits")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]
    config = client.get_model_config("every")
    assert config["max_batch_size"] > 0
    assert {one["name"]: one["data_type"] for one in config["input"]}["bytes"] == "TYPE_STRING"
    assert config["input"][0]["dims"] == [-1]
    assert client.get_model_config("every-scalars")["max_batch_size"] == 0


def test_versions(server: Daemon, client: triton.InferenceServerClient) -> None:
    server.push("growing", graphs.identity("FP32", (1,)))
    server.push("growing", graphs.identity("FP64", (1,)))
    assert client.get_model_metadata("growing")["versions"] == ["1", "2"]
    for version, kind in (("1", "FP32"), ("2", "FP64"), ("", "FP64")):
        result = client.infer("growing", [given("x", kind, values(kind, (1,)))], model_version=version)
        assert result.get_response()["model_version"] == (version or "2")
        assert result.as_numpy("y").dtype == triton_to_np_dtype(kind)
    assert client.get_model_metadata("growing", "1")["inputs"][0]["datatype"] == "FP32"


def test_statistics(client: triton.InferenceServerClient) -> None:
    rows = np.ones((3, 16), np.int32)
    inputs = [given("INPUT0", "INT32", rows), given("INPUT1", "INT32", rows)]
    client.infer("simple", inputs)
    (before,) = client.get_inference_statistics("simple")["model_stats"]
    for _ in range(5):
        client.infer("simple", inputs)
    (after,) = client.get_inference_statistics("simple", "1")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 15
    assert after["execution_count"] - before["execution_count"] == 5
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 5
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert after["last_inference"] >= before["last_inference"] > 1.6e12
    assert 3 in [batch["batch_size"] for batch in after["batch_stats"]]
    assert "simple" in [one["name"] for one in client.get_inference_statistics()["model_stats"]]


def test_index_load_and_unload(server: Daemon, client: triton.InferenceServerClient) -> None:
    server.push("spare", graphs.identity("INT8", (1,)))
    one = [given("x", "INT8", values("INT8", (1,)))]
    client.infer("spare", one)
    assert {"name": "spare", "version": "1", "state": "READY"}.items() <= entry(client, "spare").items()
    client.unload_model("spare")
    assert not client.is_model_ready("spare")
    assert (entry(client, "spare")["state"], entry(client, "spare")["reason"]) == ("UNAVAILABLE", "unloaded")
    with pytest.raises(InferenceServerException, match="unloaded") as raised:
        client.infer("spare", one)
    assert raised.value.status() == "503"
    client.load_model("spare")
    assert client.is_model_ready("spare")
    assert same(client.infer("spare", one).as_numpy("y"), values("INT8", (1,)), "INT8")
    assert all(found["state"] == "READY" for found in client.get_model_repository_index() if found["name"] == "spare")


def entry(client: triton.InferenceServerClient, name: str) -> dict[str, str]:
    (found,) = [one for one in client.get_model_repository_index() if one["name"] == name]
    return dict(found)


def test_load_with_files(client: triton.InferenceServerClient) -> None:
    files = {"file:1/model.onnx": graphs.identity("UINT8", (2,))}
    client.load_model("carried", config="{}", files=files)
    result = client.infer("carried", [given("x", "UINT8", values("UINT8", (2,)))])
    assert same(result.as_numpy("y"), values("UINT8", (2,)), "UINT8")


def test_load_of_what_is_not_there(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="failed to load"):
        client.load_model("nobody")


def test_errors_in_the_protocol_s_words(server: Daemon, client: triton.InferenceServerClient) -> None:
    inputs = [given("pixels", "FP32", digits())]
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'nobody' is not found") as raised:
        client.infer("nobody", inputs)
    assert raised.value.status() == "400"
    with pytest.raises(InferenceServerException) as raised:
        client.infer("digits", inputs, model_version="9")
    assert raised.value.status() == "404"
    for path, verb, status in (
        ("/v2/nowhere", "GET", 404),
        ("/v2/models/digits/infer", "GET", 405),
        ("/v2", "POST", 405),
    ):
        reply = server.call(verb, path)
        assert (reply.status, type(reply.json()["error"])) == (status, str)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "pixel"}, "pixel"),
        ({"datatype": "FP64"}, "FP64"),
        ({"datatype": "FP33"}, "FP33"),
        ({"shape": [1, 63]}, "pixels"),
        ({"shape": [64]}, "pixels"),
        ({"shape": [2, 64]}, "pixels"),
        ({"shape": [-1, 64]}, "shape"),
        ({"shape": [1, "64"]}, "shape"),
        ({"shape": [2**62, 64]}, "shape"),
        ({"data": [[0.0] * 63]}, "pixels"),
        ({"data": ["a"] * 64}, "pixels"),
        ({"data": None}, "data"),
        ({"parameters": {"binary_data_size": 256}}, "data"),
        ({"parameters": {"binary_data_size": -1}}, "binary_data_size"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared"),
    ],
)
def test_tensors_that_do_not_fit(server: Daemon, change: dict[str, Any], word: str) -> None:
    tensor = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": digits().ravel().tolist()} | change
    reply = server.call("POST", "/v2/models/digits/infer", {"inputs": [tensor]})
    assert reply.status == 400, reply.body
    assert word in reply.json()["error"]


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("-1", b"{}"),
        ("3", b"{}"),
        ("x", b"{}"),
        ("2", b"{}rest"),
        ("99999999999999999999", b"{}"),
    ],
)
def test_lengths_that_do_not_fit(server: Daemon, header: str, body: bytes) -> None:
    reply = server.call("POST", "/v2/models/digits/infer", body, headers={"Inference-Header-Content-Length": header})
    assert reply.status == 400
    assert reply.json()["error"]


def test_binary_data_that_is_short_or_left_over(server: Daemon) -> None:
    head = {
        "inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "parameters": {"binary_data_size": 256}}]
    }
    text = json.dumps(head).encode()
    for blob, word in ((bytes(255), ""), (bytes(257), "unexpected additional input data")):
        headers = {"Inference-Header-Content-Length": str(len(text))}
        reply = server.call("POST", "/v2/models/digits/infer", text + blob, headers=headers)
        assert reply.status == 400
        assert word in reply.json()["error"]


async def test_the_asynchronous_client(server: Daemon) -> None:
    left = np.arange(32, dtype=np.int32).reshape(2, 16)
    async with triton_aio.InferenceServerClient(server.address) as client:
        assert await client.is_server_ready()
        for binary in (True, False):
            inputs = []
            for name in ("INPUT0", "INPUT1"):
                tensor = triton_aio.InferInput(name, [2, 16], "INT32")
                tensor.set_data_from_numpy(left, binary_data=binary)
                inputs.append(tensor)
            for form in (None, "gzip", "deflate"):
                result = await client.infer(
                    "simple", inputs, request_compression_algorithm=form, response_compression_algorithm=form
                )
                assert np.array_equal(result.as_numpy("OUTPUT0"), 2 * left)
        with pytest.raises(InferenceServerException, match="is not found"):
            await client.infer("nobody", inputs)
        assert (await client.get_model_metadata("simple"))["name"] == "simple"


def test_asynchronous_requests_of_the_synchronous_client(server: Daemon) -> None:
    with triton.InferenceServerClient(server.address, concurrency=4) as client:
        array = digits()
        pending = [client.async_infer("digits", [given("pixels", "FP32", array)]) for _ in range(40)]
        for one in pending:
            result = one.get_result()
            assert is_right({"scores": result.as_numpy("scores"), "label": result.as_numpy("label")})


# --- the native interface --------------------------------------------------------------------------------------------


def test_native_forms_of_a_request(server: Daemon) -> None:
    rows = digits().tolist()
    for body in ({"inputs": {"pixels": rows}}, rows, {"data": rows}):
        document = server.call("POST", "/api/v1/inference/digits", body).ok()
        assert is_right(document["outputs"])
        assert (document["model"], document["version"], document["attempts"]) == ("digits", 1, 1)
    tensor = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": rows}
    document = server.call("POST", "/api/v1/inference/digits", {"inputs": [tensor]}).ok()
    assert {one["name"]: one["shape"] for one in document["outputs"]} == {"scores": [1, 10], "label": [1]}


def test_models_by_native_names(server: Daemon) -> None:
    listed = {one["name"]: one for one in server.get("/api/v1/models")["models"]}
    assert (listed["digits"]["version"], listed["digits"]["aliases"]["latest"]) == (1, 1)
    assert server.get("/api/v1/models/digits@1")["name"] == "digits"
    assert server.call("GET", "/api/v1/models/digits@9").status == 404
    assert server.call("GET", "/api/v1/models/nobody").json()["code"] == "MODEL_NOT_FOUND"
    server.call("PUT", "/api/v1/models/digits/aliases/stable", {"version": 1}).ok()
    assert is_right(server.infer("digits@stable", {"pixels": digits().tolist()}).ok()["outputs"])


def test_every_answer_names_its_request(server: Daemon) -> None:
    assert server.call("GET", "/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = server.call("GET", "/nowhere", headers={"X-Request-Id": "not sane!"}).headers["x-request-id"]
    assert made
    assert made != "not sane!"


def test_the_openapi_document_describes_what_is_served(server: Daemon) -> None:
    document = server.get("/openapi.json")
    assert document["openapi"].startswith("3.")
    assert {"/health", "/api/v1/models", "/v2/models/{model}/infer"} <= set(document["paths"])


def test_a_model_is_removed(server: Daemon) -> None:
    server.push("passing", graphs.identity("FP32", (1,)))
    server.infer("passing", {"x": [1.0]}).ok()
    assert server.call("DELETE", "/api/v1/models/passing").status == 204
    assert server.infer("passing", {"x": [1.0]}).status == 404
    assert "passing" not in [r["model"] for w in server.get("/api/v1/status")["workers"] for r in w["runners"]]


def test_the_same_files_under_two_names_are_two_models(server: Daemon, client: triton.InferenceServerClient) -> None:
    def executed() -> dict[str, int]:
        counted = client.get_inference_statistics()["model_stats"]
        return {one["name"]: one["inference_count"] for one in counted if one["name"] in {"left", "right"}}

    model = graphs.identity("FP32", ("n", 2))
    documents = {name: server.push(name, model) for name in ("left", "right")}
    assert documents["left"]["digest"] != documents["right"]["digest"]
    assert documents["left"]["files"] == documents["right"]["files"]
    for name, times in (("left", 1), ("right", 2)):
        server.call("POST", f"/api/v1/models/{name}/load").ok()
        for _ in range(times):
            assert server.infer(name, {"x": [[1.0, 2.0]]}).ok()["model"] == name
    assert executed() == {"left": 1, "right": 2}
    server.call("POST", "/api/v1/models/left/unload").ok()
    assert server.infer("left", {"x": [[1.0, 2.0]]}).json()["code"] == "MODEL_UNLOADED"
    assert len(server.runners("right")) == 1
    assert server.infer("right", {"x": [[1.0, 2.0]]}).status == 200
    server.call("DELETE", "/api/v1/models/left").ok()
    assert server.infer("right", {"x": [[1.0, 2.0]]}).ok()["model"] == "right"
    server.call("DELETE", "/api/v1/models/right").ok()
    assert not {"left", "right"} & {one["name"] for one in server.get("/api/v1/models")["models"]}


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_requests_of_any_client(server: Daemon, encoding: str) -> None:
    body = json.dumps({"inputs": {"pixels": digits().tolist()}}).encode()
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json", "Accept-Encoding": encoding}
    reply = server.call("POST", "/api/v1/inference/digits", packed, headers=headers)
    plain = reply.body
    if form := reply.headers.get("content-encoding"):
        plain = gzip.decompress(plain) if form == "gzip" else zlib.decompress(plain)
    assert is_right(json.loads(plain)["outputs"])


def test_load_with_files_of_the_wire(server: Daemon) -> None:
    graph = base64.b64encode(graphs.identity("INT16", (1,))).decode()
    body = {"parameters": {"config": "{}", "file:1/model.onnx": graph}}
    server.call("POST", "/v2/repository/models/wired/load", body).ok()
    assert server.infer("wired", {"x": [7]}).ok()["outputs"] == {"y": [7]}
    without = {"parameters": {"file:1/model.onnx": graph}}
    assert server.call("POST", "/v2/repository/models/wired2/load", without).status == 400
