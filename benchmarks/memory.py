"""Whether loading and unloading a model again and again gives all the memory back."""

import time
from pathlib import Path

from benchmarks import report, tether
from benchmarks.contenders import open_inference
from benchmarks.load import check
from benchmarks.processes import Server, server
from benchmarks.serving import free_port, say
from benchmarks.workloads import build

SETTLE = 2.0
"""Seconds for the spare process to be replaced before memory is weighed."""


def run(folder: Path, cycles: int) -> list[report.Figure]:
    """Load, ask and unload the 23 MB model ``cycles`` times, print the memory and return the figure."""
    work, port, log = build("mid", folder / "models"), free_port(), folder / "tether.log"
    tether.prepare(folder, port, [work], log)
    with server() as running:
        tether.start(running, folder, port)
        tether.wait(running, lambda: tether.call(port, "GET", "/health/ready")[0] == 200, log)
        requests = open_inference(work, "json", port)
        weights = []
        for cycle in range(cycles + 1):
            _command(port, f"{work.name}/load")
            check(requests, work.answers)
            _command(port, f"{work.name}/unload")
            if cycle % 10 == 0 or cycle == cycles:
                weights.append(_weigh(running))
                say(f"after {cycle + 1:3d} cycles: {weights[-1]:.1f} MB PSS in {len(running.pids())} processes")
    # The first cycle fills buffers that stay; every later one must leave what it found.
    growth = 100 * (weights[-1] / weights[0] - 1)
    figures = [report.Figure(f"host memory after {cycles} load/unload cycles: growth, %", 5.0, False, growth)]
    print(f"\n{report.promises(figures)}")
    return figures


def _command(port: int, path: str) -> None:
    status, answer = tether.call(port, "POST", f"/api/v1/models/{path}")
    if status != 200:
        raise tether.NotReady(f"{path} answered {status}: {answer[:300]!r}")


def _weigh(running: Server) -> float:
    time.sleep(SETTLE)
    return running.memory()[0]
