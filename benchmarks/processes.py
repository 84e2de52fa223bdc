"""Servers under test: starting, weighing and ending whole process trees. Reads /proc, so Linux only."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
STATE, PARENT, SESSION, CPU, STARTED = 0, 1, 3, slice(11, 15), 19
"""Where /proc/<pid>/stat holds these, counted from the field after the command's name."""

GRACE = 8.0
"""Seconds between asking a server to stop and killing what is left of it."""


class Server:
    """One or several commands that serve together, with everything they start."""

    def __init__(self) -> None:
        self.roots: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        """Start ``command`` in a session of its own, its output appended to ``log``."""
        with log.open("ab") as out:
            self.roots.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **(env or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            )

    def exited(self) -> int | None:
        """Return the status of the first command that has ended, if one has."""
        return next((code for root in self.roots if (code := root.poll()) is not None), None)

    def pids(self) -> dict[int, int]:
        """Return the live processes, descendants and sessions of the commands, with their start times."""
        table = {pid: stat for pid, stat in _table() if stat[STATE] != "Z"}
        roots = {root.pid for root in self.roots}
        found = {pid for pid, stat in table.items() if pid in roots or int(stat[SESSION]) in roots}
        while more := {pid for pid, stat in table.items() if int(stat[PARENT]) in found} - found:
            found |= more
        return {pid: int(table[pid][STARTED]) for pid in found}

    def cpu(self) -> float:
        """Return the CPU seconds the tree has used, ended children included once their parent has reaped them."""
        pids = self.pids()
        return sum(sum(map(int, stat[CPU])) for pid, stat in _table() if pid in pids) / TICK

    def memory(self) -> tuple[float, float]:
        """Return the tree's proportional and resident memory in MB (10^6 bytes)."""
        pss = rss = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    pss += int(line.split()[1]) if line.startswith("Pss:") else 0
                    rss += int(line.split()[1]) if line.startswith("Rss:") else 0
        return pss * 1024 / 1e6, rss * 1024 / 1e6

    def stop(self) -> None:
        """End every process of the tree, asking the commands first."""
        before = self.pids()
        for root in self.roots:
            if root.poll() is None:
                root.terminate()
        limit = time.monotonic() + GRACE
        for root in self.roots:
            with contextlib.suppress(subprocess.TimeoutExpired):
                root.wait(max(0.0, limit - time.monotonic()))
        # A number may belong to a stranger by now, so the start time must agree.
        left = {pid for pid, stat in _table() if before.get(pid) == int(stat[STARTED])} | set(self.pids())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for root in self.roots:
            root.wait()


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Give a Server whose processes are gone when the block ends, however it ends."""
    it = Server()
    try:
        yield it
    finally:
        # A second Ctrl-C must not leave half a server behind; stopping takes GRACE at most.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        it.stop()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _table() -> Iterator[tuple[int, list[str]]]:
    """Yield every process's number and the fields of its stat file after the command's name."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()
