"""Founding and joining, killed between any two of their steps: either side can be started again and asked again."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import Daemon, Host, new_host, until
from members import answers, ask, member, restart, workers

strace = shutil.which("strace")
pytestmark = pytest.mark.skipif(not strace or os.geteuid() != 0, reason="kills at system calls with strace, as root")

FOUNDING = [f"rename#{number}" for number in range(1, 11)] + ["fdatasync#1", "fdatasync#2"]
"""Four files of the authority, its ledger, six of the founder's identity: the key first, the network last."""

JOINING = [
    "fsync#1",  # of the key, which has no name yet
    "rename#1",  # the key gets it
    "connect#1",  # to be shown the root
    "connect#2",  # to prove what it has
    "openat identity/certificate.pem.new",  # with the answer in its hands
    *(f"rename#{number}" for number in range(2, 7)),  # certificate, roots, roster, roots again, network
]
ADMITTING = [
    "fdatasync#1",  # the token is not burned yet
    "fdatasync#2",  # it is, and no certificate was issued
    "rename#1",  # the founder itself hears of the new member
]


@contextlib.contextmanager
def doomed(daemon: Daemon, moment: str, fault: str = "signal=SIGKILL") -> Iterator[Path]:
    """Have a daemon meet its fault at the nth system call of a kind, or the first about a file; yield the trace."""
    call, _, path = moment.partition(" ")
    name, _, number = call.partition("#")
    log = daemon.folder / f"{daemon.name}.trace"
    words = ["-f", "-o", str(log), "-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={number or 1}"]
    if path:
        words += ["-P", str(daemon.folder / daemon.name / "state" / path)]
    tracer = subprocess.Popen([str(strace), *words, "-p", str(daemon.pid)], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr
    try:
        for line in tracer.stderr:
            if "attached" in line:
                break
        yield log
    finally:
        tracer.terminate()
        tracer.communicate(timeout=10)


def revive(daemon: Daemon) -> None:
    """Start a daemon again that was killed."""
    daemon.wait_end()
    daemon.start(wait=False)
    until(lambda: answers(daemon), f"{daemon.name} answers again")


def is_member(daemon: Daemon) -> bool:
    return bool(ask(daemon, "cluster")["member"])


@pytest.mark.parametrize("moment", FOUNDING)
def test_founding_again_after_it_was_cut_off(host: Host, moment: str) -> None:
    a = member(host, "a", "orchestrator", "manager").start()
    with doomed(a, moment):
        a.ctl("cluster", "init", "--name", "home", code=None)
    revive(a)
    if not is_member(a):
        a.ctl("cluster", "init", "--name", "home")
    b = member(host, "b", "worker").start()
    b.ctl("cluster", "join", stdin=a.ctl("cluster", "token", "--role", "worker").stdout)
    until(lambda: workers(a) == {"b"}, "the worker of b is known")


@pytest.fixture(scope="module")
def founder() -> Iterator[tuple[Host, Daemon]]:
    """A founder that hosts join one after the other."""
    with new_host() as host:
        a = member(host, "a", "orchestrator", "manager").start()
        a.ctl("cluster", "init", "--name", "home")
        yield host, a


def join_at_last(a: Daemon, b: Daemon, token: bytes) -> None:
    """Join with the same token, unless that was done already; see that it is one node that joined, and serves."""
    if not is_member(b):
        b.ctl("cluster", "join", stdin=token)
    until(lambda: b.name in workers(a), f"the worker of {b.name} is known")
    known = [node["node"] for node in ask(a, "nodes")["nodes"] if node["name"].startswith(b.name)]
    assert known == [ask(b, "cluster")["node"]]


@pytest.mark.parametrize("number", range(len(JOINING)))
def test_joining_again_after_the_joining_host_was_cut_off(founder: tuple[Host, Daemon], number: int) -> None:
    host, a = founder
    b = member(host, f"joiner{number}", "worker").start()
    token = a.ctl("cluster", "token", "--role", "worker").stdout
    with doomed(b, JOINING[number]):
        b.ctl("cluster", "join", stdin=token, code=None)
    revive(b)
    join_at_last(a, b, token)
    b.stop()


@pytest.mark.parametrize("number", range(len(ADMITTING)))
def test_joining_again_after_the_authority_was_cut_off(founder: tuple[Host, Daemon], number: int) -> None:
    host, a = founder
    b = member(host, f"admitted{number}", "worker").start()
    token = a.ctl("cluster", "token", "--role", "worker").stdout
    with doomed(a, ADMITTING[number]):
        b.ctl("cluster", "join", stdin=token, code=None)
    revive(a)
    join_at_last(a, b, token)
    b.stop()


def test_joining_again_after_the_host_was_cut_off_while_it_waited(founder: tuple[Host, Daemon]) -> None:
    host, a = founder
    b = member(host, "waiting", "worker").start()
    token = a.ctl("cluster", "token", "--role", "worker").stdout
    with doomed(a, ADMITTING[0], fault="delay_exit=1000000") as trace, ThreadPoolExecutor() as pool:
        asked = pool.submit(b.ctl, "cluster", "join", stdin=token, code=None)
        until(lambda: trace.exists() and "fdatasync" in trace.read_text(), "the proof was sent")
        b.kill()
        assert asked.result().returncode != 0
    revive(b)
    join_at_last(a, b, token)
    b.stop()


def test_a_host_that_is_killed_as_soon_as_it_has_joined(founder: tuple[Host, Daemon]) -> None:
    host, a = founder
    b = member(host, "hasty", "worker").start()
    token = a.ctl("cluster", "token", "--role", "worker").stdout
    b.ctl("cluster", "join", stdin=token)
    restart(b)  # while it is composed anew
    assert is_member(b)
    join_at_last(a, b, token)
    b.stop()
