"""Two hosts of one network: how soon one that joins serves, how soon one that is lost is missed, and what TLS costs.

Daemons on loopback; the one that falls silent is in a network namespace, where that is allowed.
"""

import contextlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report, tether
from benchmarks.contenders import open_inference
from benchmarks.load import Requests, WrongAnswer, ask, check, measure
from benchmarks.processes import Server, server
from benchmarks.serving import free_port, say
from benchmarks.workloads import Workload, build
from tetherd.drivers.rpc.blocking import BlockingCaller
from tetherd.wire.messages import GetFleet

CONNECTIONS = 32
MAX_MESSAGE = 64 << 20
DOUBTED = 1900
"""A worker whose connection ends is charged with so many ms of silence; one that lives reports every second."""
SERVES = ["gateway", "orchestrator", "manager", "relay"]
ADDRESSES = ("10.214.0.1", "10.214.0.2")
SILENCE = "table inet silence {\n chain arriving {\n type filter hook prerouting priority -300\n drop\n }\n}\n"
"""Drops whatever arrives; the sender notices nothing."""


class Pair:
    """A founder without a worker, and a worker's host that may join it. ``inside``: commands that run each of them."""

    def __init__(
        self, place: Path, runs: tuple[Server, Server], inside: Sequence[Sequence[str]], hosts: Sequence[str]
    ) -> None:
        self.place = place
        self.front, self.back = runs
        self.log = place / "tether.log"
        self.port = free_port()
        self._inside = inside
        self._asks: Any = None
        self._ports = [{key: f"{host}:{free_port()}" for key in ("listen", "enrol", "bulk", "udp")} for host in hosts]
        self._relay = free_port()

    def found(self) -> None:
        """Start the founder and let it found a network."""
        self._start_founder()
        self.ctl("front", "cluster", "init", "--name", "bench")

    def restart(self) -> float:
        """Kill the founder and start it again; return the seconds from its answering until it knows the worker."""
        self.front.roots[-1].kill()
        self.front.roots.pop().wait()
        self._start_founder()
        self._asks = None  # its connection was to the one that was killed
        return self.wait(lambda: bool(self.workers()))

    def _start_founder(self) -> None:
        settings = {
            "node": {"roles": SERVES},
            "gateway": {"listen": f"127.0.0.1:{self.port}"},
            "relay": {"listen": f"127.0.0.1:{self._relay}"},
        }
        tether.daemon(self.front, self.place, "front", settings | self._cluster(0), self._inside[0])
        self.wait(lambda: self.answers("front"))

    def start_worker(self) -> None:
        """Start the other daemon, and wait until it answers."""
        # Until it has joined, its gateway would listen where others do.
        settings = {"worker": {"spare": True, "runners": 1}, "gateway": {"listen": f"127.0.0.1:{free_port()}"}}
        tether.daemon(self.back, self.place, "back", settings | self._cluster(1), self._inside[1])
        self.wait(lambda: self.answers("back"))

    def join(self) -> None:
        """Let it join."""
        self.ctl("back", "cluster", "join", stdin=self.token())
        self.wait(lambda: bool(self.workers()))

    def token(self) -> bytes:
        """Return a token for a worker."""
        return self.ctl("front", "cluster", "token", "--role", "worker")

    def answers(self, name: str) -> bool:
        """Tell whether a daemon answers on its control socket."""
        return self._ask(name, "/health/live")[0] == 200

    def workers(self) -> dict[str, int]:
        """Return the workers that the founder knows, by an id that each process has anew, and their silence in ms."""
        if self._asks is None:
            self._caller = BlockingCaller(f"ipc://{self.place}/front-run/rpc.sock", max_message=MAX_MESSAGE)
            self._asks = self._caller.lane()
        return {worker.worker: worker.seen_ms_ago for worker in self._asks(GetFleet(), 10.0).workers}

    def doors(self) -> dict[str, int]:
        """Return the TCP ports at which other hosts reach the founder."""
        ports = {key: int(self._ports[0][key].rpartition(":")[2]) for key in ("listen", "enrol", "bulk")}
        return ports | {"relay": self._relay}

    def wait(self, test: Callable[[], bool]) -> float:
        """Wait until something holds, and return for how many seconds."""
        began = time.monotonic()
        tether.wait(self.front, test, self.log)
        return time.monotonic() - began

    def ctl(self, name: str, *words: str, stdin: bytes = b"") -> bytes:
        """Run a command of ``tetherctl`` against a daemon, and return what it printed."""
        command = [sys.executable, "-m", "tetherctl", "--endpoint", f"unix://{self._socket(name)}", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
        if done.returncode:
            raise tether.NotReady(f"tetherctl {words[:2]} failed: {done.stderr.decode()}")
        return done.stdout

    def _cluster(self, index: int) -> dict[str, dict[str, Any]]:
        return {"cluster": {**self._ports[index], "mdns": False, "dht": False}}

    def _socket(self, name: str) -> Path:
        return self.place / f"{name}-run" / "control.sock"

    def _ask(self, name: str, path: str) -> tuple[int, bytes]:
        link = _Control(self._socket(name))
        try:
            link.request("GET", path)
            response = link.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            link.close()


class _Control(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def run(folder: Path, rounds: int) -> list[report.Figure]:
    """Measure, print and return the figures."""
    tiny, large = build("tiny", folder / "models"), build("large", folder / "models")
    for place in ("wire", "pipe"):
        tether.prepare(folder / place, free_port(), [tiny, large], folder / "prepare.log")
    with pair_of(folder / "wire") as pair:
        pair.found()
        pair.start_worker()
        joined = _join(pair, large)
        ratio = _ratio(pair, folder / "pipe", tiny, rounds)
        lost = [_kill(pair) for _ in range(rounds)]
        found = max(pair.restart() for _ in range(rounds))
        say(f"the founder killed: its worker is known again {found:.2f} s after it was back, the longest")
    figures = [
        report.Figure("from `cluster join` to the first answer, 45 MB model, seconds", 5.0, False, joined),
        report.Figure("a killed worker is missed, the longest, ms", 100, False, 1000 * max(one[0] for one in lost)),
        report.Figure("it is back in its place once it answers, the longest, s", 1.0, False, max(x[1] for x in lost)),
        report.Figure("a founder's worker is back once the founder answers, the longest, s", 1.0, False, found),
        report.Figure("a silent host is missed, the longest, s", 6.0, False, _silence(folder / "silent")),
        report.Figure("tiny JSON, 32 at once: worker over TLS x over a Unix socket", 0.7, True, ratio),
    ]
    print(f"\n{report.promises(figures)}")
    return figures


def _join(pair: Pair, work: Workload) -> float:
    """Return the seconds until a host that joins has served."""
    token, requests = pair.token(), open_inference(work, "json", pair.port)
    began = time.monotonic()
    pair.ctl("back", "cluster", "join", stdin=token)
    pair.wait(lambda: served(requests))
    took = time.monotonic() - began
    check(requests, work.answers)
    say(f"{work.path.stat().st_size / 1e6:.0f} MB: served {took:.2f} s after the join began")
    return took


def served(requests: Requests) -> bool:
    """Tell whether the first request is answered."""
    try:
        ask(requests, 0)
    except (OSError, http.client.HTTPException, WrongAnswer):
        return False
    return True


def _ratio(pair: Pair, place: Path, work: Workload, rounds: int) -> float:
    """Return the median over rounds of the throughput over TLS, as a share of that over a Unix socket."""
    with server() as beside:
        port, ratios = free_port(), []
        tether.start(beside, place, port, {"preload": [work.name]}, split=True)
        asked = [open_inference(work, "json", one) for one in (pair.port, port)]
        for one in asked:
            tether.wait(beside, lambda one=one: served(one), place / "tether.log")  # type: ignore[misc]
            check(one, work.answers)
        bodies = asked[0].store(place / "bodies")
        for one in asked:
            measure(one, bodies, CONNECTIONS, 1)
        for turn in range(rounds):
            order = (0, 1) if turn % 2 else (1, 0)
            rates = {index: measure(asked[index], bodies, CONNECTIONS, 2).rate for index in order}
            ratios.append(rates[0] / rates[1])
            say(f"round {turn + 1} of {rounds}: {rates[0]:.0f} over TLS, {rates[1]:.0f} over a Unix socket")
    return median(ratios)


def _kill(pair: Pair) -> tuple[float, float]:
    """Kill the worker; return the seconds until it is missed, and from its answering again until it is known."""
    (before,) = pair.workers()
    pair.back.roots[-1].kill()
    missed = pair.wait(lambda: pair.workers().get(before, DOUBTED) >= DOUBTED)
    pair.back.roots.pop().wait()
    pair.start_worker()
    back = pair.wait(lambda: bool(pair.workers().keys() - {before}))
    pair.wait(lambda: before not in pair.workers())
    say(f"killed: missed after {1000 * missed:.0f} ms; known {back:.2f} s after it was back")
    return missed, back


def _silence(place: Path) -> float:
    """Return the longest time until a host was missed that no packet reaches or leaves; nan where none can be made."""
    place.mkdir()
    with _spaces() as inside:
        if not inside:
            return float("nan")
        with pair_of(place, inside, ADDRESSES) as pair:
            pair.found()
            pair.start_worker()
            pair.join()
            longest = 0.0
            for _ in range(3):
                for space in inside:
                    _run(f"{' '.join(space)} nft -f -", SILENCE)
                longest = max(longest, pair.wait(lambda: not pair.workers()))
                for space in inside:
                    _run(f"{' '.join(space)} nft delete table inet silence")
                say(f"silent: missed; known again after {pair.wait(lambda: bool(pair.workers())):.2f} s")
            return longest


@contextlib.contextmanager
def pair_of(
    place: Path, inside: Sequence[Sequence[str]] = ((), ()), hosts: Sequence[str] = ("127.0.0.1", "127.0.0.1")
) -> Iterator[Pair]:
    """Lend two hosts, none of which was started yet."""
    with server() as front, server() as back:
        yield Pair(place, (front, back), inside, hosts)


@contextlib.contextmanager
def _spaces() -> Iterator[list[list[str]]]:
    """Make two namespaces with a link between them; give the commands that run something there, or none."""
    names = ("tetherfleet0", "tetherfleet1")
    try:
        try:
            _connect(*names)
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"no networks of their own here: {error}")
            yield []
        else:
            yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _connect(*names: str) -> None:
    for name in names:
        _run(f"ip netns add {name}")
        _run(f"ip -n {name} link set lo up")
    _run(f"ip link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}")
    for name, address in zip(names, ADDRESSES, strict=True):
        _run(f"ip -n {name} addr add {address}/24 dev eth0")
        _run(f"ip -n {name} link set eth0 up")


def _run(words: str, stdin: str = "") -> None:
    subprocess.run(words.split(), check=True, capture_output=True, input=stdin.encode())
