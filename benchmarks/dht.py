"""Tether's distributed hash table beside HyperDHT: the same work in the same run, in turns.

Every contender has its nodes in one process on loopback, with a second process for those that are to fall silent.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import report
from benchmarks.serving import rotated, say

HERE = Path(__file__).parent
RIVAL = "hyperdht"
VERSION = "6.34.0"
WARM = 2.0
"""Seconds from the last node's start to the first measurement."""

FEW, MANY = 20, 100
LIVE, SILENT = 40, 20
PATIENCE = 120.0

Command = Callable[[int, int], list[str]]


class Child:
    """One process full of nodes."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hello = self._line()

    @property
    def port(self) -> int:
        """Return where its first node listens."""
        return int(self.hello["port"])

    def do(self, what: str, count: int) -> dict[str, Any]:
        """Have it do something ``count`` times; return what it measured."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": what, "count": count}) + "\n")
        self._process.stdin.flush()
        return self._line()

    def freeze(self) -> None:
        """Make all its nodes silent, their sockets still open."""
        self._process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """End it, frozen or not."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"a process full of nodes ended with status {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass
class Times:
    """What one contender took, in milliseconds by round, and how often it found nothing."""

    announce: list[list[float]] = field(default_factory=list)
    lookup: list[list[float]] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    misses: int = 0
    memory: float = math.nan

    def add(self, found: dict[str, Any]) -> None:
        """Take in one round."""
        self.announce.append(found["announce"])
        self.lookup.append(found["lookup"])
        self.first += found["first"]
        self.misses += found["misses"]


def run(rounds: int, count: int) -> list[report.Figure]:
    """Measure, print and return the figures; ``count`` operations a round."""
    commands: dict[str, Command] = {"tether": _tether, RIVAL: _rival(_install())}
    rows = [["nodes", "table", "announce ms", "p99", "first hit ms", "lookup ms", "p99", "misses", "MB"]]
    found: list[report.Figure] = []
    memory: dict[int, float] = {}
    for size in (FEW, MANY):
        times = _healthy(commands, size, rounds, count)
        memory[size] = times["tether"].memory
        rows += [_row(str(size), name, mine) for name, mine in times.items()]
        found += compared(size, times)
    found.append(report.Figure("MB for each node more", 0.1, False, (memory[MANY] - memory[FEW]) / (MANY - FEW)))
    times = _silent(commands, rounds)
    rows += [_row(f"{LIVE}+{SILENT} silent", name, mine) for name, mine in times.items()]
    ours = times["tether"]
    found.append(report.Figure("a third of 60 silent: lookup, ms", 600, False, _middle(ours.lookup)))
    found.append(report.Figure("a third of 60 silent: every node's first, ms", 600, False, median(ours.lookup[0])))
    found.append(report.Figure("a third of 60 silent: lookups that missed", 0, False, ours.misses))
    print(f"\n{report.table(rows)}\n\n{report.promises(found)}")
    return found


def _healthy(commands: dict[str, Command], size: int, rounds: int, count: int) -> dict[str, Times]:
    """Announce and look up among nodes that all answer."""
    say(f"{size} nodes each")
    with _children() as start:
        children = {name: start(command(size, 0)) for name, command in commands.items()}
        time.sleep(WARM)
        times = {name: Times() for name in children}
        for turn in range(rounds):
            for name in rotated(list(children), turn):
                done = children[name].do("cycle", count)
                times[name].add(done)
                times[name].memory = (done["resident"] - children[name].hello["resident"]) / 1e6
    return times


def _silent(commands: dict[str, Command], rounds: int) -> dict[str, Times]:
    """Look up what was announced before a third of the nodes fell silent: in a round, once from every other node.

    Each contender's nodes fall silent just before its own first round, when none of the others knows yet.
    """
    say(f"{LIVE} nodes each, and {SILENT} that fall silent")
    with _children() as start:
        children = {name: start(command(LIVE, 0)) for name, command in commands.items()}
        victims = {name: start(command(SILENT, children[name].port)) for name, command in commands.items()}
        time.sleep(WARM)
        times = {name: Times() for name in children}
        for name, child in children.items():
            child.do("prepare", LIVE)
            victims[name].freeze()
            times[name].add(child.do("find", LIVE))
        for turn in range(1, rounds):
            for name in rotated(list(children), turn):
                times[name].add(children[name].do("find", LIVE))
    return times


@contextmanager
def _children() -> Iterator[Callable[[list[str]], Child]]:
    started: list[Child] = []

    def start(command: list[str]) -> Child:
        started.append(Child(command))
        return started[-1]

    try:
        yield start
    finally:
        for child in started:
            child.end()


def compared(size: int, times: dict[str, Times]) -> list[report.Figure]:
    """Return the figures of one size."""
    ours, theirs = times["tether"], times[RIVAL]
    return [
        report.Figure(f"{size} nodes: lookup x {RIVAL}", 1.0, False, ratio(ours.lookup, theirs.lookup)),
        report.Figure(f"{size} nodes: announce x {RIVAL}", 1.0, False, ratio(ours.announce, theirs.announce)),
        report.Figure(f"{size} nodes: lookups that missed", 0, False, ours.misses),
    ]


def ratio(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Return the median over rounds of the ratio of medians within a round."""
    return median(median(mine) / median(other) for mine, other in zip(ours, theirs, strict=True))


def _middle(rounds: list[list[float]]) -> float:
    values = [value for turn in rounds for value in turn]
    return median(values) if values else math.nan


def _late(rounds: list[list[float]]) -> float:
    values = [value for turn in rounds for value in turn]
    return quantiles(values, n=100)[98] if len(values) > 1 else math.nan


def _row(nodes: str, name: str, times: Times) -> list[str]:
    cells = [_middle(times.announce), _late(times.announce), _middle([times.first]), _middle(times.lookup)]
    cells.append(_late(times.lookup))
    texts = ["" if math.isnan(value) else f"{value:.2f}" for value in cells]
    return [nodes, name, *texts, str(times.misses), "" if math.isnan(times.memory) else f"{times.memory:.1f}"]


def _tether(count: int, seed: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.peers.tether_nodes", str(count), *([str(seed)] if seed else [])]


def _rival(module: Path) -> Command:
    script = str(HERE / "peers" / "hyperdht_nodes.js")

    def command(count: int, seed: int) -> list[str]:
        return ["node", "--expose-gc", script, str(module), str(count), *([str(seed)] if seed else [])]

    return command


def _install() -> Path:
    """Return where HyperDHT is, fetched with npm the first time. Raises OSError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tether-benchmarks"
    folder = cache / f"{RIVAL}-{VERSION}"
    module = folder / "node_modules" / RIVAL
    if module.exists():
        return module
    if not shutil.which("node") or not shutil.which("npm"):
        raise OSError("the comparison needs node and npm")
    say(f"installing {RIVAL} {VERSION}")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), f"{RIVAL}@{VERSION}"]
    done = subprocess.run(command, check=False, timeout=PATIENCE)
    if done.returncode or not module.exists():
        raise OSError(f"npm could not install {RIVAL} (status {done.returncode})")
    return module
