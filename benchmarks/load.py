"""The load: wrk for timing, and a plain client that compares answers before anything is timed."""

import http.client
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parent / "replay.lua"
CHECKERS = 8
"""Threads that compare answers at once, so that rows mixed up between requests are found."""


class WrongAnswer(Exception):
    """A server answered something else than bare ONNX Runtime, or not with 200."""


@dataclass(frozen=True)
class Requests:
    """What is sent: one body per row, and how to read the scores out of an answer."""

    port: int
    path: str
    headers: dict[str, str]
    bodies: list[bytes]
    read: Callable[[http.client.HTTPResponse, bytes], np.ndarray]

    def store(self, folder: Path) -> Path:
        """Write the bodies where wrk finds them, unless an earlier round did, and return the folder."""
        if not folder.exists():
            folder.mkdir(parents=True)
            for i, body in enumerate(self.bodies):
                (folder / str(i)).write_bytes(body)
        return folder


@dataclass(frozen=True)
class Cell:
    """One timed measurement: requests per second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


def ask(requests: Requests, index: int, timeout: float = 30.0) -> np.ndarray:
    """Send one request on a connection of its own and return the scores; raise WrongAnswer unless it is a 200."""
    link = http.client.HTTPConnection("127.0.0.1", requests.port, timeout=timeout)
    try:
        link.request("POST", requests.path, requests.bodies[index], requests.headers)
        response = link.getresponse()
        body = response.read()
        if response.status != 200:
            raise WrongAnswer(f"{requests.path} answered {response.status}: {body[:300]!r}")
        return requests.read(response, body)
    finally:
        link.close()


def check(requests: Requests, answers: np.ndarray) -> None:
    """Compare an answer to every request with ``answers``; raise WrongAnswer on the first that differs."""

    def one(index: int) -> None:
        got = ask(requests, index)
        if got.size != answers[index].size or not np.allclose(got.ravel(), answers[index], rtol=1e-3, atol=1e-6):
            raise WrongAnswer(f"{requests.path} request {index}: got {got.ravel()}, wanted {answers[index]}")

    with ThreadPoolExecutor(CHECKERS) as pool:
        list(pool.map(one, range(len(answers))))


def measure(requests: Requests, bodies: Path, connections: int, seconds: int) -> Cell:
    """Drive the server with wrk for whole ``seconds``; raise WrongAnswer if a single request failed."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT)]
    command += [f"http://127.0.0.1:{requests.port}", "--", str(bodies), str(len(requests.bodies)), requests.path]
    command += [part for header in requests.headers.items() for part in header]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise WrongAnswer(f"wrk failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    result = json.loads(line.removeprefix("RESULT "))
    if result["failed"] or not result["requests"]:
        raise WrongAnswer(f"{requests.path} at {connections} connections: {result['failed']} requests failed")
    return Cell(result["requests"] / result["seconds"], result["p50_ms"], result["p99_ms"])
