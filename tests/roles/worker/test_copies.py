from tetherd.roles.worker.copies import Copy, Group
from tetherd.types import Digest
from tetherd.wire.messages import Load, RunnerState


def group(*states: RunnerState) -> Group:
    made = Group(Load("m", 1, Digest("sha256:0"), pinned=True), "thread", 100.0)
    for index, state in enumerate(states):
        copy = Copy(iter([f"w.{index}"]), 5.0)
        copy.state, copy.bytes = state, 10
        made.copies.append(copy)
    return made


def test_a_version_has_failed_when_none_of_its_copies_serves() -> None:
    assert group("FAILED", "FAILED").failed
    assert not group("FAILED", "READY").failed
    assert not group("LOADING").failed


def test_what_loads_or_was_used_a_moment_ago_is_busy() -> None:
    assert group("LOADING").resident(200.0).busy
    assert group("READY").resident(101.0).busy
    resident = group("READY", "READY").resident(200.0)
    assert (resident.busy, resident.bytes, resident.pinned, resident.used) == (False, 20, True, 100.0)


def test_a_report_shows_every_copy() -> None:
    shown = group("READY", "FAILED").report()
    assert [(one.runner, one.state, one.isolation, one.since, one.pid) for one in shown] == [
        ("w.0", "READY", "thread", 5.0, 0),
        ("w.1", "FAILED", "thread", 5.0, 0),
    ]
