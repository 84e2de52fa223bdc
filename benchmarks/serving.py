"""Throughput, latency, CPU, memory and start of every contender, interleaved round by round."""

import json
import math
import os
import platform
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks import contenders, report, tether
from benchmarks.contenders import Contender
from benchmarks.load import WrongAnswer, ask, check, measure
from benchmarks.processes import Server, server
from benchmarks.workloads import Workload, bare, build

FULL = {name: [(kind, n) for kind in ("json", "binary") for n in (1, 8, 32)] for name in ("tiny", "mid", "image")}
QUICK = {"tiny": [("json", 1), ("json", 32)], "mid": [("json", 32)], "image": [("json", 8), ("binary", 8)]}
WARM_UP = 8
"""Connections of the second of load before a server's first cell."""


SETTLE = 3.0
"""Seconds between the first answers and looking at a server at rest."""


@dataclass(frozen=True)
class Plan:
    """What to measure: cells by model, how often and how long (whole seconds per cell, seconds of idling watched)."""

    cells: dict[str, list[tuple[str, int]]]
    rounds: int
    seconds: int
    idle: float


@dataclass(frozen=True)
class Visit:
    """One server with one model in one round."""

    turn: int
    work: Workload
    one: Contender
    port: int
    folder: Path


@dataclass
class Findings:
    """Everything measured, and what went wrong."""

    records: list[report.Record] = field(default_factory=list)
    starts: list[report.Start] = field(default_factory=list)
    limits: list[report.Limit] = field(default_factory=list)
    sizes: list[report.Size] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def run(plan: Plan, who: Sequence[Contender], folder: Path) -> Findings:
    """Measure ``who`` by ``plan`` with scratch files in ``folder``. A server that fails is noted and passed over."""
    works = {name: build(name, folder / "models") for name in plan.cells}
    found = Findings()
    for work in works.values():
        for payload in ("json", "binary"):
            both = [style(work, payload, 0).bodies[0] for style in (contenders.open_inference, contenders.natural)]
            found.sizes.append(report.Size(work.name, payload, *map(len, both)))
    if any(one.health for one in who):
        try:
            tether.prepare(folder, free_port(), works.values(), folder / "tether.log")
        except (tether.NotReady, OSError) as error:
            found.failures.append(f"tether: {error}")
            who = [one for one in who if not one.health]
    for turn in range(plan.rounds):
        for name, work in works.items():
            found.loads.append(os.getloadavg()[0])
            found.limits += [report.Limit(turn, name, batch, bare(work, batch, 0.4)) for batch in (1, 32)]
            for one in rotated([one for one in who if name not in one.skip], turn):
                say(f"round {turn + 1} of {plan.rounds}: {name} on {one.name}")
                try:
                    _measure(found, plan, Visit(turn, work, one, free_port(), folder))
                except (WrongAnswer, tether.NotReady, OSError, HTTPException) as error:
                    found.failures.append(f"round {turn + 1}, {name} on {one.name}: {error}")
    return found


def rotated(who: Sequence[Contender], turn: int) -> list[Contender]:
    """Return ``who`` beginning one further each round, so that nobody always follows the same one."""
    start = turn % max(1, len(who))
    return [*who[start:], *who[:start]]


def show(found: Findings) -> list[report.Figure]:
    """Print everything and return the figures."""
    print(f"\nLoad average before each model: {', '.join(f'{load:.1f}' for load in found.loads)}")
    print("\nBare ONNX Runtime, rows per second (the limit)\n")
    rows = [["model", "batch 1", "batch 32"]]
    for model in dict.fromkeys(item.model for item in found.limits):
        both = [[item for item in found.limits if (item.model, item.batch) == (model, batch)] for batch in (1, 32)]
        rows.append([model, *(f"{report.middle(items, 'rate'):.0f}" for items in both)])
    print(report.table(rows))
    print("\nBytes of one request: Tether is asked in the Open Inference Protocol, the peers in their own shape\n")
    sizes = [[item.model, item.payload, str(item.protocol), str(item.natural)] for item in found.sizes]
    print(report.table([["model", "payload", "tether", "peers"], *sizes]))
    print("\nServing: medians over rounds; ratios within each round, against mosec's better mode\n")
    print(report.cells(found.records, found.limits))
    print("\nStart and rest\n")
    print(report.beginnings(found.starts))
    figures = report.figures(found.records, found.starts)
    print("\nFigures\n")
    print(report.promises(figures))
    for failure in found.failures:
        print(f"\nFAILED {failure}")
    return figures


