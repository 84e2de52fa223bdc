import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import PermissionDenied, QueueFull
from tetherd.policy.admission import REJECTS, Admission

MEMBERS = {"a" * 64: ("worker",), "b" * 64: ("gateway", "manager"), "c" * 64: ()}
A, B, C = MEMBERS
STRANGER = "f" * 64


def admission(rate: float = 10.0, burst: float = 20.0) -> Admission:
    return Admission(MEMBERS.get, rate, burst)  # type: ignore[arg-type]


def test_members_are_heard_and_strangers_are_not() -> None:
    judge = admission()
    assert judge.refusal(A, 0.0) is None
    assert judge.refusal(C, 0.0) is None  # it has no role: it is heard, and may call nothing
    refusal = judge.refusal(STRANGER, 0.0)
    assert isinstance(refusal, PermissionDenied)
    assert "no member" in refusal.message
    assert refusal.retry_after


def test_a_method_is_for_the_roles_it_names() -> None:
    judge = admission()
    judge.permit(A, "take", {"worker"})
    judge.permit(B, "infer", {"gateway"})
    for node, roles in ((A, {"gateway"}), (B, {"worker"}), (A, set()), (C, {"worker"}), (STRANGER, {"worker"})):
        with pytest.raises(PermissionDenied, match="nodes with a role"):
            judge.permit(node, "method", roles)


def test_who_was_turned_away_too_often_waits_for_a_minute() -> None:
    judge = admission()
    for number in range(REJECTS):
        assert not judge.is_quarantined(A, float(number))
        judge.reject(A, float(number))
    last = float(REJECTS - 1)
    assert judge.is_quarantined(A, last)
    assert judge.refusal(A, last + 59) is not None
    assert judge.refusal(B, last) is None
    assert judge.refusal(A, last + 61) is None


def test_now_and_then_is_not_too_often() -> None:
    judge = admission()
    for number in range(50):
        judge.reject(A, number * 60.0)
        assert not judge.is_quarantined(A, number * 60.0)


def test_many_strangers_are_not_remembered_for_ever() -> None:
    judge = admission()
    for number in range(10_000):
        judge.reject(str(number), 0.0)
        judge.spend(str(number), 0.0)
    assert len(judge._rejects) < 5000
    assert len(judge._levels) < 5000


@given(st.lists(st.floats(0, 0.5), max_size=200))
def test_nobody_sends_more_than_its_share(gaps: list[float]) -> None:
    judge, now, taken = admission(), 0.0, 0
    for gap in gaps:
        now += gap
        try:
            judge.spend(A, now)
            taken += 1
        except QueueFull as error:
            assert error.retry_after  # noqa: PT017
    assert taken <= 20 + 10 * now + 1
    judge.spend(B, now)
