"""What strangers at each port of a host cost an application: its 99th percentile, and the host's memory and files.

A founder with all roles but the worker, and a worker that joined it: the application's requests pass the gateway's
port and the one for other hosts. The strangers (``strangers.py``) come to one port after the other, and for comparison
to one that nobody reads, since they need the same two cores as those whom they disturb.
"""

import contextlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import report, tether
from benchmarks.contenders import open_inference
from benchmarks.fleet import pair_of, served
from benchmarks.load import Requests, WrongAnswer
from benchmarks.serving import free_port, say
from benchmarks.workloads import build

STRANGERS = 1500
ARRIVING = 1.0
"""Seconds within which they come."""

SECONDS = 5.0
PACE = 0.005
SETTLE = 15.0
"""Seconds until a host has put away the last of them: no port holds a silent one for longer than ten."""


class Times(NamedTuple):
    """99th percentiles of one round, ms: in quiet, among strangers at a port of nobody's, and at one of the host's."""

    quiet: float
    beside: float
    among: float


def run(folder: Path, rounds: int) -> list[report.Figure]:
    """Measure, print the table and return the figures."""
    work = build("tiny", folder / "models")
    tether.prepare(folder / "host", free_port(), [work], folder / "prepare.log")
    with pair_of(folder / "host") as pair:
        pair.found()
        pair.start_worker()
        pair.join()
        requests = open_inference(work, "json", pair.port)
        pair.wait(lambda: served(requests))
        _ask(requests, 2.0)
        host = pair.front.roots[0].pid
        ports = {"gateway": pair.port, **pair.doors()}
        weight, files = _weight(host), _files(host)
        times: dict[str, list[Times]] = {name: [] for name in ports}
        for turn in range(rounds):
            for name, port in ports.items():
                times[name].append(took := _round(requests, port))
                say(f"round {turn + 1} of {rounds}, {name}: {took.among:.2f} ms, in quiet {took.quiet:.2f} ms")
        time.sleep(SETTLE)
        return _show(times, _weight(host) - weight, _files(host) - files)


def _round(requests: Requests, port: int) -> Times:
    quiet = _ask(requests, SECONDS)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as nobody, _strangers(nobody.getsockname()[1]) as come:
        beside = _ask(requests, SECONDS, come)
    with _strangers(port) as come:
        among = _ask(requests, SECONDS, come)
    return Times(quiet, beside, among)


def _ask(requests: Requests, seconds: float, begin: Callable[[], None] = lambda: None) -> float:
    """Ask at a steady pace on one connection; return the 99th percentile of the round trips, ms."""
    link = http.client.HTTPConnection("127.0.0.1", requests.port, timeout=30.0)
    with contextlib.closing(link):
        link.connect()
        begin()
        times, until = [], time.monotonic() + seconds
        while (began := time.monotonic()) < until:
            link.request("POST", requests.path, requests.bodies[len(times) % len(requests.bodies)], requests.headers)
            response = link.getresponse()
            response.read()
            if response.status != 200:
                raise WrongAnswer(f"{requests.path} answered {response.status} among strangers")
            times.append(time.monotonic() - began)
            time.sleep(max(0.0, PACE - times[-1]))
    return 1000 * sorted(times)[int(len(times) * 0.99)]


def _show(times: dict[str, list[Times]], grown: float, left: int) -> list[report.Figure]:
    # One port's rounds are few for a percentile that is itself of the rarest: what is the same for all is taken of all.
    every = [took for turns in times.values() for took in turns]
    quiet, beside = median(took.quiet for took in every), median(took.beside for took in every)
    ratios = {name: median(took.among for took in turns) / quiet for name, turns in times.items()}
    rows = [["strangers at", "p99, ms", "rounds", "x in quiet"]]
    rows.append(["nobody", f"{quiet:.2f}", _spread(took.quiet for took in every), ""])
    rows.append(
        ["a port nobody reads", f"{beside:.2f}", _spread(took.beside for took in every), f"{beside / quiet:.2f}"]
    )
    for name, turns in times.items():
        middle = f"{median(took.among for took in turns):.2f}"
        rows.append([name, middle, _spread(took.among for took in turns), f"{ratios[name]:.2f}"])
    print(f"\n{report.table(rows)}")
    count = STRANGERS * len(every)
    figures = [
        report.Figure(f"p99 among {STRANGERS} strangers at {name} x in quiet", 1.2, False, ratio)
        for name, ratio in ratios.items()
    ]
    figures += [
        report.Figure(f"memory kept of {count} strangers, MB", 5.0, False, grown),
        report.Figure("files kept of them", 2.0, False, float(left)),
    ]
    print(f"\n{report.promises(figures)}")
    return figures


def _spread(values: Iterable[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]:.2f} to {ordered[-1]:.2f}"


def _weight(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# --- strangers -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _strangers(port: int) -> Iterator[Callable[[], None]]:
    """Have strangers stand ready, and lend what makes them come."""
    command = [sys.executable, "-m", "benchmarks.strangers", str(port), str(STRANGERS), str(ARRIVING)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()
        try:
            yield child.stdin.close
        finally:
            child.kill()
