"""Facts about this machine that defaults depend on."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from tetherd.config.paths import Paths, find


class Host(msgspec.Struct, frozen=True):
    """What defaults are made of. ``memory`` is in bytes."""

    name: str
    cores: int
    memory: int
    home: Path
    paths: Paths


def this_host(environ: Mapping[str, str]) -> Host:
    """Look at this machine as this process may use it (its CPU affinity, its control group's memory limit)."""
    home = Path(environ.get("HOME") or "/")
    return Host(
        name=re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename).strip("._-")[:64] or "node",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=memory(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")),
        home=home,
        paths=find(environ, uid=os.geteuid(), home=home),
    )


def memory(membership: Path, groups: Path) -> int:
    """Return the bytes this process may use: the machine's memory, or less if a control group says so."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_limits(membership, groups)])


def _limits(membership: Path, groups: Path) -> Iterator[int]:
    try:
        own = next(line[3:] for line in membership.read_text().splitlines() if line.startswith("0::/"))
    except (OSError, StopIteration):
        return
    group = groups / own.lstrip("/")
    for level in (group, *group.parents):
        if level.is_relative_to(groups):
            try:
                yield int((level / "memory.max").read_text())
            except (OSError, ValueError):  # no such file at the root; "max" where there is no limit
                continue
