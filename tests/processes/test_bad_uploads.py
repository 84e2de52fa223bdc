"""Uploads, manifests and models that lie: each is refused, nothing of it stays, and what was there is unharmed."""

import base64
import hashlib
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import graphs
import onnx
import pytest
from harness import EXAMPLE, Daemon, is_right, until
from onnx import TensorProto, helper

pytestmark = pytest.mark.usefixtures("it_lives")

MIB = 2**20
EMPTY = f"sha256:{hashlib.sha256(b'').hexdigest()}"


def serves(daemon: Daemon) -> bool:
    return is_right(daemon.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


DIGESTS = [
    "sha256:../../x", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 65, "md5:" + "a" * 32,
    "sha256-" + "a" * 64, "..%2f..%2fledger.db", "sha256:%2e%2e%2f" + "a" * 64,
]  # fmt: skip


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("verb", ["GET", "HEAD", "PATCH"])
def test_digests_that_are_none(small: Daemon, digest: str, verb: str) -> None:
    headers = {"Upload-Offset": "0", "Upload-Length": "1"}
    body = b"x" if verb == "PATCH" else None
    assert small.call(verb, f"/api/v1/blobs/{digest}", body, headers=headers).status in (400, 404)


@pytest.mark.parametrize(
    ("wanted", "status"),
    [("bytes=-1", 206), ("bytes=99999999-", 416), ("bytes=5-2", 416), ("bytes=a-b", 416), ("lines=1-2", 416),
     ("bytes=" + ",".join("0-1" for _ in range(1000)), 416)],
    ids=range(6),
)  # fmt: skip
def test_ranges(small: Daemon, wanted: str, status: int) -> None:
    file = small.get("/api/v1/models/digits")["versions"][0]["files"][0]
    reply = small.call("GET", f"/api/v1/blobs/{file['digest']}", headers={"Range": wanted})
    assert reply.status in (status, 416, 400, 200)
    assert len(reply.body) <= max(file["size"], 1000)


def patch(daemon: Daemon, content: bytes, *, offset: int, length: int, digest: str = "") -> Any:
    digest = digest or f"sha256:{hashlib.sha256(content).hexdigest()}"
    headers = {"Upload-Offset": str(offset), "Upload-Length": str(length)}
    return daemon.call("PATCH", f"/api/v1/blobs/{digest}", content, headers=headers)


def test_an_upload_that_is_not_what_it_promised(small: Daemon) -> None:
    digest = f"sha256:{hashlib.sha256(b'promised').hexdigest()}"
    reply = patch(small, b"something else", offset=0, length=14, digest=digest)
    assert (reply.status, reply.json()["code"]) == (422, "DIGEST_MISMATCH")
    assert small.call("HEAD", f"/api/v1/blobs/{digest}").headers["upload-offset"] == "0"
    file = small.get("/api/v1/models/digits")["versions"][0]["files"][0]
    assert patch(small, b"x" * file["size"], offset=0, length=file["size"], digest=file["digest"]).status < 500
    assert serves(small)


def test_uploads_at_the_wrong_place(small: Daemon) -> None:
    content = os.urandom(1000)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert patch(small, content[:500], offset=0, length=1000, digest=digest).status == 204
    for offset in (0, 499, 501, 999):
        reply = patch(small, content[offset:], offset=offset, length=1000, digest=digest)
        assert (reply.status, reply.headers["upload-offset"]) == (409, "500")
        assert reply.json()["details"]["offset"] == 500
    assert patch(small, content[500:], offset=500, length=1000, digest=digest).status == 201
    assert small.call("GET", f"/api/v1/blobs/{digest}").body == content


@pytest.mark.parametrize(
    ("offset", "length"), [("-1", "5"), ("x", "5"), ("0", "-5"), ("0", "1e3"), ("9", "5"), ("0", str(2**63))]
)
def test_uploads_of_impossible_sizes(small: Daemon, offset: str, length: str) -> None:
    headers = {"Upload-Offset": offset, "Upload-Length": length}
    reply = small.call("PATCH", f"/api/v1/blobs/sha256:{'a' * 64}", b"hello", headers=headers)
    assert reply.status in (400, 409, 413), reply.body


def test_two_uploads_of_the_same_bytes(small: Daemon) -> None:
    content = os.urandom(3 * MIB)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: patch(small, content, offset=0, length=len(content)), range(4)))
    assert 201 in [reply.status for reply in replies]
    assert {reply.status for reply in replies} <= {200, 201, 204, 409}
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert small.call("GET", f"/api/v1/blobs/{digest}").body == content


def test_an_upload_whose_client_dies(small: Daemon) -> None:
    content = os.urandom(2 * MIB)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    head = f"PATCH /api/v1/blobs/{digest} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpload-Offset: 0\r\n"
    head += f"Upload-Length: {len(content)}\r\nContent-Length: {len(content)}\r\n\r\n"
    host, _, port = small.address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + content[:-100])
    look = lambda: small.call("HEAD", f"/api/v1/blobs/{digest}")  # noqa: E731
    assert look().status == 404
    # It can go on from whatever arrived.
    offset = until(lambda: int(look().headers["upload-offset"]), "what was sent is kept")
    done = until(
        lambda: (
            (one := patch(small, content[offset:], offset=offset, length=len(content), digest=digest)).status == 201
            and one
        ),
        "the rest is taken",
    )
    assert done
    assert small.call("GET", f"/api/v1/blobs/{digest}").body == content


