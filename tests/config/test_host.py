"""Facts about the machine: plausible here, and bounded by control groups."""

import os
from pathlib import Path

from tetherd.config.host import memory, this_host

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_this_machine() -> None:
    host = this_host({"HOME": "/home/ada"})
    assert host.name
    assert 1 <= host.cores <= (os.cpu_count() or 1)
    assert 0 < host.memory <= PHYSICAL
    assert host.home == Path("/home/ada")


def test_the_tightest_control_group_on_the_way_up_counts(tmp_path: Path) -> None:
    group = tmp_path / "groups/a/b/c"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("2000000\n")
    (group.parent.parent / "memory.max").write_text("3000000\n")
    membership = tmp_path / "membership"
    membership.write_text("1:name=x:/elsewhere\n0::/a/b/c\n")
    assert memory(membership, tmp_path / "groups") == 2_000_000


def test_without_control_groups_it_is_the_machine(tmp_path: Path) -> None:
    assert memory(tmp_path / "absent", tmp_path) == PHYSICAL
    (tmp_path / "membership").write_text("5:cpu:/x\n")
    assert memory(tmp_path / "membership", tmp_path) == PHYSICAL
