"""The clock of this machine, for everything that takes time as a port."""

import time

from tetherd.types import Seconds


class SystemClock:
    """Time as the operating system tells it."""

    def monotonic(self) -> Seconds:
        """Return seconds since an arbitrary moment; never goes back."""
        return time.monotonic()

    def wall(self) -> Seconds:
        """Return seconds since the epoch, as the machine believes; may jump."""
        return time.time()
