"""How Tether's own daemons are started for a measurement, and how their models get there."""

import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import Server, server
from benchmarks.workloads import Workload

START = 30.0
"""Seconds a daemon may take to become ready before the benchmark gives up."""


class NotReady(Exception):
    """A server did not start in time, or ended."""


def start(run: Server, place: Path, port: int, worker: dict[str, Any] | None = None, split: bool = False) -> None:
    """Start an all-in-one daemon on ``place``, or with ``split`` a second process that holds the worker role.

    ``worker`` overrides settings of the [worker] section. Models pushed to ``place`` earlier are served again.
    """
    settings = {"spare": True, "runners": 1, "isolation": "process", **(worker or {})}
    if not split:
        daemon(run, place, "all", {"gateway": {"listen": f"127.0.0.1:{port}"}, "worker": settings})
        return
    address = f"ipc://{place}/front-run/rpc.sock"
    roles = ["gateway", "orchestrator", "manager"]
    daemon(run, place, "front", {"node": {"roles": roles}, "gateway": {"listen": f"127.0.0.1:{port}"}})
    peers = {"orchestrator": address, "manager": address}
    daemon(run, place, "back", {"node": {"roles": ["worker"]}, "peers": peers, "worker": settings})


def prepare(place: Path, port: int, works: Iterable[Workload], log: Path) -> None:
    """Push the models of ``works`` to ``place`` once; every daemon started there afterwards has them."""
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with server() as run:
        start(run, place, port)
        wait(run, lambda: call(port, "GET", "/health/ready")[0] == 200, log)
        for work in works:
            status, answer = call(port, "PUT", f"/api/v1/models/{work.name}", work.path.read_bytes())
            if status not in (200, 201):
                raise NotReady(f"pushing {work.name} answered {status}: {answer[:300]!r}")


def call(port: int, verb: str, path: str, body: bytes = b"", timeout: float = 60.0) -> tuple[int, bytes]:
    """Make one request; status 0 means that nobody listens."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        link.request(verb, path, body, {"Content-Type": "application/octet-stream"} if body else {})
        response = link.getresponse()
        return response.status, response.read()
    except OSError as error:
        return 0, str(error).encode()
    finally:
        link.close()


def runners(port: int) -> list[dict[str, Any]]:
    """Return the runners that the daemon says are ready to serve a model."""
    _, body = call(port, "GET", "/api/v1/status")
    workers = json.loads(body)["workers"]
    return [runner for worker in workers for runner in worker["runners"] if runner["state"] == "READY"]


def wait(run: Server, test: Callable[[], bool], log: Path, limit: float = START) -> None:
    """Return as soon as ``test`` holds; raise NotReady with what ``log`` says if the server ends or is slow."""
    end = time.monotonic() + limit
    while not test():
        if run.exited() is not None or time.monotonic() > end:
            said = log.read_text(errors="replace") if log.exists() else ""
            text = said if len(said) < 2000 else f"{said[:1000]}\n...\n{said[-1000:]}"
            raise NotReady(f"the server is not ready (exit status {run.exited()}):\n{text}")
        time.sleep(0.005)


def daemon(run: Server, place: Path, name: str, config: dict[str, dict[str, Any]], inside: Sequence[str] = ()) -> None:
    """Start one daemon; ``inside`` is a command that runs it, such as one that enters a namespace."""
    runtime = place / f"{name}-run"
    runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = "back" if name == "back" else "state"  # whoever has the manager role serves the models pushed before
    node = {
        "name": name,
        "state_dir": str(place / state),
        "cache_dir": str(place / f"{state}-cache"),
        "runtime_dir": str(runtime),
    }
    sections = {
        **config,
        "node": node | config.get("node", {}),
        "rpc": {"listen": f"ipc://{runtime}/rpc.sock"},
        "control": {"socket": str(runtime / "control.sock")},
        "log": {"level": "warn"},
    }
    file = place / f"{name}.toml"
    # JSON writes strings, numbers, booleans and flat lists the way TOML does.
    lines = [[f"[{title}]"] + [f"{k} = {json.dumps(v)}" for k, v in body.items()] for title, body in sections.items()]
    file.write_text("\n".join(line for section in lines for line in section) + "\n")
    search = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {"PYTHONPATH": os.pathsep.join(search)}
    run.start([*inside, sys.executable, "-m", "tetherd", "run", "--config", str(file)], place / "tether.log", env)
