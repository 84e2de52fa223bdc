"""A small real HTTP daemon on a Unix socket, which keeps what is pushed, and the command line as a process."""

import hashlib
import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tetherd.types import Digest, Signature
from tetherd.wire import manifest
from tetherd.wire.catalog import FileEntry

CREATED = 1_700_000_000.5


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *args: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"

    def reply(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", (headers or {}).get("X-Length", str(len(data))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def fail(self, status: int, code: str, error: str, fix: str = "", headers: dict[str, str] | None = None) -> None:
        self.reply(status, {"error": error, "code": code, "fix": fix, "retryable": status >= 500}, headers)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self) -> None:
        daemon = self.server.daemon
        daemon.seen.append((self.command, self.path, dict(self.headers)))
        try:
            for act in daemon.rules:
                if act(self):
                    return
            daemon.route(self)
        except BrokenPipeError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    daemon: "Daemon"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Daemon:
    """``rules`` are asked first: each may answer a request itself and return True. State survives stop and start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs: dict[str, bytes] = {}
        self.partial: dict[str, bytearray] = {}
        self.versions: dict[str, list[dict[str, Any]]] = {}
        self.manifests: dict[str, bytes] = {}
        self.aliases: dict[str, dict[str, dict[str, Any]]] = {}
        self.copies: dict[str, int] | None = None
        self.rules: list[Callable[[Handler], bool]] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.connections: list[Any] = []
        self.server: Server | None = None

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self.server = Server(str(self.path), Handler)
        self.server.daemon = self
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def route(self, http: Handler) -> None:
        body = http.body()
        parts = http.path.removeprefix("/api/v1/").split("/")
        if http.path == "/health/live":
            http.reply(200, {"status": "live"})
        elif parts[0] == "status":
            http.reply(200, status_document())
        elif parts[0] == "blobs":
            self.blob(http, parts[1], body)
        elif parts[0] == "inference":
            self.infer(http, parts[1], body)
        elif parts[0] == "models" and len(parts) == 1:
            http.reply(200, {"models": [self.model(name) for name in self.versions]})
        else:
            self.models(http, parts[1:], body)

    def infer(self, http: Handler, ref: str, body: bytes) -> None:
        name = ref.partition("@")[0]
        if name not in self.versions:
            http.fail(404, "MODEL_NOT_FOUND", f"there is no model {name}", "tetherctl models ls lists the models")
            return
        outputs = {"y": msgspec.json.decode(body)}
        http.reply(200, {"id": "r1", "model": name, "version": 1, "outputs": outputs, "batch": 1})

    def blob(self, http: Handler, digest: str, body: bytes) -> None:
        if http.command == "PATCH":
            self.patch(http, digest, body)
        elif digest not in self.blobs:
            http.reply(404, b"", {"Upload-Offset": str(len(self.partial.get(digest, b"")))})
        elif http.command == "HEAD":
            http.reply(200, b"", {"X-Length": str(len(self.blobs[digest]))})
        else:
            start = int(http.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            http.reply(206 if start else 200, self.blobs[digest][start:])

    def patch(self, http: Handler, digest: str, body: bytes) -> None:
        held = self.partial.setdefault(digest, bytearray())
        if int(http.headers["Upload-Offset"]) != len(held):
            error = {"error": "wrong offset", "code": "UPLOAD_OFFSET", "details": {"offset": len(held)}}
            http.reply(409, error, {"Upload-Offset": str(len(held))})
            return
        held += body
        if len(held) < int(http.headers["Upload-Length"]):
            http.reply(204, b"", {"Upload-Offset": str(len(held))})
        elif f"sha256:{hashlib.sha256(held).hexdigest()}" != digest:
            del self.partial[digest]
            http.fail(422, "DIGEST_MISMATCH", "the bytes are not what their digest promised")
        else:
            self.blobs[digest] = bytes(self.partial.pop(digest))
            http.reply(201, b"", {"Upload-Offset": str(len(held))})

    def models(self, http: Handler, parts: list[str], body: bytes) -> None:
        name, _, ref = parts[0].partition("@")
        rest = parts[1:]
        if rest == ["versions"]:
            document, new = self.commit(name, msgspec.json.decode(body))
            http.reply(201 if new else 200, document)
        elif name not in self.versions:
            http.fail(404, "MODEL_NOT_FOUND", f"there is no model {name}")
        elif rest == ["manifest"]:
            http.reply(200, self.manifests[self.versions[name][int(ref) - 1]["digest"]])
        elif rest[:1] == ["aliases"]:
            self.alias(http, name, rest[1:], body)
        elif rest:
            moved = {"version": 1, "state": "READY"} if rest == ["load"] else {"state": "UNLOADED"}
            http.reply(200, {"name": name, **moved})
        elif http.command == "DELETE":
            del self.versions[name]
            http.reply(204)
        else:
            chosen = {"version": int(ref)} if ref.isdigit() else {}
            http.reply(200, {**self.model(name), **chosen, "versions": self.versions[name]})

    def alias(self, http: Handler, name: str, rest: list[str], body: bytes) -> None:
        now = self.aliases[name].get(rest[0], {"number": None, "epoch": 0})
        target = now["previous"] if rest[1:] == ["rollback"] else msgspec.json.decode(body)["version"]
        moved = {"number": target, "previous": now["number"], "epoch": now["epoch"] + 1}
        self.aliases[name][rest[0]] = moved
        http.reply(200, {"model": name, "alias": rest[0], **moved})

    def commit(self, name: str, request: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        files = [FileEntry(item["path"], Digest(item["digest"]), item["size"]) for item in request["files"]]
        assert all(file.digest in self.blobs for file in files)
        raw = manifest.build(name, files, manifest.encode_config(manifest.Config("onnx", Signature((), ()))))
        digest = manifest.digest_of(raw)
        versions = self.versions.setdefault(name, [])
        known = [item for item in versions if item["digest"] == digest]
        if not known:
            self.manifests[digest] = raw
            versions.append(self.version(len(versions) + 1, digest, files))
        number = (known or versions)[-1]["number"]
        self.aliases.setdefault(name, {})[request["alias"]] = {"number": number, "epoch": 1, "previous": None}
        return {"name": name, **(known or versions)[-1], "copies": self.copies}, not known

    def version(self, number: int, digest: str, files: list[FileEntry]) -> dict[str, Any]:
        return {
            "number": number,
            "digest": digest,
            "size": sum(file.size for file in files),
            "created": CREATED,
            "format": "onnx",
            "files": [{"path": file.path, "digest": file.digest, "size": file.size} for file in files],
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
            "state": "READY",
            "reason": "",
            "runners": [],
        }

    def model(self, name: str) -> dict[str, Any]:
        last = self.versions[name][-1]
        return {
            **{key: last[key] for key in ("digest", "format", "size", "created", "state", "reason")},
            "name": name,
            "version": last["number"],
            "aliases": {alias: value["number"] for alias, value in self.aliases[name].items()},
            "loaded": True,
            "versions": len(self.versions[name]),
        }


def status_document() -> dict[str, Any]:
    runner = {"runner": "r-1", "model": "digits", "number": 1, "state": "READY", "reason": "", "bytes": 2**20, "pid": 7}
    worker = {"worker": "w-1", "node": "n-1", "memory_limit": 2**30, "memory_used": 2**20, "busy": 0}
    return {
        "version": "0.1.0",
        "node": "n-1",
        "roles": ["gateway", "worker"],
        "uptime_s": 61.5,
        "ready": True,
        "reason": "",
        "pid": 4242,
        "address": "127.0.0.1:3000",
        "orchestrator": {"reachable": True},
        "manager": {"reachable": False},
        "workers": [{**worker, "seen_ms_ago": 5, "stopping": False, "runners": [runner]}],
        "queues": [{"model": "digits", "number": 1, "waiting": 2, "leased": 1, "parked": 0, "limit": 512}],
        "models": 1,
    }


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="tctl"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def daemon(place: Path) -> Iterator[Daemon]:
    fake = Daemon(place / "control.sock")
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def env(place: Path) -> dict[str, str]:
    """An environment without any trace of the user who runs the tests."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "TERM": "xterm",
        "TETHER_ENDPOINT": f"unix://{place}/control.sock",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "error",
    }


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def ctl(env: dict[str, str]) -> Run:
    """Run tetherctl to its end; ``stdin`` is text, none is /dev/null."""

    def run(*args: str, stdin: str | None = None, **extra: str) -> "subprocess.CompletedProcess[str]":
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        command = [sys.executable, "-m", "tetherctl", *args]
        return subprocess.run(
            command, env=env | extra, text=True, capture_output=True, timeout=20, check=False, **given
        )

    return run


@pytest.fixture
def digits(place: Path) -> Path:
    """A directory like a model's: what is pushed, and what is not."""
    root = place / "digits"
    root.mkdir()
    (root / "digits.onnx").write_bytes(b"\x0a\x08location\x12\x0bweights.bin" + bytes(1000))
    (root / "weights.bin").write_bytes(os.urandom(3000))
    (root / "labels.txt").write_text("zero\none\n")
    (root / "README.md").write_text("about")
    (root / "build.py").write_text("pass")
    (root / "example.json").write_text("[[1]]")
    return root
