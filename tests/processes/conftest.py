"""Daemons for acceptance tests; see ``harness``."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test modules are not part of a package; what they share is found beside them, and how to attack next door.
sys.path.insert(0, str(Path(__file__).parents[1] / "drivers"))
sys.path.insert(0, str(Path(__file__).parent))

from harness import DIGITS, EXAMPLE, Daemon, Host, is_right, new_host, until


@pytest.fixture(scope="session", autouse=True)
def _stop_in_order() -> Iterator[None]:
    """Asked to end, end the daemons too: they are in process groups of their own and would stay."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def host() -> Iterator[Host]:
    """A host of this test's own."""
    with new_host() as made:
        yield made


@pytest.fixture(scope="module")
def shared_host() -> Iterator[Host]:
    """A host that the tests of one module share."""
    with new_host() as made:
        yield made


@pytest.fixture(scope="module")
def daemon(shared_host: Host) -> Daemon:
    """An all-in-one daemon that the tests of one module share."""
    return shared_host.daemon().start().wait_ready()


GROWTH = 64 * 2**20
"""Bytes that a daemon may have grown by after all the bad input of a module."""


@pytest.fixture(scope="module")
def small(shared_host: Host) -> Iterator[Daemon]:
    """A daemon with small bounds, which must end as it began: no memory kept, no file open, its model unharmed."""
    limits = {"max_body": "4MiB", "header_timeout": "2s", "body_timeout": "2s", "idle_timeout": "2s"}
    daemon = shared_host.daemon(name="small", gateway=limits, manager={"max_model": "32MiB"}).start().wait_ready()
    daemon.ctl("models", "push", str(DIGITS))
    assert is_right(daemon.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])
    until(lambda: len(daemon.remember()) == 2, "there is a spare runner beside the model's")
    memory, files, digest = daemon.rss(), daemon.files(), daemon.get("/api/v1/models/digits")["digest"]
    yield daemon
    assert is_right(daemon.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])
    assert daemon.get("/api/v1/models/digits")["digest"] == digest
    for name in [one["name"] for one in daemon.get("/api/v1/models")["models"] if one["name"] != "digits"]:
        daemon.call("DELETE", f"/api/v1/models/{name}").ok()
    until(
        lambda: daemon.files() <= files + 2, f"of {daemon.files()} open files, as many are left as there were: {files}"
    )
    assert daemon.rss() - memory < GROWTH


@pytest.fixture
def it_lives(small: Daemon) -> Iterator[None]:
    """After the test the daemon still runs and is ready within a second."""
    yield
    assert small.process
    assert small.process.poll() is None
    assert small.call("GET", "/health/ready", timeout=1).status == 200
