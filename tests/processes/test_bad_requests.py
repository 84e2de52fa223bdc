"""Bad requests of every kind to a real daemon: each is answered with its status, and afterwards all is as before."""

import gzip
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import graphs
import pytest
from harness import EXAMPLE, Daemon, Host, is_right, until

pytestmark = pytest.mark.usefixtures("it_lives")

MIB = 2**20
INFER = "/v2/models/digits/infer"
NATIVE = "/api/v1/inference/digits"


def serves(daemon: Daemon) -> bool:
    return is_right(daemon.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def raw(daemon: Daemon, *pieces: bytes, pause: float = 0, patience: float = 15) -> bytes:
    """Send bytes and return all that comes until the daemon closes or says nothing more for a while."""
    host, _, port = daemon.address.rpartition(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=patience) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                if pause:
                    time.sleep(pause)  # slowness is what is sent
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:  # it had enough
            pass
    return answer


def status(answer: bytes) -> int:
    """Return the last status of raw answers; 0 when the connection was just closed."""
    found = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return int(found[-1].split()[1]) if found else 0


def post(path: str, body: bytes = b"{}", *headers: str, length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    lines += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def rows() -> Any:
    return EXAMPLE["inputs"]["pixels"]


def tensor(**change: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": rows()} | change]}


@pytest.mark.parametrize(
    ("header", "value", "wanted"),
    [("Host", "evil.example", 403), ("Origin", "https://evil.example", 403), ("Origin", "null", 403)],
)
@pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_foreign_hosts_and_pages(small: Daemon, verb: str, header: str, value: str, wanted: int) -> None:
    reply = small.call(verb, "/api/v1/models/digits", headers={header: value})
    assert reply.status == wanted
    assert "access-control-allow-origin" not in reply.headers
    assert reply.json()["code"]


def test_no_preflight_is_granted(small: Daemon) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"}
    reply = small.call("OPTIONS", "/api/v1/models/digits", headers=headers)
    assert reply.status >= 400
    assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize("verb", ["TRACE", "FOO", "OPTIONS", "PATCH", "DELETE"])
def test_verbs_that_a_path_does_not_have(small: Daemon, verb: str) -> None:
    assert small.call(verb, "/health").status in (400, 405, 501)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (post(INFER, b"{}", "Content-Length: 2"), {400}),
        (post(INFER, b"0\r\n\r\n", "Transfer-Encoding: chunked"), {400}),
        (post(INFER, b"", "Content-Length: -1", length=False), {400}),
        (post(INFER, b"", "Content-Length: 99999999999999999999999", length=False), {400, 413}),
        (post(INFER, b"", f"Content-Length: {4 * MIB + 1}", length=False), {413}),
        (post(INFER, b"{}", f"X-Long: {'x' * 100_000}"), {431}),
        (post(INFER, b"{}", *[f"X-{number}: y" for number in range(1000)]), {431}),
        (b"GET /health HTTP/1.1\r\n\r\n", {400}),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: 127.0.0.1\r\n\r\n", {400, 403}),
        (b"GET /health\r\n\r\n", {400}),
        (b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", {400, 505}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), {400}),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: b\x00c\r\n\r\n", {400}),
        (b"GET /he alth HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {400}),
        (post(INFER, b"zz\r\n", "Transfer-Encoding: chunked", length=False), {400}),
        (post(INFER, b"f" * 40 + b"\r\n", "Transfer-Encoding: chunked", length=False), {400, 413}),
    ],
)
def test_what_is_not_a_good_request(small: Daemon, data: bytes, wanted: set[int]) -> None:
    assert status(raw(small, data)) in wanted


def test_a_body_beyond_the_bound_without_a_length(small: Daemon) -> None:
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    head = post(INFER, b"", "Transfer-Encoding: chunked", length=False)
    assert status(raw(small, head, *[piece] * 80)) in (413, 0)


def test_a_body_of_tiny_chunks(small: Daemon) -> None:
    head = post(INFER, b"", "Transfer-Encoding: chunked", length=False)
    began = time.monotonic()
    assert status(raw(small, head, b"1\r\n \r\n" * 700_000)) in (400, 413, 0)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "start", [b"GET /health HTTP/1.1\r\nHo", post(INFER, b"{", "Content-Length: 10", length=False)]
)
def test_a_request_that_never_ends_is_cut(small: Daemon, start: bytes) -> None:
    began = time.monotonic()
    assert status(raw(small, start)) in (408, 0)
    assert time.monotonic() - began < 6


def test_slow_clients_do_not_slow_good_ones(small: Daemon) -> None:
    host, _, port = small.address.rpartition(":")
    slow = [socket.create_connection((host, int(port)), timeout=10) for _ in range(200)]
    for connection in slow:
        connection.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
    began = time.monotonic()
    for _ in range(20):
        assert serves(small)
    assert time.monotonic() - began < 2
    for connection in slow:
        connection.close()


@pytest.mark.parametrize(
    ("body", "headers", "wanted"),
    [
        (b"", {}, {400}),
        (b"{", {}, {400}),
        (b"\xff\xfe{}", {}, {400}),
        (b"\xef\xbb\xbf{}", {}, {400}),
        (b'{"inputs": "\\ud800"}', {}, {400}),
        (b"[" * 100_000, {}, {400}),
        (b'{"a":' * 100_000, {}, {400}),
        (b'{"inputs": {"pixels": [[' + b"9" * 4_300_00 + b"]]}}", {}, {400}),
        (b'{"inputs": {"pixels": [[1e999]]}}', {}, {400}),
        (b'{"inputs": {"pixels": [[NaN]]}}', {}, {400}),
        (b'{"inputs": [], "inputs": []}', {}, {400}),
        (b"{}", {"Content-Type": "text/html"}, {400, 415}),
        (b"{}", {"Content-Encoding": "br"}, {415}),
        (b"{}", {"Content-Encoding": "gzip"}, {400}),
        (gzip.compress(b"{}")[:-4], {"Content-Encoding": "gzip"}, {400}),
        (gzip.compress(gzip.compress(b"{}")), {"Content-Encoding": "gzip"}, {400}),
        (gzip.compress(bytes(256 * MIB)), {"Content-Encoding": "gzip"}, {413}),
        (b"{}", {"Inference-Header-Content-Length": "99"}, {400}),
    ],
    ids=range(18),
)
@pytest.mark.parametrize("path", [INFER, NATIVE])
def test_bodies_that_are_none(small: Daemon, path: str, body: bytes, headers: dict[str, str], wanted: set[int]) -> None:
    began = time.monotonic()
    reply = small.call("POST", path, body, headers=headers)
    assert reply.status in wanted, reply.body
    assert reply.json()["error"]
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [10**9]}, {"shape": [2**40, 2**40]}, {"shape": [-1]}, {"shape": ["4"]}, {"shape": [4.0]},
        {"shape": [True]}, {"shape": [1] * 10_000}, {"datatype": "BYTES"}, {"datatype": "x" * 10_000},
        {"name": "x" * 10_000}, {"name": ""}, {"data": [[[1.0]]]}, {"data": [[1.0, [2.0]]]}, {"data": {}},
        {"data": "1"}, {"data": [None] * 64}, {"shape": [1_000_000, 64], "data": [0.0]},
    ],
    ids=range(17),
)  # fmt: skip
def test_tensors_that_lie(small: Daemon, change: dict[str, Any]) -> None:
    reply = small.call("POST", INFER, tensor(**change))
    assert reply.status == 400, reply.body[:300]
    assert len(reply.body) < 2000