def save(found: Findings, figures: Sequence[report.Figure], folder: Path) -> Path:
    """Write everything as JSON and return the file."""
    folder.mkdir(exist_ok=True)
    path = folder / time.strftime("serving-%Y%m%d-%H%M%S.json")
    site = [str(lib) for lib in contenders.VENV.glob("lib/python*/site-packages")]
    versions = {item.name: item.version for item in distributions(path=site)}
    document = {
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "peers": {name: versions[name] for name in ("mosec", "fastapi", "uvicorn", "onnxruntime") if name in versions},
        "figures": [{**asdict(item), "verdict": item.verdict()} for item in figures],
        "records": [asdict(item) for item in found.records],
        "starts": [asdict(item) for item in found.starts],
        "sizes": [asdict(item) for item in found.sizes],
        "loads": found.loads,
        "limits": [asdict(item) for item in found.limits],
        "failures": found.failures,
    }
    path.write_text(json.dumps(_finite(document), indent=1) + "\n")
    return path


def _finite(value: Any) -> Any:
    """Return ``value`` with None where JSON has no word for a number."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def free_port() -> int:
    """Return a loopback port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(text: str) -> None:
    """Print progress at once."""
    print(text, flush=True)


def _measure(found: Findings, plan: Plan, visit: Visit) -> None:
    work, one = visit.work, visit.one
    payloads = list(dict.fromkeys(payload for payload, _ in plan.cells[work.name]))
    with server() as running:
        ready, first = _begin(running, visit)
        for payload in payloads:
            check(one.requests(work, payload, visit.port), work.answers)
        # The figures for a server at rest are the small model's; by then its spare process has done its imports.
        time.sleep(SETTLE if work.name == "tiny" else 0)
        idle = _idle(running, plan.idle) if work.name == "tiny" and visit.turn == 0 else math.nan
        (pss, rss), processes = running.memory(), len(running.pids())
        for payload in payloads:
            found.records += _cells(plan, visit, payload, running)
        after, _ = running.memory()
        found.starts.append(
            report.Start(visit.turn, work.name, one.name, ready, first, pss, rss, after, processes, idle)
        )


def _begin(running: Server, visit: Visit) -> tuple[float, float]:
    """Start the server; return the seconds until it said it was ready (nan if it cannot) and until its first answer."""
    one, port = visit.one, visit.port
    log = visit.folder / ("tether.log" if one.health else "peer.log")
    requests = one.requests(visit.work, "json", port)
    log.unlink(missing_ok=True)  # what it says must be about this start
    begun, ready = time.perf_counter(), math.nan
    one.start(running, visit.work, port, visit.folder)
    if one.health:
        tether.wait(running, lambda: tether.call(port, "GET", one.health)[0] == 200, log)
        ready = time.perf_counter() - begun

    def answers() -> bool:
        try:
            ask(requests, 0)
        except (OSError, HTTPException, WrongAnswer):
            return False
        return True

    tether.wait(running, answers, log)
    return ready, time.perf_counter() - begun


def _idle(running: Server, seconds: float) -> float:
    used, begun = running.cpu(), time.perf_counter()
    time.sleep(seconds)
    return 100 * (running.cpu() - used) / (time.perf_counter() - begun)


def _cells(plan: Plan, visit: Visit, payload: str, running: Server) -> Iterator[report.Record]:
    requests = visit.one.requests(visit.work, payload, visit.port)
    bodies = requests.store(visit.folder / "bodies" / f"{visit.work.name}-{visit.one.name}-{payload}")
    if payload == plan.cells[visit.work.name][0][0]:
        measure(requests, bodies, WARM_UP, 1)
    for connections in (count for kind, count in plan.cells[visit.work.name] if kind == payload):
        used = running.cpu()
        cell = measure(requests, bodies, connections, plan.seconds)
        cpu_us = 1e6 * (running.cpu() - used) / (cell.rate * plan.seconds)
        yield report.Record(
            visit.turn, visit.work.name, payload, connections, visit.one.name, cell.rate, cell.p50, cell.p99, cpu_us
        )
