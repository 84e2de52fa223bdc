"""Network namespaces as hosts of a test: made, entered, and never left behind, not even by a run that was killed."""

import contextlib
import ctypes
import functools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

PREFIX: Final = "tether-lab"
NAMED: Final = Path("/run/netns")
TOOLS: Final = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "conntrack": "conntrack", "ping": "iputils-ping"}

PATIENCE: Final = 30.0
"""Seconds that a command may take before it counts as stuck."""

ROOTLESS: Final = "unshare -Urnm sh -c 'mount -t tmpfs tmpfs /run && pytest tests/lab'"

PROBE: Final = """
table bridge probe {
  chain lossy {
    type filter hook prerouting priority 0
    numgen random mod 10 < 5 drop
  }
}
table ip probe {
  chain leaving {
    type nat hook postrouting priority 100
    masquerade random,fully-random
  }
}
"""

_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


def command(*words: str, stdin: str = "") -> str:
    """Run a command to its end and return what it printed; it must succeed."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}: {done.stderr}{stdin}"
    return done.stdout


@functools.cache
def reason_missing() -> str:
    """Say why no laboratory can be built here: a tool, the kernel or privileges; empty when one can."""
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if missing:
        return f"a network laboratory needs the Debian packages {', '.join(missing)}"
    if os.geteuid():
        return f"a network laboratory needs root, or: {ROOTLESS}"
    probe = Namespace(f"{_owner()}.0.probe")
    try:
        probe.make()
        try:
            probe.ip("link add name br0 type bridge", "link add name a type veth peer name b")
            probe.nft(PROBE)
        finally:
            probe.end()
    except AssertionError as error:
        return f"no network laboratory can be built here: {error}"
    return ""


@functools.cache
def reason_no_tap() -> str:
    """Say why no link can be emulated here; empty when one can."""
    try:
        Path("/dev/net/tun").open("rb").close()
    except OSError as error:
        return f"no link can be emulated here: {error}"
    return ""


class Namespace:
    """One network namespace, and what happens inside it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self) -> "Namespace":
        command("ip", "netns", "add", self.name)
        self.ip("link set lo up")
        return self

    def end(self) -> None:
        """Kill everything that runs in it, and remove it with all its devices."""
        while pids := command("ip", "netns", "pids", self.name).split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _reap([int(pid) for pid in pids])
        command("ip", "netns", "del", self.name)

    # --- set up ------------------------------------------------------------------------------------------------------

    def ip(self, *lines: str) -> None:
        """Carry out lines of ``ip`` in one go."""
        command("ip", "-n", self.name, "-batch", "-", stdin="\n".join(lines) + "\n")

    def nft(self, rules: str) -> None:
        self.run("nft", "-f", "-", stdin=rules)

    def sysctl(self, **values: object) -> None:
        """Set kernel parameters below ``net``; a double underscore parts their names: ``ipv4__ip_forward=1``."""
        for key, value in values.items():
            path = Path("/proc/sys/net", *key.split("__"))
            self.call(functools.partial(path.write_text, f"{value}\n"))

    # --- what runs inside --------------------------------------------------------------------------------------------

    def run(self, *words: str, stdin: str = "") -> str:
        """Run a command inside to its end and return what it printed; it must succeed."""
        return self.call(lambda: command(*words, stdin=stdin))

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start a process inside; it ends with the namespace."""
        return self.call(lambda: subprocess.Popen(words, stdin=subprocess.DEVNULL))

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in a thread that is inside.

        A socket made there stays inside, whoever uses it, and a process that it starts is inside from the first.
        """

        def work() -> T:
            _enter(NAMED / self.name)
            return function()

        # The thread, and with it its place in the namespace, ends here.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread inside: for what can only be made in this thread, such as sockets of its event loop.

        Await nothing meanwhile that others would run in.
        """
        with Path("/proc/thread-self/ns/net").open() as outside:
            _enter(NAMED / self.name)
            try:
                yield
            finally:
                _set(outside.fileno(), "the outside")

    def socket(self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
        """Return a socket inside, with a time-out."""
        made = self.call(lambda: socket.socket(family, kind))
        made.settimeout(PATIENCE)
        return made


# --- names, and what is left of those who died ------------------------------------------------------------------------


def _enter(path: Path) -> None:
    with path.open() as handle:
        _set(handle.fileno(), path.name)


def _set(descriptor: int, name: str) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter {name}")


def _owner() -> str:
    return f"{PREFIX}.{os.getpid()}.{_birth(os.getpid())}"


def _birth(pid: int) -> int:
    """Return when a process began, in clock ticks since the machine did; 0 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _reap(pids: list[int]) -> None:
    """Wait until processes are gone; those of our own leave their exit codes to whoever started them."""
    deadline = time.monotonic() + PATIENCE
    for pid in pids:
        while _runs(pid):
            assert time.monotonic() < deadline, f"process {pid} does not end"
            time.sleep(0.001)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def named(lab: int, host: str) -> Namespace:
    """Return a host's namespace, not made yet; its name says which process it belongs to."""
    return Namespace(f"{_owner()}.{lab}.{host}")


def present(pid: int | str = "*") -> list[Namespace]:
    """Return all namespaces that laboratories of a process (none named: of any) have made, whether it lives or not."""
    return [Namespace(path.name) for path in sorted(NAMED.glob(f"{PREFIX}.{pid}.*"))]


def sweep() -> None:
    """Remove what processes left behind that ended without tidying up."""
    for space in present():
        pid, birth = space.name.split(".")[1:3]
        if _birth(int(pid)) != int(birth):
            try:
                space.end()
            except AssertionError:
                # Another laboratory that begins at this moment sweeps, too.
                if (NAMED / space.name).exists():
                    raise
