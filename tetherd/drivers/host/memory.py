"""Gives the host back what the C library keeps of freed memory for its next caller, who may never come."""

import contextlib
import ctypes
from typing import Final

MANY: Final = 256
"""So many things that took tens of kilobytes each, in pieces that no other request fits into, are worth the trouble."""


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
