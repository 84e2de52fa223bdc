"""The clock: the operating system's."""

import time

from tetherd.drivers.host.clock import SystemClock
from tetherd.ports import Clock


def test_it_tells_the_time_of_this_machine() -> None:
    clock: Clock = SystemClock()
    assert 0 <= clock.monotonic() - time.monotonic() + 1 <= 1
    assert abs(clock.wall() - time.time()) < 1
    assert clock.monotonic() <= clock.monotonic()
