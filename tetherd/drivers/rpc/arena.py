"""Memory that two processes of one host share, so that large payloads are not copied through the kernel.

Whoever connects makes it and hands it over with its connection; each side writes to its own half and reads the other's.
What is written stays until the writer's next turn, which comes only once the reader has answered. Never trusted for its
size: it is sealed, so that nobody can take pages away under a reader.
"""

import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Final

HALF: Final = 2 * 1024 * 1024
"""Bytes that one side may write: a batch as it is formed of several requests, and a chunk of a blob, fit."""

WORTH: Final = 64 * 1024
"""Payloads below this are faster through the socket."""

OFFERING: Final = 0
"""The half of the side that made the memory."""

ACCEPTING: Final = 1
"""The half of the side that it was handed to."""

AVAILABLE: Final = hasattr(os, "memfd_create") and hasattr(fcntl, "F_GET_SEALS")


class Arena:
    """One side's view: it writes to half ``mine`` and reads the other."""

    def __init__(self, file: int, mine: int) -> None:
        """Map ``file`` and close it. Raises OSError or ValueError for what is no memory of this size."""
        try:
            size = os.fstat(file).st_size
            if size != 2 * HALF or not fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise ValueError(f"not an arena: {size} bytes, or not sealed")
            whole = memoryview(mmap.mmap(file, 2 * HALF))
        finally:
            os.close(file)
        halves = whole[:HALF], whole[HALF:]
        self._mine, self._other = halves[mine], halves[1 - mine].toreadonly()

    def put(self, parts: Sequence[memoryview]) -> None:
        """Write the parts one after the other; together they take at most HALF bytes."""
        at = 0
        for part in parts:
            self._mine[at : at + len(part)] = part
            at += len(part)

    def got(self, size: int) -> memoryview:
        """Return the first ``size`` bytes that the other side has written, without copying them."""
        return self._other[:size]


def fits(size: int) -> bool:
    """Whether a payload of ``size`` bytes travels in an arena."""
    return WORTH <= size <= HALF


def make() -> int:
    """Return the file of a new arena. Raises OSError where the host has no such memory left."""
    file = os.memfd_create("tether-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, 2 * HALF)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(file)
        raise
    return file
