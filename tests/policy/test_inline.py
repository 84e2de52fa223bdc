from tetherd.policy.inline import Inlining


def test_short_executions_are_inlined_once_enough_were_seen() -> None:
    inlining = Inlining()
    for _ in range(Inlining.SEEN):
        assert not inlining.decide()
        inlining.observe(50e-6)
    assert inlining.decide()


def test_one_slow_execution_changes_nothing_and_a_slow_model_does() -> None:
    inlining = Inlining()
    for _ in range(Inlining.SEEN):
        inlining.observe(50e-6)
    inlining.observe(1.0)
    assert inlining.decide()
    for _ in range(Inlining.SEEN):
        inlining.observe(1.0)
    assert not inlining.decide()
