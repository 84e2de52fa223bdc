"""Gives the host back what the C library keeps of freed memory for its next caller, who may never come."""

import contextlib
import ctypes
from typing import Final

MANY: Final = 256
"""So many things that took tens of kilobytes each, in pieces that no other request fits into, are worth the trouble."""


_LARGE: Final = 4 << 20
_KEPT: Final = 32 << 20
_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1


def set_large_apart() -> None:
    """Have blocks of 4 MiB and more given back as soon as they are freed; to be called before there are any.

    By itself the C library stops that once it has seen such a block, and keeps up to 32 MiB for each of its threads, of
    which ``give_back`` gets only what is not at an end.
    """
    with contextlib.suppress(AttributeError):  # glibc's own
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)  # as it is, once it has seen one: to say either fixes both


def give_back() -> None:
    """Return freed memory to the host. Blocks for milliseconds, without the interpreter's lock."""
    with contextlib.suppress(AttributeError):  # glibc's own; others give freed memory back by themselves
        ctypes.CDLL(None).malloc_trim(0)


class Debt:
    """Counts what took memory and is gone."""

    def __init__(self) -> None:
        self._owed = 0

    def add(self, number: int = 1) -> None:
        """Note that so many have gone."""
        self._owed += number

    def due(self) -> bool:
        """Tell whether enough is owed to be given back; it counts as given back then."""
        if self._owed < MANY:
            return False
        self._owed = 0
        return True
