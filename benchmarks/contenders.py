"""Who takes part: how each server is started and how each is asked."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import orjson

from benchmarks import tether
from benchmarks.load import Requests
from benchmarks.processes import Server
from benchmarks.workloads import Workload

HERE = Path(__file__).parent
VENV = HERE / ".venv-peers"
PACKAGES = ("mosec", "fastapi", "uvicorn[standard]", "orjson", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Contender:
    """One server. ``start(run, workload, port, folder)`` begins it; ``folder`` takes its log.

    ``health`` is the path that says it is ready, where there is one; ``skip`` names models it is not measured with.
    """

    name: str
    start: Callable[[Server, Workload, int, Path], None]
    requests: Callable[[Workload, str, int], Requests]
    health: str = ""
    skip: frozenset[str] = frozenset()


def ours() -> dict[str, Contender]:
    """Return Tether in the three arrangements that are measured."""
    return {
        name: Contender(name, _tether(isolation, split), open_inference, health="/health/ready")
        for name, isolation, split in (
            ("tether", "process", False),
            ("tether-thread", "thread", False),
            ("tether-split", "process", True),
        )
    }


def peers() -> dict[str, Contender]:
    """Return the other servers, each in the settings that suit it best."""
    # Batching a picture copies 600 KB per row to save 0.1 ms of compute: both peers are faster there without it.
    return {
        "mosec": Contender("mosec", _mosec(32), _mosec_requests, skip=frozenset({"image"})),
        "mosec-nobatch": Contender("mosec-nobatch", _mosec(1), _mosec_requests),
        "mosec-orjson": Contender("mosec-orjson", _mosec(32, "orjson"), _mosec_requests, skip=frozenset({"image"})),
        "fastapi": Contender("fastapi", _fastapi, _fastapi_requests),
    }


def environment() -> None:
    """Make the peers' own virtual environment, once."""
    if (VENV / "ready").exists():
        return
    print(f"making {VENV} for the peers (once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, timeout=120)
    subprocess.run([str(VENV / "bin/pip"), "install", "-q", *PACKAGES], check=True, timeout=600)
    (VENV / "ready").touch()


def open_inference(work: Workload, payload: str, port: int) -> Requests:
    """Return requests in the Open Inference Protocol: JSON, or tensors behind a JSON header both ways."""
    path = f"/v2/models/{work.name}/infer"
    if payload == "json":
        return Requests(port, path, {"Content-Type": "application/json"}, _v2_json(work), _read_v2)
    head = _dump({"inputs": [_tensor(work, binary=True)], "parameters": {"binary_data_output": True}})
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Requests(port, path, headers, [head + row for row in _floats(work)], _read_v2)


def natural(work: Workload, payload: str, port: int, path: str = "/") -> Requests:
    """Return requests as a hand-written server takes them: ``{"data": [...]}``, or nothing but the floats."""
    if payload == "json":
        return Requests(port, path, {"Content-Type": "application/json"}, _natural_json(work), _read_natural)
    return Requests(port, path, {"Content-Type": "application/octet-stream"}, _floats(work), _read_raw)


@cache
def _v2_json(work: Workload) -> list[bytes]:
    return [_dump({"inputs": [{**_tensor(work, binary=False), "data": row.ravel()}]}) for row in work.rows]


@cache
def _natural_json(work: Workload) -> list[bytes]:
    return [_dump({"data": row.ravel()}) for row in work.rows]


@cache
def _floats(work: Workload) -> list[bytes]:
    return [row.tobytes() for row in work.rows]


def _tensor(work: Workload, binary: bool) -> dict[str, object]:
    described = {"name": "input", "shape": [1, *work.shape], "datatype": "FP32"}
    return {**described, "parameters": {"binary_data_size": work.rows[0].nbytes}} if binary else described


def _mosec_requests(work: Workload, payload: str, port: int) -> Requests:
    return natural(work, payload, port, "/inference")


def _fastapi_requests(work: Workload, payload: str, port: int) -> Requests:
    return natural(work, payload, port, "/json" if payload == "json" else "/raw")


def _dump(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _read_v2(response: http.client.HTTPResponse, body: bytes) -> np.ndarray:
    header = response.getheader("Inference-Header-Content-Length")
    if header is None:
        return np.array(json.loads(body)["outputs"][0]["data"], np.float32)
    return np.frombuffer(body[int(header) :], np.float32)


def _read_natural(_: http.client.HTTPResponse, body: bytes) -> np.ndarray:
    return np.array(json.loads(body)["scores"], np.float32)


def _read_raw(_: http.client.HTTPResponse, body: bytes) -> np.ndarray:
    return np.frombuffer(body, np.float32)


def _tether(isolation: str, split: bool) -> Callable[[Server, Workload, int, Path], None]:
    def start(run: Server, work: Workload, port: int, folder: Path) -> None:
        tether.start(run, folder, port, {"isolation": isolation, "preload": [work.name]}, split)

    return start


def _mosec(batch: int, codec: str = "own") -> Callable[[Server, Workload, int, Path], None]:
    def start(run: Server, work: Workload, port: int, folder: Path) -> None:
        command = [str(VENV / "bin/python"), str(HERE / "peers/mosec_server.py")]
        command += ["--address", "127.0.0.1", "--port", str(port), "--timeout", "30000", "--log-level", "error"]
        run.start(command, folder / "peer.log", _settings(work, batch) | {"BENCH_JSON": codec})

    return start


def _fastapi(run: Server, work: Workload, port: int, folder: Path) -> None:
    command = [str(VENV / "bin/python"), str(HERE / "peers/fastapi_server.py"), str(port)]
    run.start(command, folder / "peer.log", _settings(work, 1 if work.name == "image" else 32))


def _settings(work: Workload, batch: int) -> dict[str, str]:
    return {
        "BENCH_MODEL": str(work.path),
        "BENCH_SHAPE": ",".join(map(str, work.shape)),
        "BENCH_THREADS": str(work.threads),
        "BENCH_BATCH": str(batch),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
    }
