import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.policy.balance import STRATEGIES, LeastBusy, RoundRobin


class Offer:
    def __init__(self, runner: str, runner_busy: int = 0, worker_busy: int = 0) -> None:
        self.runner = runner
        self.runner_busy = runner_busy
        self.worker_busy = worker_busy


offers = st.lists(
    st.builds(Offer, st.sampled_from("abcdef"), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12
)


def test_they_go_by_these_names() -> None:
    assert {"round-robin": RoundRobin, "least-busy": LeastBusy} == STRATEGIES


@pytest.mark.parametrize("name", STRATEGIES)
@given(rounds=st.lists(offers, max_size=8))
def test_an_offer_is_picked_whatever_there_is(name: str, rounds: list[list[Offer]]) -> None:
    strategy = STRATEGIES[name]()
    for choice in rounds:
        assert 0 <= strategy.decide(choice) < len(choice)


@given(st.integers(1, 9), st.integers(1, 60))
def test_in_turn_means_nobody_is_two_ahead(runners: int, rounds: int) -> None:
    strategy = RoundRobin()
    choice = [Offer(str(number)) for number in range(runners)]
    counts = dict.fromkeys((offer.runner for offer in choice), 0)
    for _ in range(rounds):
        counts[choice[strategy.decide(choice)].runner] += 1
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_runner_that_offers_twice_has_one_turn() -> None:
    strategy = RoundRobin()
    choice = [Offer("a"), Offer("a"), Offer("b")]
    picked = [choice[strategy.decide(choice)].runner for _ in range(4)]
    assert picked == ["a", "b", "a", "b"]


def test_runners_that_are_gone_are_forgotten() -> None:
    strategy = RoundRobin()
    for number in range(1000):
        strategy.decide([Offer(str(number)), Offer(str(number + 1))])
    assert len(strategy._last) < 100


@given(offers)
def test_least_busy_picks_no_busier_runner(choice: list[Offer]) -> None:
    picked = choice[LeastBusy().decide(choice)]
    assert (picked.runner_busy, picked.worker_busy) == min((one.runner_busy, one.worker_busy) for one in choice)
