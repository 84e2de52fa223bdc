"""Requests under way: hedges, second tries, failures; and who is heard at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.discovery.limits import BURST, CLOCK, HOST_FACTOR, MAX_SOURCES, RATE, WINDOW, Limits
from tetherd.discovery.requests import FAIL_MIN, TRIES, Request, Requests, hedge
from tetherd.discovery.tokens import EPOCH, Tokens
from tetherd.wire.datagrams import Answer, Ping

HERE = ("10.0.0.1", 7443)
NOW = (1000.0, 1.7e9)


class Nobody:
    def answered(self, request: Request, answer: Answer, now: float) -> None: ...

    def silent(self, request: Request, now: float) -> None: ...

    def failed(self, request: Request, now: float) -> None: ...


def request(rtt: float = -1.0) -> Request:
    return Request(b"n", HERE, Ping(), Nobody(), rtt)


@pytest.mark.parametrize(("rtt", "patience"), [(-1.0, 0.4), (0.001, 0.05), (0.02, 0.08), (3.0, 0.4)])
def test_silence_is_judged_by_the_round_trip(rtt: float, patience: float) -> None:
    assert hedge(rtt) == pytest.approx(patience)


def test_a_request_is_sent_again_a_few_times_and_then_failed() -> None:
    requests = Requests()
    one = request(0.001)
    requests.begin(one, b"tid", 10.0)
    moments = []
    while (moment := requests.next()) is not None:
        moments += [(moment, due.tries, moment >= due.fail) for due in requests.due(moment)]
    assert [tries for _, tries, _ in moments] == [2, 3, TRIES]
    assert [failed for _, _, failed in moments] == [False, False, True]
    assert moments[0][0] == pytest.approx(10.05)
    assert moments[-1][0] == pytest.approx(10.0 + FAIL_MIN)
    assert not len(requests)


def test_an_answer_ends_its_request_once_and_only_from_where_it_was_asked() -> None:
    requests = Requests()
    one = request()
    requests.begin(one, b"tid", 10.0)
    assert requests.end(b"tid", ("10.0.0.2", 7443)) is None
    assert requests.end(b"other", HERE) is None
    assert requests.end(b"tid", HERE) is one
    assert requests.end(b"tid", HERE) is None
    assert requests.next() is None
    assert list(requests.due(99.0)) == []


@given(st.permutations(range(1, WINDOW)))
def test_requests_may_overtake_each_other_and_none_is_heard_twice(order: list[int]) -> None:
    limits = Limits()
    assert [limits.refuse(HERE, count, NOW[1], 1, NOW) for count in order] == [""] * len(order)
    assert {limits.refuse(HERE, count, NOW[1], 1, NOW) for count in order} == {"replayed"}


def test_what_is_far_behind_counts_as_heard_until_all_of_it_went_stale() -> None:
    limits = Limits()
    assert limits.refuse(HERE, 10_000, NOW[1], 1, NOW) == ""
    assert limits.refuse(HERE, 10_000 - WINDOW, NOW[1], 1, NOW) == "replayed"
    later = (NOW[0] + 2 * CLOCK + 1, NOW[1] + 2 * CLOCK + 1)
    assert limits.refuse(HERE, 5, later[1], 1, later) == "", "its clock was set back"


@pytest.mark.parametrize(
    ("off", "reason"), [(0, ""), (CLOCK - 1, ""), (1 - CLOCK, ""), (CLOCK + 1, "clock"), (-CLOCK - 1, "clock")]
)
def test_clocks_may_differ_by_so_much(off: float, reason: str) -> None:
    assert Limits().refuse(HERE, 1, NOW[1] + off, 1, NOW) == reason


def test_an_address_has_an_allowance_that_comes_back() -> None:
    limits = Limits()
    heard = sum(not limits.refuse(HERE, count + 1, NOW[1], 1, NOW) for count in range(int(2 * BURST)))
    assert heard == BURST
    later = (NOW[0] + 1, NOW[1] + 1)
    again = [limits.refuse(HERE, 10_000 + count, later[1], 1, later) for count in range(int(2 * RATE))]
    assert again.count("") == RATE
    assert not limits.refuse(("10.0.0.1", 7444), 1, NOW[1], 1, NOW)


def test_a_host_has_an_allowance_for_all_its_addresses() -> None:
    limits = Limits()
    cost = BURST
    heard = [limits.refuse(("10.0.0.1", port), 1, NOW[1], cost, NOW) for port in range(1024, 1024 + 2 * HOST_FACTOR)]
    assert heard.count("") == HOST_FACTOR


def test_a_bounded_number_of_addresses_is_remembered() -> None:
    limits = Limits()
    for index in range(MAX_SOURCES + 500):
        limits.refuse((f"10.0.{index // 250}.{index % 250}", 7443), 1, NOW[1], 1, NOW)
    assert len(limits._sources) == len(limits._hosts) == MAX_SOURCES


def test_a_token_holds_for_its_host_in_this_epoch_and_the_next() -> None:
    tokens = Tokens(b"s" * 32)
    token = tokens.issue("10.0.0.1", EPOCH * 7)
    assert tokens.valid(token, "10.0.0.1", EPOCH * 8 - 1)
    assert tokens.valid(token, "10.0.0.1", EPOCH * 9 - 1)
    assert not tokens.valid(token, "10.0.0.1", EPOCH * 9)
    assert not Tokens(b"s" * 32).valid(token, "10.0.0.2", EPOCH * 7)
    assert not Tokens(b"t" * 32).valid(token, "10.0.0.1", EPOCH * 7)
    assert not tokens.valid(b"", "10.0.0.1", EPOCH * 7)


def test_tokens_of_many_hosts_take_bounded_room() -> None:
    tokens = Tokens(b"s" * 32)
    first = tokens.issue("first", 0.0)
    for index in range(10_000):
        tokens.issue(f"{index}", 0.0)
    assert len(tokens._now) <= 4096
    assert tokens.valid(first, "first", 0.0)
