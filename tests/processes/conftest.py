"""Daemons for acceptance tests; see ``harness``."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test modules are not part of a package; what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))

from harness import Daemon, Host, new_host


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
