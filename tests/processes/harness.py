"""Real daemons for tests: each with a configuration, a directory and a process group of its own, on loopback."""

import contextlib
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import graphs
import numpy as np

REPOSITORY: Final = Path(__file__).parents[2]
DIGITS: Final = REPOSITORY / "models/digits"
EXAMPLE: Final = json.loads((DIGITS / "example.json").read_text())
EXPECTED: Final = json.loads((DIGITS / "expected.json").read_text())
ROLES: Final = ("gateway", "orchestrator", "worker", "manager")

PATIENCE: Final = 30.0
"""Seconds that anything may take on a busy machine before a test gives up."""


class Gone(AssertionError):
    """A daemon ended before it was ready."""


@dataclass
class Reply:
    """What a daemon answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def ok(self) -> Any:
        """Return the document of an answer that must be one of success; None where there is none."""
        assert self.status < 300, f"{self.status}: {self.body[:2000]!r}"
        return self.json() if self.body[:1] in (b"{", b"[") else None


@dataclass
class Outcome:
    """One request of a load: when it ended (monotonic), how long it took, and what came."""

    ended: float
    took: float
    status: int
    body: bytes


def until(met: Callable[[], Any], what: str, *, patience: float = PATIENCE, pause: float = 0.02) -> Any:
    """Return the first true result of ``met``; fail when none came in time."""
    deadline = time.monotonic() + patience
    while True:
        if result := met():
            return result
        assert time.monotonic() < deadline, f"waited {patience:g} s in vain: {what}"
        time.sleep(pause)


def free_port() -> int:
    """Return a port that nobody has, none of those that outgoing connections are given: it may be bound much later."""
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_right(outputs: Mapping[str, Any]) -> bool:
    """Tell whether these are the outputs of the digits example."""
    wanted = EXPECTED["outputs"]
    close = np.allclose(outputs["scores"], wanted["scores"], rtol=EXPECTED["rtol"], atol=EXPECTED["atol"])
    return bool(close) and list(outputs["label"]) == wanted["label"]


def toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Write tables of plain values; a JSON value is a TOML value."""
    lines = []
    for table, settings in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items()), ""]
    return "\n".join(lines)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """One ``tetherd run``, started and stopped as often as a test likes."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.name = name
        self.folder = folder
        self.config = folder / f"{name}.toml"
        self.log = folder / f"{name}.log"
        self.control = Path(settings["node"]["runtime_dir"]) / "control.sock"
        self.roles = settings["node"]["roles"]
        self.address = settings.get("gateway", {}).get("listen", "")
        self.config.write_text(toml(settings))
        self.process: subprocess.Popen[bytes] | None = None
        self._offspring: set[int] = set()

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True, under: Sequence[str] = ()) -> Self:
        """Start the process; ``wait`` until it listens. ``under``: a command that runs it, such as a tracer."""
        command = [*under, sys.executable, "-m", "tetherd", "run", "--config", str(self.config), "--log-format", "json"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait_live()
        return self

    def wait_live(self) -> None:
        until(lambda: self._running() and self._says("/health/live"), f"{self.name} listens")

    def wait_ready(self, patience: float = PATIENCE) -> Self:
        """Wait until a model request could be served."""
        until(lambda: self._running() and self._says("/health/ready"), f"{self.name} is ready", patience=patience)
        return self

    def _running(self) -> bool:
        assert self.process
        if (code := self.process.poll()) is not None:
            raise Gone(f"{self.name} ended with {code}:\n{self.log.read_text()[-4000:]}")
        return True

    def _says(self, path: str) -> bool:
        try:
            return self.call("GET", path, control=not self.address, timeout=5).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_end(self, patience: float = PATIENCE) -> int:
        assert self.process
        return self.process.wait(patience)

    def stop(self, patience: float = PATIENCE) -> int:
        """Ask it to stop, and return its exit code."""
        self.remember()
        self.signal(signal.SIGTERM)
        return self.wait_end(patience)

    def kill(self) -> None:
        """Kill it as a power failure would: at once. Its runners find out by themselves."""
        self.remember()
        self.signal(signal.SIGKILL)
        self.wait_end()

    def remember(self) -> list[int]:
        """Note the processes it has started so far, to be able to see them end, and return those that run."""
        if self.process and self.process.poll() is None:
            self._offspring.update(children(self.pid))
        return [pid for pid in self._offspring if alive(pid)]

    def end(self) -> None:
        """Kill it and all it started; leave nothing behind."""
        left = self.remember()
        if self.process and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # --- requests ----------------------------------------------------------------------------------------------------

    def connect(self, *, control: bool = False, timeout: float = PATIENCE) -> http.client.HTTPConnection:
        if control:
            return _UnixConnection(self.control, timeout)
        host, _, port = self.address.rpartition(":")
        return http.client.HTTPConnection(host, int(port), timeout=timeout)

    def call(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        control: bool = False,
        timeout: float = PATIENCE,
    ) -> Reply:
        """Send one request; a body that is not bytes is sent as JSON."""
        data, headers = body, dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = self.connect(control=control, timeout=timeout)
        try:
            connection.request(verb, path, data, headers)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        return self.call("GET", path).ok()

    def push(self, name: str, model: bytes) -> Any:
        """Upload one ONNX file as a model and return its version document."""
        return self.call(
            "PUT", f"/api/v1/models/{name}", model, headers={"Content-Type": "application/octet-stream"}
        ).ok()

    def infer(self, reference: str, inputs: Any, **options: Any) -> Reply:
        return self.call("POST", f"/api/v1/inference/{reference}", {"inputs": inputs}, **options)

    def runners(self, model: str, state: str = "READY") -> list[dict[str, Any]]:
        """Return the runners of a model's latest version in a state."""
        document = self.get(f"/api/v1/models/{model}")
        newest = next(one for one in document["versions"] if one["number"] == document["version"])
        return [runner for runner in newest["runners"] if runner["state"] == state]

    def wait_runners(self, model: str, count: int) -> list[dict[str, Any]]:
        met = lambda: len(found := self.runners(model)) == count and found  # noqa: E731
        found: list[dict[str, Any]] = until(met, f"{count} runners of {model}")
        return found

    def ctl(self, *words: str, stdin: bytes = b"", code: int | None = 0) -> subprocess.CompletedProcess[bytes]:
        """Run a command of ``tetherctl`` against this daemon; its exit code must be ``code``."""
        command = [sys.executable, "-m", "tetherctl", "--endpoint", f"unix://{self.control}", *words]
        done = subprocess.run(
            command, cwd=REPOSITORY, input=stdin, capture_output=True, timeout=PATIENCE * 2, check=False
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert code is None or done.returncode == code, f"{done.returncode}: {done.stdout!r} {done.stderr.decode()}"
        return done

    # --- the process -------------------------------------------------------------------------------------------------

    def rss(self) -> int:
        """Return the resident bytes of the daemon's own process."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> int:
        """Return how many file descriptors the daemon's own process has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class Host:
    """A directory and the daemons in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[Daemon] = []

    def daemon(self, *roles: str, name: str = "", share: str = "", **settings: Mapping[str, Any]) -> Daemon:
        """Return a daemon, not started yet, of these roles (none named: all) and settings (tables by name)."""
        hosted = list(roles or ROLES)
        name = name or ("all" if not roles else "-".join(roles))
        home = self.folder / name
        tables: dict[str, dict[str, Any]] = {
            "node": {
                "name": name,
                "roles": hosted,
                "state_dir": str(home / "state"),
                "cache_dir": str(home / "cache"),
                "runtime_dir": str(home / "run"),
            },
            "drain": {"deadline": "10s"},
        }
        if "gateway" in hosted:
            tables["gateway"] = {"listen": f"127.0.0.1:{free_port()}"}
        for table, values in settings.items():
            tables.setdefault(table, {}).update(values)
        self.folder.mkdir(exist_ok=True)
        daemon = Daemon(self.folder, name, tables)
        self.daemons.append(daemon)
        return daemon

    def end(self) -> None:
        for daemon in self.daemons:
            daemon.end()

    def check_logs(self) -> None:
        for daemon in self.daemons:
            assert "Traceback" not in daemon.logged(), f"{daemon.name}:\n{daemon.logged()[-8000:]}"


@contextlib.contextmanager
def new_host() -> Iterator[Host]:
    """Yield a host in a directory whose sockets' paths are short enough; end its daemons and read their logs."""
    folder = Path(tempfile.mkdtemp(prefix="tth"))
    host = Host(folder)
    try:
        try:
            yield host
        finally:
            host.end()
        host.check_logs()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Cluster:
    """Each role in a process of its own, on one host."""

    host: Host
    manager: Daemon
    orchestrator: Daemon
    workers: list[Daemon]
    gateway: Daemon
    daemons: list[Daemon] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.daemons = [self.manager, self.orchestrator, *self.workers, self.gateway]


def four_processes(host: Host, transport: str = "ipc", *, workers: int = 1, **settings: Mapping[str, Any]) -> Cluster:
    """Start every role as a process of its own, and wait until the gateway is ready."""

    def address(role: str) -> str:
        return f"tcp://127.0.0.1:{free_port()}" if transport == "tcp" else f"ipc://{host.folder}/{role}.sock"

    peers = {"orchestrator": address("orchestrator"), "manager": address("manager")}

    def make(role: str, name: str = "") -> Daemon:
        own = {"rpc": {"listen": peers[role]}} if role in peers else {"rpc": {"listen": address(name or role)}}
        needed = {"gateway": ("orchestrator", "manager"), "worker": ("orchestrator", "manager")}.get(role, ())
        tables = {
            "peers": {key: peers[key] for key in needed},
            **own,
            **{key: value for key, value in settings.items() if key == role or key == "log"},
        }
        return host.daemon(role, name=name, **tables)

    cluster = Cluster(
        host,
        make("manager"),
        make("orchestrator"),
        [make("worker", f"worker{number}") for number in range(workers)],
        make("gateway"),
    )
    for daemon in cluster.daemons:
        daemon.start(wait=False)
    cluster.gateway.wait_ready()
    return cluster


class Load:
    """Several clients, each in a thread with a connection of its own, that send a fixed number of requests."""

    def __init__(self, daemon: Daemon, path: str, body: Any, *, clients: int = 16, requests: int = 100) -> None:
        self._daemon = daemon
        self._path = path
        self._body = json.dumps(body).encode()
        self._requests = requests
        self.outcomes: list[Outcome] = []
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        connection = self._daemon.connect()
        for _ in range(self._requests):
            began = time.monotonic()
            try:
                connection.request("POST", self._path, self._body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                status, body = response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                status, body = 0, repr(error).encode()
                connection.close()
            now = time.monotonic()
            self.outcomes.append(Outcome(now, now - began, status, body))
        connection.close()

    def wait_answered(self, count: int) -> None:
        """Wait until so many requests were answered, so that what happens next happens under load."""
        until(lambda: len(self.outcomes) >= count, f"{count} answers", pause=0.002)

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def finish(self) -> list[Outcome]:
        """Wait for all answers."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client still waits for its answer"
        return self.outcomes

    def failed(self) -> list[tuple[int, bytes]]:
        return [(one.status, one.body[:300]) for one in self.finish() if one.status != 200]

    def longest_gap(self) -> float:
        """Return the longest time, in seconds, in which no client had an answer."""
        ends = sorted(one.ended for one in self.finish())
        return max(after - before for before, after in itertools.pairwise(ends))


def turns_for(daemon: Daemon, seconds: float) -> int:
    """Push the spinning model as ``spin``, and return how far it counts in so many seconds on this machine."""
    daemon.push("spin", graphs.spin())
    daemon.infer("spin", {"turns": 1}).ok()
    took = max(daemon.infer("spin", {"turns": 20_000}).ok()["timing"]["infer_ms"], 0.1) / 1000
    return int(20_000 / took * seconds)