def commit(daemon: Daemon, files: Any) -> Any:
    return daemon.call("POST", "/api/v1/models/made/versions", {"files": files})


PATHS = [
    ["../model.onnx"], ["/model.onnx"], ["a/../model.onnx"], ["model.onnx", "model.onnx"], ["model.onnx", "MODEL.onnx"],
    ["model.onnx\0"], ["a\\model.onnx"], [""], ["."], ["x" * 5000 + ".onnx"], ["model.onnx", "model.onnx/x"],
    ["con\n.onnx"],
]  # fmt: skip


@pytest.mark.parametrize("paths", PATHS, ids=range(len(PATHS)))
def test_manifests_that_lie_about_paths(small: Daemon, paths: list[str]) -> None:
    graph = graphs.identity("FP32", (1,))
    patch(small, graph, offset=0, length=len(graph))
    digest = f"sha256:{hashlib.sha256(graph).hexdigest()}"
    reply = commit(small, [{"path": path, "digest": digest, "size": len(graph)} for path in paths])
    assert reply.status in (400, 422), reply.body
    assert small.call("GET", "/api/v1/models/made").status == 404


def entry(digest: str, size: int) -> list[dict[str, Any]]:
    return [{"path": "model.onnx", "digest": digest, "size": size}]


MANY = [{"path": f"{number}.bin", "digest": EMPTY, "size": 0} for number in range(20_000)]
MANIFESTS = [
    [], {}, "x", [{}], MANY, entry(EMPTY, -1), entry("x", 1), entry(f"sha256:{'b' * 64}", 1), entry(EMPTY, 2**60),
]  # fmt: skip


@pytest.mark.parametrize("files", MANIFESTS, ids=range(len(MANIFESTS)))
def test_manifests_that_are_none(small: Daemon, files: Any) -> None:
    assert 400 <= commit(small, files).status < 500
    assert small.call("GET", "/api/v1/models/made").status == 404


def external(location: str) -> bytes:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    value = graphs.value
    return graphs.model([node], [value("x", "FP32", (4,))], [value("y", "FP32", (4,))], [weight])


def large_dims() -> bytes:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2**40], raw_data=b"1234")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    value = graphs.value
    return graphs.model([node], [value("x", "FP32", (4,))], [value("y", "FP32", (4,))], [weight])


def future() -> bytes:
    model = onnx.load_from_string(graphs.identity("FP32", (1,)))
    model.ir_version = 999
    return bytes(model.SerializeToString())


GOOD = graphs.identity("FP32", (1,))


PICKLE = b"\x80\x04cos\nsystem\n(S'touch canary'\ntR."
PLACES = ["../secret", "/etc/passwd", "/dev/zero", "*/_ORT_MEM_ADDR_/*", "missing", ""]
MODELS = [
    b"", bytes(1000), b'{"inputs": []}', GOOD[: len(GOOD) // 2], b"PK\x03\x04" + bytes(100), PICKLE,
    *map(external, PLACES), large_dims(), future(), graphs.unloadable(), bytes(range(256)) * 40,
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=range(len(MODELS)))
def test_models_that_are_none(small: Daemon, model: bytes) -> None:
    reply = small.call("PUT", "/api/v1/models/made", model, headers={"Content-Type": "application/octet-stream"})
    assert reply.status in (400, 415, 422), reply.body[:300]
    assert reply.json()["error"]
    assert str(small.folder) not in reply.body.decode()
    assert small.call("GET", "/api/v1/models/made").status == 404


def test_a_model_beyond_the_bound(small: Daemon) -> None:
    reply = small.call(
        "PUT", "/api/v1/models/made", bytes(33 * MIB), headers={"Content-Type": "application/octet-stream"}
    )
    assert reply.status == 413
    assert small.call("GET", "/api/v1/models/made").status == 404


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"parameters": {"file:1/model.onnx": "not base64!", "config": "{}"}}',
     json.dumps({"parameters": {"config": "{", "file:1/model.onnx": base64.b64encode(GOOD).decode()}}).encode(),
     json.dumps({"parameters": {"config": "{}", "file:1/../../x": base64.b64encode(GOOD).decode()}}).encode(),
     json.dumps({"parameters": {"config": "{}", "file:/etc/x": base64.b64encode(GOOD).decode()}}).encode()],
    ids=range(6),
)  # fmt: skip
def test_loads_that_carry_nonsense(small: Daemon, body: bytes) -> None:
    assert small.call("POST", "/v2/repository/models/made/load", body).status in (400, 422)
    assert small.call("GET", "/api/v1/models/made").status == 404


def test_changes_that_meet(small: Daemon) -> None:
    small.push("contested", graphs.identity("FP32", (1,)))
    small.push("contested", graphs.identity("FP32", (2,)))
    epoch = small.get("/api/v1/models/contested")["aliases"]["latest"]["epoch"]
    change = {"version": 1, "expected_epoch": epoch}
    with ThreadPoolExecutor(4) as pool:
        path = "/api/v1/models/contested/aliases/latest"
        replies = list(pool.map(lambda _: small.call("PUT", path, change), range(4)))
    assert sorted(reply.status for reply in replies) == [200, 409, 409, 409]
    assert small.get("/api/v1/models/contested")["version"] == 1
