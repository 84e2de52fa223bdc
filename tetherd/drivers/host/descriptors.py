"""The files that this process may have open: every connection is one, and strangers open as many as they are let.

Some are held back. When the others run short, this process's TCP listeners go deaf: the kernel drops who knocks, who
knocks again a second later, and nobody is told anything. What was held back is free then, so that databases, models
and logs can still be opened; connections that are there go on, and Unix sockets hear as before.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final, NamedTuple

from tetherd.types import Seconds

MOST: Final = 65536
HELD: Final = 4096
"""Files that are held back; less where fewer than four times as many may be open.

More than there can be connections that the kernel has made and nobody has accepted: going deaf does not end those, and
they are let in with the first files that are free. That is 2048 at the gateway, and 512 at each of the other ports.
"""

TICK: Final[Seconds] = 0.05
AGAIN: Final[Seconds] = 1.0
"""How often, while listeners are deaf, those are found that were opened meanwhile."""

_OPEN: Final = Path("/dev/fd")
_COUNTED: Final = Path("/proc/self/fd")  # whose size is their number, since Linux 6.2
_NOTHING: Final = (ctypes.c_uint64 * 1)(0x06)  # a filter of one instruction: return 0, take no byte of any packet
_FILTER: Final = struct.pack("HP", 1, ctypes.addressof(_NOTHING))
_ATTACH_FILTER: Final = 26
_DETACH_FILTER: Final = 27

_log = logging.getLogger("tetherd.files")


class Share(NamedTuple):
    """How many files may be open, and how many of them are held back."""

    limit: int
    held: int

    def short(self, opened: int, *, already: bool) -> bool:
        """Decide whether to let nobody in: from some number on, and until there are clearly fewer again."""
        return opened >= self.limit - (2 * self.held if already else self.held + self.held // 2)


def share() -> Share:
    """Return what the host lets this process have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard)
    return Share(limit, min(HELD, limit // 4))


def allow(whole: Share, *, held_back: bool = True) -> None:
    """Let this process open what it may, but for what is held back."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (whole.limit - (whole.held if held_back else 0), hard))


class Guard:
    """Keeps what is held back. ``deaf``: whether the listeners hear nobody now."""

    def __init__(self) -> None:
        self._share = share()
        self._known: AbstractSet[int] = frozenset()  # sockets that are deaf if they listen, by inode
        self.deaf = False

    async def run(self) -> None:
        """Watch until cancelled."""
        allow(self._share)
        ticks = 0
        try:
            while True:
                await asyncio.sleep(TICK)
                ticks += 1
                short = self._share.short(opened(), already=self.deaf)
                if short != self.deaf:
                    self._turn(short)
                elif short and ticks % round(AGAIN / TICK) == 0:
                    self._deafen(await asyncio.to_thread(sockets))
        finally:
            if self.deaf:
                self._turn(False)

    def _turn(self, deaf: bool) -> None:
        """Be deaf, or hear again. Blocks for microseconds per open file."""
        self.deaf = deaf
        if deaf:
            self._deafen(sockets())
            allow(self._share, held_back=False)  # only now, or whoever is still let in would take what was held back
            _log.warning("no file is left for connections: nobody is let in over TCP until some have ended")
        else:
            allow(self._share)  # first, or strangers would take what is held back before it is
            _listeners(sockets(), _DETACH_FILTER, 0)
            self._known = frozenset()

    def _deafen(self, files: Mapping[int, int]) -> None:
        _listeners({inode: files[inode] for inode in files.keys() - self._known}, _ATTACH_FILTER, _FILTER)
        self._known = files.keys()


def opened() -> int:
    """Return how many files are open."""
    with contextlib.suppress(FileNotFoundError):  # a host without /proc
        if number := _COUNTED.stat().st_size:
            return number
    return len(_numbers())


def sockets() -> dict[int, int]:
    """Return the open sockets of this process: file descriptors by inode. Needs no file itself where none is left."""
    found = {}
    for number in _numbers():
        with contextlib.suppress(OSError):  # closed meanwhile
            status = os.fstat(number)
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino] = number
    return found


def _numbers() -> Sequence[int]:
    """Return the descriptors of the files that are open; all that there can be where not even one more can be."""
    try:
        with os.scandir(_OPEN) as entries:
            return [int(entry.name) for entry in entries]
    except OSError:
        return range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


@contextlib.contextmanager
def borrowed(inode: int, number: int) -> Iterator[socket.socket]:
    """Lend a socket that belongs to someone else. Raises OSError if it is not the one it was."""
    copy = os.dup(number)
    try:
        if os.fstat(copy).st_ino != inode:
            raise OSError("another file has taken its place")
        lent = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with lent:
        yield lent


def _listeners(files: Mapping[int, int], option: int, value: Any) -> None:
    """Set an option of those sockets that are TCP listeners; only Linux has these. Needs no file itself."""
    if sys.platform != "linux":
        return
    for number in files.values():
        with contextlib.suppress(OSError):  # closed meanwhile
            # Not borrowed, which takes a file. Another socket has no time to take a listener's place between the two.
            found = socket.socket(fileno=number)
            try:
                if found.family != socket.AF_UNIX and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.setsockopt(socket.SOL_SOCKET, option, value)
            finally:
                found.detach()
