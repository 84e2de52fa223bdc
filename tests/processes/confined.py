"""Runs a command as systemd/tetherd.service would have it run, as far as a process can do that to itself.

``python confined.py UNIT COMMAND...``: sockets of the unit's address families only, and no memory that is writable and
executable at once.
"""

import ctypes
import os
import platform
import re
import socket
import struct
import sys
from pathlib import Path

SOCKET = {"x86_64": 41, "aarch64": 198}
"""The number of the system call, by processor."""

NO_NEW_PRIVILEGES, SECCOMP, FILTER, MDWE, REFUSE_GAIN = 38, 22, 2, 65, 1
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 97  # EAFNOSUPPORT


def program(families: list[int]) -> bytes:
    """Return a filter that refuses other sockets. An instruction: code, jump if true, jump if false, value."""
    lines = [(LOAD, 0, 0, 0), (EQUAL, 0, len(families) + 2, SOCKET[platform.machine()]), (LOAD, 0, 0, 16)]
    lines += [(EQUAL, len(families) - place, 0, family) for place, family in enumerate(families)]
    lines += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def confine(unit: str) -> None:
    """Confine this process and all that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    named = re.search(r"^RestrictAddressFamilies=(.+)$", unit, re.MULTILINE)
    assert named
    code = program([getattr(socket, name) for name in named[1].split()])
    kept = ctypes.create_string_buffer(code)
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(kept)))
    for arguments in ((NO_NEW_PRIVILEGES, 1, 0, 0, 0), (SECCOMP, FILTER, ctypes.byref(filters), 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")
    if "MemoryDenyWriteExecute=yes" in unit:
        libc.prctl(MDWE, REFUSE_GAIN, 0, 0, 0)  # since Linux 6.3; before that, only a filter of every mapping could


if __name__ == "__main__":
    confine(Path(sys.argv[1]).read_text())
    os.execv(sys.argv[2], sys.argv[2:])
