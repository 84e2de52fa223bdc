"""A network for each test; see ``lab``. Skipped, with the reason, only where none can be built."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test modules are not part of a package; what they share is found beside them, and real daemons next door.
sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))
sys.path.insert(0, str(Path(__file__).parent))

from fleet import Fleet, new_fleet
from lab import Lab
from namespaces import reason_missing, reason_no_tap


@pytest.fixture(scope="session", autouse=True)
def _stop_in_order() -> Iterator[None]:
    """Asked to end, take the networks down too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def possible() -> None:
    """Skip the test where no network can be built."""
    if reason := reason_missing():
        pytest.skip(reason)


@pytest.fixture
def lab(possible: None) -> Iterator[Lab]:
    """A network of this test's own."""
    with Lab() as made:
        yield made


@pytest.fixture
def tap(lab: Lab) -> None:
    """Skip the test where links cannot be emulated."""
    if reason := reason_no_tap():
        pytest.skip(reason)


@pytest.fixture
def fleet(lab: Lab) -> Iterator[Fleet]:
    """The daemons on this test's hosts, none yet."""
    with new_fleet() as made:
        yield made
