"""``python -m benchmarks.hop``: what a round trip between two processes of a host costs, by whom it is carried.

The other process echoes. Carriers take turns, and ratios are to nng's own threads in the same round.
"""

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pynng
import uvloop

from tetherd.drivers.rpc import ipc
from tetherd.drivers.rpc.lane import Lane, beside
from tetherd.drivers.rpc.turns import Turn
from tetherd.types import Buffer

LIMIT = 8 * 2**20
HEAD = b"h" * 200
PAYLOADS = {"300 B": 100, "64 KB": 64_000, "600 KB": 602_112}
ROUNDS, TRIPS = 7, 400


class Echo:
    """Answers with what it was asked."""

    def greet(self, peer: int) -> None:
        """See ipc.Desk."""

    def forget(self, peer: int) -> None:
        """See ipc.Desk."""

    def begin(self, turn: Turn, data: Buffer, peer: int) -> None:  # noqa: ARG002
        """See ipc.Desk."""
        turn.answer([data] if turn.apart is None else [data, turn.apart])


async def _echo(folder: Path) -> None:
    with ipc.listening(folder / "ours", Echo(), LIMIT):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _nng(folder: Path) -> None:
    with pynng.Rep0(recv_max_size=LIMIT) as answering:
        answering.listen(f"ipc://{folder}/nng")
        print("ready", flush=True)
        while True:
            answering.send(answering.recv())


def _plain(folder: Path) -> None:
    """Echo without any protocol: what the kernel alone takes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "plain"))
        listener.listen()
        print("ready", flush=True)
        connection, _ = listener.accept()
        while data := connection.recv(65536):
            connection.sendall(data)


def _carriers(folder: Path) -> dict[str, Callable[[bytes], object]]:
    by_nng = pynng.Req0(recv_max_size=LIMIT)
    by_nng.dial(f"ipc://{folder}/nng", block=True)
    by_lane = Lane(beside(folder / "ours"), 5.0, LIMIT)
    plain = socket.socket(socket.AF_UNIX)
    plain.connect(str(folder / "plain"))

    def bare(payload: bytes) -> None:
        plain.sendall(payload)
        left = len(payload)
        while left:
            left -= len(plain.recv(left))

    def nng(payload: bytes) -> None:
        by_nng.send(HEAD + payload)
        by_nng.recv()

    return {
        "nng": nng,
        "ours": lambda payload: by_lane.exchange([HEAD, payload], lambda: None, 5.0),
        "bare socket": bare,
    }


def _round(carrier: Callable[[bytes], object], payload: bytes, trips: int) -> float:
    times = []
    for _ in range(trips):
        began = time.perf_counter()
        carrier(payload)
        times.append(time.perf_counter() - began)
    return median(times) * 1e6


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="tether-hop-") as name:
        folder = Path(name)
        me = [sys.executable, "-m", "benchmarks.hop"]
        children = [
            subprocess.Popen([*me, way, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for way in ("echo", "nng", "plain")
        ]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        carriers = _carriers(folder)
        print(f"{'payload':8} {'carrier':12} {'p50 us':>8} {'x nng':>6}")
        for label, size in PAYLOADS.items():
            payload, found = b"p" * size, {carrier: [] for carrier in carriers}
            # A plain echo of more than the socket holds would wait for itself.
            taking_part = [carrier for carrier in carriers if carrier != "bare socket" or size < 65536]
            for number in range(ROUNDS + 1):
                for carrier in taking_part:
                    took = _round(carriers[carrier], payload, TRIPS)
                    if number:  # the first is for warming up
                        found[carrier].append(took)
            for carrier in taking_part:
                ratio = median(one / base for one, base in zip(found[carrier], found["nng"], strict=True))
                print(f"{label:8} {carrier:12} {median(found[carrier]):8.0f} {ratio:6.2f}")
        for child in children:
            child.kill()
            child.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["echo"]:
        uvloop.run(_echo(Path(sys.argv[2])))
    elif sys.argv[1:2] == ["nng"]:
        _nng(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["plain"]:
        _plain(Path(sys.argv[2]))
    else:
        main()
