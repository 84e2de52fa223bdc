"""How long ``tetherctl`` takes to start, as ratios to ``python -c pass``: ``python -m benchmarks.startup``.

Cases run interleaved, so that a busy moment of the machine touches all alike; medians are compared. ``status`` talks to
a socket that answers at once with one canned document: what is measured is the command, not a daemon.
"""

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ENTRY = "import sys; from tetherctl.__main__ import main; sys.exit(main())"
BUDGETS = {"--version": 2.0, "status": 8.0}
BODY = b'{"version":"0","node":"n","roles":[],"uptime_s":1,"ready":true,"models":0,"workers":[],"queues":[]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def answer(listener: socket.socket) -> None:
    """Give every connection the canned answer."""
    while True:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(ANSWER)


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each command."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> int:
    """Print the ratios; fail when one is over its budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="tctl") as place, socket.socket(socket.AF_UNIX) as listener:
        path = Path(place) / "s"
        listener.bind(str(path))
        listener.listen(64)
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        cases = ["--version", "--help", "status", "models --help", "models push --help", "help exit-codes"]
        endpoint = [f"--endpoint=unix://{path}"]
        commands = {"python -c pass": [sys.executable, "-c", "pass"]}
        for case in cases:
            words = case.split() + (endpoint if case == "status" else [])
            commands[case] = [sys.executable, "-c", ENTRY, *words]
        medians = measure(commands, rounds)
    unit = medians["python -c pass"]
    over = 0
    for name, value in medians.items():
        budget = BUDGETS.get(name)
        over += budget is not None and value / unit > budget
        limit = f"   at most {budget:g}" if budget else ""
        print(f"{name:<20} {value * 1000:7.1f} ms   {value / unit:5.2f} x{limit}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