def test_no_rows_are_no_error(small: Daemon) -> None:
    assert small.call("POST", INFER, tensor(shape=[0, 64], data=[])).ok()["outputs"][0]["shape"] == [0, 10]


NAMES = [
    "..%2f..%2fetc%2fpasswd", "%2e%2e", "%252e%252e%252f", "a%5Cb", "a%00b", "x" * 10_240, "%20", "dig%C4%B1ts",
    "Digits", "a%0d%0aX-Evil:1", "-rf", "%1b%5b31m",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
@pytest.mark.parametrize("place", ["/api/v1/models/{}", "/v2/models/{}", "/v2/models/{}/infer", "/api/v1/inference/{}"])
def test_names_that_name_no_model(small: Daemon, place: str, name: str) -> None:
    verb = "POST" if "infer" in place else "GET"
    reply = small.call(verb, place.format(name), {} if verb == "POST" else None)
    assert reply.status in (400, 404, 405, 414, 431), reply.body[:300]
    assert "x-evil" not in reply.headers
    assert "passwd" not in json.dumps(os.listdir(small.folder))  # noqa: PTH208


def test_an_unknown_model_is_told(small: Daemon) -> None:
    reply = small.call("POST", "/api/v1/inference/digitz", {"inputs": {}})
    assert (reply.status, reply.json()["code"]) == (404, "MODEL_NOT_FOUND")


@pytest.mark.parametrize("timeout", [0, -1, 10**12, "soon", 1.5, None])
def test_odd_deadlines(small: Daemon, timeout: Any) -> None:
    reply = small.call("POST", INFER, tensor() | {"parameters": {"timeout": timeout}})
    assert reply.status in (200, 400)


def test_a_client_that_leaves_frees_its_runner(small: Daemon) -> None:
    small.push("spin", graphs.spin())
    small.infer("spin", {"turns": 1}).ok()
    host, _, port = small.address.rpartition(":")
    body = json.dumps({"inputs": {"turns": 2**40}}).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(post("/api/v1/inference/spin", body))
        until(lambda: small.get("/api/v1/status")["workers"][0]["busy"], "it executes")
    # The abandoned execution must not go on to the end of its time.
    assert small.infer("spin", {"turns": 1}, timeout=3).status == 200


def test_a_queue_that_is_full(host: Host) -> None:
    daemon = host.daemon(orchestrator={"queue_depth": 4, "execution_timeout": "5s"}).start().wait_ready()
    daemon.push("spin", graphs.spin())
    daemon.infer("spin", {"turns": 1}).ok()
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: daemon.infer("spin", {"turns": 500_000}), range(16)))
    refused = [reply for reply in replies if reply.status != 200]
    assert refused
    for reply in refused:
        assert (reply.status, reply.json()["code"]) == (429, "QUEUE_FULL")
        assert int(reply.headers["retry-after"]) >= 1
