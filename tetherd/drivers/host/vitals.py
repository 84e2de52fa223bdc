"""Measures this host for its diagnosis: disk, file descriptors, the kernel's clock, the node's own certificate."""

import ctypes
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509

from tetherd.discovery.diagnosis import Vitals
from tetherd.drivers.host import descriptors
from tetherd.drivers.host.descriptors import opened
from tetherd.ports import Clock
from tetherd.types import Credentials, Seconds

_TIMEX_BYTES: Final = 208 + 64
_ERROR: Final = 5
"""What the kernel answers while nothing keeps its clock right."""


class HostVitals:
    """``directories`` are written to; ``credentials`` gives the node's own while it is in a network."""

    def __init__(
        self, directories: Sequence[Path], credentials: Callable[[], Credentials | None], clock: Clock
    ) -> None:
        self._directories = directories
        self._credentials = credentials
        self._clock = clock

    def measure(self) -> Vitals:
        """Return the measurements. Blocks for a moment; never raises."""
        (disk_free, disk_total), disk = min((_disk(each), str(each)) for each in self._directories)
        return Vitals(
            disk=disk,
            disk_free=disk_free,
            disk_total=disk_total,
            files_open=opened(),
            files_limit=descriptors.share().limit,  # that of the process is lower: some are held back
            certificate=self._certificate(),
            synchronised=_synchronised(),
        )

    def _certificate(self) -> Seconds | None:
        credentials = self._credentials()
        if credentials is None:
            return None
        leaf = x509.load_pem_x509_certificate(credentials.chain_pem.encode())
        return leaf.not_valid_after_utc.timestamp() - self._clock.wall()


def _disk(directory: Path) -> tuple[int, int]:
    """Return bytes free and in all."""
    try:
        found = shutil.disk_usage(directory)
    except OSError:
        return 0, 0
    return found.free, found.total


def _synchronised() -> bool | None:
    """Ask the kernel with adjtimex(2), changing nothing; None where it has no such call."""
    try:
        answer: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (AttributeError, OSError):
        return None
    return None if answer < 0 else answer != _ERROR
