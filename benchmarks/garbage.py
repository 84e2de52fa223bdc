"""What strangers at the door for other hosts cost a member: its 99th percentile, and the server's memory and files.

Strangers are a process that opens connections and sends noise, half a handshake or nothing, and holds what it is let
hold. The member asks small questions at a steady pace, in quiet and among strangers by turns.
"""

import asyncio
import contextlib
import random
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import msgspec

from benchmarks import report
from benchmarks.relay import nodes
from benchmarks.serving import free_port, say
from benchmarks.tether import NotReady
from tetherd.drivers import nng
from tetherd.drivers.blocking import BlockingCaller
from tetherd.drivers.clock import SystemClock
from tetherd.drivers.door import Door
from tetherd.drivers.rpc import Server
from tetherd.policy.admission import Admission
from tetherd.ports import Context
from tetherd.types import Credentials
from tetherd.wire.messages import FleetState, GetFleet

STRANGERS = 1500
ROUNDS = 5
SECONDS = 5.0
PACE = 0.005
SETTLE = 8.0
MAX_MESSAGE = 4 << 20


class Member(msgspec.Struct):
    """What the server's process is told: who it is, where it listens and who may come."""

    credentials: Credentials
    port: int
    local: str
    node: str


def run(folder: Path) -> list[report.Figure]:
    """Measure, print the table and return the figures."""
    server, member = nodes()
    port = free_port()
    with _serving(Member(server, port, f"ipc://{folder}/s", member.node)) as pid:
        secret = nng.Secret(member, server.node)
        caller = BlockingCaller(f"{nng.TLS}127.0.0.1:{port}", max_message=MAX_MESSAGE, secret=lambda: secret)
        call = caller.lane()
        _ask(call, 1.0)
        weight, files = _weight(pid), _files(pid)
        quiet, among = [], []
        for turn in range(ROUNDS):
            quiet.append(_ask(call, SECONDS))
            with _strangers(port):
                among.append(_ask(call, SECONDS))
            time.sleep(1.0)
            say(f"round {turn + 1} of {ROUNDS}: p99 {quiet[-1][1]:.3f} ms in quiet, {among[-1][1]:.3f} among strangers")
        time.sleep(SETTLE)
        grown, left = _weight(pid) - weight, _files(pid) - files
        caller.close()
    return _show(quiet, among, grown, left)


def _ask(call: object, seconds: float) -> tuple[float, float]:
    """Ask at a steady pace; return the median and the 99th percentile of the round trips, ms."""
    assert callable(call)
    times, until = [], time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        call(GetFleet(), 10.0)
        took = time.monotonic() - began
        times.append(1000 * took)
        time.sleep(max(0.0, PACE - took))
    times.sort()
    return median(times), times[int(len(times) * 0.99)]


def _show(
    quiet: list[tuple[float, float]], among: list[tuple[float, float]], grown: float, left: int
) -> list[report.Figure]:
    rows = [["", "p50 ms", "p99 ms"]]
    for name, turns in (("in quiet", quiet), (f"among {STRANGERS} strangers", among)):
        rows.append([name, f"{median(turn[0] for turn in turns):.3f}", f"{median(turn[1] for turn in turns):.3f}"])
    print(f"\n{report.table(rows)}")
    ratio = median(loud[1] / calm[1] for calm, loud in zip(quiet, among, strict=True))
    figures = [
        report.Figure("a member's p99 among strangers x in quiet", 1.2, False, ratio),
        report.Figure(f"memory kept of {ROUNDS * STRANGERS} strangers, MB", 5.0, False, grown),
        report.Figure("files kept of them", 2.0, False, float(left)),
    ]
    print(f"\n{report.promises(figures)}")
    return figures


def _weight(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# --- the other processes ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _serving(member: Member) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.garbage", "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(msgspec.json.encode(member) + b"\n")
        child.stdin.flush()
        if child.stdout.readline() != b"ready\n":
            raise NotReady("the server did not start")
        try:
            yield child.pid
        finally:
            child.kill()


@contextlib.contextmanager
def _strangers(port: int) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-m", "benchmarks.garbage", "attack", str(port)]) as child:
        try:
            yield
        finally:
            child.kill()


async def _serve(member: Member) -> None:
    async def answer(_: GetFleet, __: Context) -> FleetState:
        return FleetState([], [], [])

    roster = {member.node: ("worker",), member.credentials.node: ("orchestrator",)}
    address = f"{nng.TLS}127.0.0.1:{member.port}"
    door = Door([address], member.credentials, Admission(roster.get), SystemClock())
    server = Server(
        member.local, {GetFleet: answer}, clock=SystemClock(), max_message=MAX_MESSAGE, lost=lambda _: None, door=door
    )
    await server.run(lambda: print("ready", flush=True))


def _attack(port: int) -> None:
    """Open connections one after the other, a third of them noisy, and hold them until they are ended."""
    noise, held = random.Random(port), selectors.DefaultSelector()
    words = (noise.randbytes(300), b"\x16\x03\x01\x02\x00\x01\x00", b"")
    for number in range(STRANGERS):
        stranger = socket.socket()
        stranger.setblocking(False)
        stranger.connect_ex(("127.0.0.1", port))
        held.register(stranger, selectors.EVENT_WRITE, words[number % len(words)])
        if number % 10 == 0:
            _attend(held, 0.01)
    while held.get_map():
        _attend(held, 1.0)


def _attend(held: selectors.BaseSelector, patience: float) -> None:
    for key, ready in held.select(patience):
        stranger: socket.socket = key.fileobj  # type: ignore[assignment]
        try:
            if ready & selectors.EVENT_WRITE:
                stranger.send(key.data)
                held.modify(stranger, selectors.EVENT_READ)
            elif stranger.recv(4096):
                continue
            else:
                raise ConnectionResetError
        except OSError:
            held.unregister(stranger)
            stranger.close()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(_serve(msgspec.json.decode(sys.stdin.buffer.readline(), type=Member)))
    else:
        _attack(int(sys.argv[2]))
