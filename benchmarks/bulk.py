"""How fast models travel between hosts: from one source and from three, to one manager and to three at once.

Every node is a process of its own. On loopback they share the processors, so what three of them need together says
little about three hosts; the figure is measured where each node is a network namespace with a link of its own. Where
the kernel or the user may not make these, it is left out.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

import msgspec

from benchmarks import report
from benchmarks.peers.bulk_node import Done, Setup, Task
from benchmarks.serving import say
from tetherd.drivers.identity.certificates import (
    Authority,
    issue,
    key_pem,
    make_issuing,
    make_root,
    new_key,
    pem,
    spki_of,
)
from tetherd.types import Credentials, Digest
from tetherd.wire.chunks import CHUNK, Blob, BlobSource

SIZE = 512 << 20
LINK = 200
"""Mbit/s of a host's link, each way: slow enough that the processors of this one machine are not what is measured."""

LINKS = f"{LINK} Mbit/s links"
TARGET = 1.3
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Visit:
    """One transfer: where the nodes were, how many sources and receivers, and the seconds until the last held it."""

    round: int
    where: str
    sources: int
    receivers: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """MB/s that arrived, at all receivers together."""
        return self.receivers * SIZE / self.seconds / 1e6


class Node:
    """One running node."""

    def __init__(self, folder: Path, setup: Setup, inside: Sequence[str]) -> None:
        folder.mkdir()
        (folder / "setup.json").write_bytes(msgspec.json.encode(setup))
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-m", "benchmarks.peers.bulk_node", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HERE.parent,
        )
        self.source = BlobSource(setup.credentials.node, self._out.readline().decode().strip())

    def begin(self, blob: Blob, sources: Sequence[BlobSource]) -> None:
        """Have it fetch a blob."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(msgspec.json.encode(Task(blob, list(sources))) + b"\n")
        stdin.flush()

    def end(self) -> Done:
        """Wait until it holds the blob."""
        line = self._out.readline()
        if not line:
            raise OSError("a node of the benchmark has ended")
        return msgspec.json.decode(line, type=Done)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    @property
    def _out(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout


def run(folder: Path, rounds: int) -> list[report.Figure]:
    """Measure, print the table and return the figures."""
    blob = _make(folder / "origin")
    visits = []
    with _nodes(folder / "loopback", "loopback", lambda _: ()) as nodes:
        for turn in range(rounds):
            ways = ((1, 1), (3, 1), (1, 3))  # sources, receivers
            visits += [_visit(turn, "loopback", blob, nodes[:few], nodes[3 : 3 + many]) for few, many in ways]
    with _links() as spaces, contextlib.ExitStack() as stack:
        if spaces:
            nodes = stack.enter_context(_nodes(folder / "links", "links", lambda index: spaces[index]))
            for turn in range(rounds):
                visits += [_visit(turn, LINKS, blob, nodes[:1], nodes[3 : 3 + count]) for count in (1, 3)]
    print(f"\n{_table(visits)}")
    found = figures(visits)
    print(f"\n{report.promises(found)}")
    return found


def _visit(turn: int, where: str, blob: Blob, sources: Sequence[Node], receivers: Sequence[Node]) -> Visit:
    """Let all receivers fetch at once, each from the sources and the other receivers."""
    for node in receivers:
        others = [one.source for one in (*sources, *receivers) if one is not node]
        node.begin(blob, others)
    done = [node.end() for node in receivers]
    made = Visit(
        turn, where, len(sources), len(receivers), max(one.seconds for one in done), sum(one.cpu for one in done)
    )
    say(f"{where}: {made.sources} to {made.receivers}: {made.seconds:.2f} s, {made.rate:.0f} MB/s")
    return made


def figures(visits: Sequence[Visit]) -> list[report.Figure]:
    def seconds(where: str, sources: int, receivers: int) -> float:
        found = [
            one.seconds for one in visits if (one.where, one.sources, one.receivers) == (where, sources, receivers)
        ]
        return median(found) if found else float("nan")

    spread = seconds(LINKS, 1, 3) / seconds(LINKS, 1, 1)
    return [report.Figure(f"512 MB to three managers: x the time to one ({LINKS})", TARGET, False, spread)]


def _table(visits: Sequence[Visit]) -> str:
    rows = [["where", "sources", "receivers", "seconds", "MB/s", "x one to one", "receivers' CPU s"]]
    for key in dict.fromkeys((one.where, one.sources, one.receivers) for one in visits):
        mine = [one for one in visits if (one.where, one.sources, one.receivers) == key]
        base = median(one.seconds for one in visits if (one.where, one.sources, one.receivers) == (key[0], 1, 1))
        seconds = median(one.seconds for one in mine)
        measured = [f"{seconds:.2f}", f"{median(one.rate for one in mine):.0f}", f"{seconds / base:.2f}"]
        rows.append([*map(str, key), *measured, f"{median(one.cpu for one in mine):.2f}"])
    return report.table(rows)


def _make(root: Path) -> Blob:
    """Write a blob that no two chunks of are alike."""
    folder = root / "sha256"
    folder.mkdir(parents=True)
    noise, whole, chunks = os.urandom(CHUNK - 8), hashlib.sha256(), []
    with (folder / "new").open("wb") as file:
        for index in range(SIZE // CHUNK):
            piece = index.to_bytes(8, "big") + noise
            file.write(piece)
            whole.update(piece)
            chunks.append(hashlib.sha256(piece).digest())
    (folder / "new").rename(folder / whole.hexdigest())
    return Blob(Digest(f"sha256:{whole.hexdigest()}"), SIZE, tuple(chunks))


@contextlib.contextmanager
def _nodes(folder: Path, where: str, space: Callable[[int], Sequence[str]]) -> Iterator[list[Node]]:
    """Start three nodes that have the blob and three that have nothing."""
    folder.mkdir()
    origin, nodes = folder.parent / "origin", list[Node]()
    try:
        for index, credentials in enumerate(_members(6)):
            host = f"10.213.0.{index + 1}" if where == "links" else "127.0.0.1"
            store = origin if index < 3 else folder / f"store{index}"
            store.mkdir(exist_ok=True)
            setup = Setup(f"{host}:0", str(store), credentials)
            nodes.append(Node(folder / f"node{index}", setup, space(index)))
        yield nodes
    finally:
        for node in nodes:
            node.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _members(count: int) -> list[Credentials]:
    now = time.time()
    root = make_root(now)
    issuing: Authority = make_issuing(root, now)
    found = []
    for _ in range(count):
        key = new_key()
        spki = spki_of(key.public_key())
        leaf = issue(issuing, spki, now)
        chain = pem(leaf, issuing.certificate)
        node = hashlib.sha256(spki).hexdigest()
        found.append(Credentials(node, key_pem(key).decode(), chain, pem(root.certificate)))
    return found


@contextlib.contextmanager
def _links() -> Iterator[list[tuple[str, ...]]]:
    """Make six namespaces on one bridge, each with a link of ``LINK`` Mbit/s; give none where that is not allowed."""
    names = [f"tetherbulk{index}" for index in range(6)]
    shape = f"root tbf rate {LINK}mbit burst 256kb latency 100ms"
    try:
        _ip("link add tetherbulk type bridge")
        _ip("link set tetherbulk up")
        for index, name in enumerate(names):
            _ip(f"netns add {name}")
            _ip(f"link add tb{index} type veth peer name eth0 netns {name}")
            _ip(f"link set tb{index} master tetherbulk up")
            _ip(f"-n {name} addr add 10.213.0.{index + 1}/24 dev eth0")
            _ip(f"-n {name} link set eth0 up")
            _run(f"tc qdisc add dev tb{index} {shape}")
            _run(f"ip netns exec {name} tc qdisc add dev eth0 {shape}")
        yield [("ip", "netns", "exec", name) for name in names]
    except subprocess.CalledProcessError as error:
        say(f"no links of their own here: {error.stderr.decode().strip()}")
        yield []
    finally:
        for name in names:
            _run(f"ip netns del {name}", check=False)
        _run("ip link del tetherbulk", check=False)


def _ip(words: str) -> None:
    _run(f"ip {words}")


def _run(words: str, *, check: bool = True) -> None:
    subprocess.run(words.split(), check=check, capture_output=True)
