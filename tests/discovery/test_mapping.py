"""What is asked of a router and when, and what is made of answers that are lost, late, hostile or honest."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.discovery.addresses import Address
from tetherd.discovery.mapping import AGAIN, LEASE, PAUSES, SILENT, SOONEST, Mapper, Want, obstacle
from tetherd.wire.portmapping import Answer, Ask, Method

RPC, DHT = Want("rpc", "tcp", 7443), Want("dht", "udp", 7443)
OUTSIDE = "11.0.0.1"
METHODS: tuple[Method, ...] = ("pcp", "nat-pmp", "upnp")
UNSUPPORTED = "it does not speak this version"


def mapper(*methods: Method) -> Mapper:
    numbers = iter(range(1, 256))
    return Mapper("192.168.1.1", "192.168.1.2", (RPC, DHT), methods or METHODS, lambda n: bytes([next(numbers)] * n))


def grant(ask: Ask, **changes: Any) -> Answer:
    """Answer as a router does that grants everything."""
    usual = {
        "method": ask.method,
        "transport": ask.transport,
        "inner": ask.inner,
        "outer": ask.outer,
        "external": OUTSIDE if ask.method != "nat-pmp" or not ask.inner else "",
        "lifetime": ask.lifetime,
        "nonce": ask.nonce,
    }
    return Answer(**{**usual, **changes})


def run(mapper: Mapper, until: float, reply: Callable[[Ask, float], Answer | None], now: float = 0.0) -> list[float]:
    """Let time pass up to ``until`` and answer what is asked; return when something was."""
    times = []
    while now <= until:
        asks = mapper.due(now)
        if asks:
            times.append(now)
        for ask in asks:
            if (answer := reply(ask, now)) is not None:
                mapper.hear(answer, now)
        now = max(now + 0.001, mapper.wake())
    return times


def silent(_: Ask, __: float) -> None:
    return None


@pytest.mark.parametrize("method", METHODS)
def test_what_is_granted_is_where_others_reach_this_host(method: Method) -> None:
    asked = mapper(method)
    run(asked, 0.0, lambda ask, _: grant(ask))
    assert asked.places(0.0) == {"rpc": Address(OUTSIDE, 7443), "dht": Address(OUTSIDE, 7443)}
    report = asked.report(1.0)
    assert (report.router, report.method, report.refused) == ("192.168.1.1", method, {})
    assert [(each.want, each.left) for each in report.mapped] == [(RPC, LEASE - 1), (DHT, LEASE - 1)]


def test_a_lease_is_renewed_at_half_its_life_and_gone_at_its_end() -> None:
    asked = mapper()
    assert run(asked, LEASE - 1, lambda ask, _: grant(ask)) == [0.0, LEASE / 2]
    assert asked.places(LEASE + 1)
    assert not asked.places(1.5 * LEASE)


def test_the_port_that_the_router_chose_is_asked_for_from_then_on() -> None:
    asked = mapper("pcp")
    run(asked, 0.0, lambda ask, _: grant(ask, outer=50000))
    assert asked.places(0.0)["rpc"] == Address(OUTSIDE, 50000)
    assert {ask.outer for ask in asked.due(LEASE / 2)} == {50000}


@pytest.mark.parametrize(("lifetime", "again"), [(1, SOONEST), (120, 60.0), (2**32 - 1, LEASE / 2)])
def test_no_lease_makes_us_ask_all_the_time_or_never_again(lifetime: int, again: float) -> None:
    asked = mapper("pcp")
    assert run(asked, again, lambda ask, _: grant(ask, lifetime=lifetime)) == [0.0, again]


def test_what_was_lost_is_asked_again_and_nothing_else() -> None:
    asked = mapper("pcp")
    first = asked.due(0.0)
    asked.hear(grant(first[0]), 0.0)
    assert asked.due(0.1) == []
    assert asked.due(PAUSES["pcp"][0]) == first[1:]


def test_one_method_after_the_other_is_tried_and_then_there_is_a_rest() -> None:
    asked = mapper()
    tried: list[tuple[float, str]] = []
    run(asked, AGAIN / 2, lambda ask, now: tried.append((now, ask.method)))
    assert list(dict.fromkeys(method for _, method in tried)) == list(METHODS)
    assert len({now for now, _ in tried}) == sum(len(PAUSES[method]) for method in METHODS)
    report = asked.report(AGAIN / 2)
    assert report.refused == dict.fromkeys(METHODS, SILENT)
    assert not report.mapped
    run(asked, 2 * AGAIN, lambda ask, _: grant(ask), AGAIN / 2)
    assert asked.places(2 * AGAIN)
    assert asked.report(2 * AGAIN).refused == {}


def test_a_router_without_pcp_is_asked_by_nat_pmp_at_once() -> None:
    asked = mapper()

    def old(ask: Ask, _: float) -> Answer:
        if ask.method == "pcp":
            return Answer(method="pcp", refused=UNSUPPORTED, unsupported=True)
        return grant(ask)

    run(asked, 0.1, old)
    asked.hear(Answer(method="pcp", refused=UNSUPPORTED, unsupported=True), 0.1)  # the answer to the second port, late
    assert asked.report(0.1).method == "nat-pmp"
    assert asked.places(0.1)["rpc"] == Address(OUTSIDE, 7443)


def test_a_refusal_is_told_and_the_other_ports_are_mapped() -> None:
    asked = mapper("pcp")
    run(asked, 0.0, lambda ask, _: grant(ask, refused="no room") if ask.transport == "udp" else grant(ask))
    assert asked.report(0.0).refused == {"dht": "no room"}
    assert set(asked.places(0.0)) == {"rpc"}


def test_who_refuses_everything_is_asked_in_another_way() -> None:
    asked = mapper()
    run(asked, 60.0, lambda ask, _: grant(ask) if ask.method == "upnp" else grant(ask, refused="not allowed"))
    assert asked.report(60.0).method == "upnp"
    assert asked.places(60.0)


def test_a_mapping_that_is_not_renewed_ends_and_everything_begins_anew() -> None:
    asked = mapper("pcp", "nat-pmp")
    run(asked, 0.0, lambda ask, _: grant(ask))
    tried: list[str] = []
    run(asked, 2 * LEASE, lambda ask, _: tried.append(ask.method), 1.0)
    assert not asked.places(2 * LEASE)
    assert "nat-pmp" in tried


def test_a_router_that_began_anew_is_asked_for_everything_again() -> None:
    asked = mapper("pcp")
    first, second = asked.due(0.0)
    asked.hear(grant(first, epoch=5000), 0.0)
    asked.hear(grant(second, epoch=3), 0.0)  # it restarted in between: the first mapping is lost
    assert asked.due(0.0) == [first, second]
    for ask in (first, second):
        asked.hear(grant(ask, epoch=4), 0.1)
    assert asked.settled


def test_epochs_that_go_to_and_fro_do_not_keep_it_busy() -> None:
    asked = mapper("pcp")
    times = run(asked, 10.0, lambda ask, now: grant(ask, epoch=9000 if ask.transport == "tcp" else 0))
    assert len(times) <= len(PAUSES["pcp"])


def test_answers_that_were_not_asked_for_are_counted_and_nothing_more() -> None:
    asked = mapper("pcp")
    ask = asked.due(0.0)[0]
    asked.hear(grant(ask, nonce=bytes(12)), 0.0)
    asked.hear(grant(ask, inner=22), 0.0)
    asked.hear(grant(ask, method="nat-pmp"), 0.0)
    asked.hear(grant(ask, outer=0), 0.0)
    asked.hear(grant(ask, lifetime=0), 0.0)
    assert asked.places(0.0) == {}
    assert asked.report(0.0).dropped == {"nonce": 1, "unasked": 2, "malformed": 2}


def test_nobody_ends_a_mapping_by_saying_that_the_method_is_unknown() -> None:
    asked = mapper()
    run(asked, 0.0, lambda ask, _: grant(ask))
    asked.due(LEASE / 2)
    asked.hear(Answer(method="pcp", refused=UNSUPPORTED, unsupported=True), LEASE / 2)
    assert asked.method == "pcp"
    assert asked.places(LEASE / 2)


def test_at_the_end_every_mapping_is_ended_that_there_is_or_may_be() -> None:
    asked = mapper("pcp")
    first, _ = asked.due(0.0)
    asked.hear(grant(first), 0.0)
    ends = asked.release(0.1)
    assert [(ask.transport, ask.inner, ask.lifetime) for ask in ends] == [("tcp", 7443, 0), ("udp", 7443, 0)]
    assert ends[0].nonce == first.nonce
    assert asked.places(0.1) == {}
    assert asked.due(1e9) == []
    assert mapper().release(0.0) == []


@pytest.mark.parametrize(
    ("outside", "word"),
    [
        (Address("", 7443), "does not say"),
        (Address("192.168.0.7", 7443), "double NAT"),
        (Address("100.64.3.2", 7443), "double NAT"),
        (Address("127.0.0.1", 7443), "loopback"),
        (Address("169.254.169.254", 7443), "link-local"),
        (Address("168.63.129.16", 7443), "metadata"),
        (Address("0.0.0.0", 7443), "unspecified"),
        (Address("239.1.2.3", 7443), "multicast"),
        (Address("255.255.255.255", 7443), "broadcast"),
        (Address("11.0.0.1", 25), "port 25"),
    ],
)
def test_an_address_that_others_must_not_or_cannot_dial_is_shown_and_not_announced(outside: Address, word: str) -> None:
    assert word in obstacle(outside)
    asked = mapper("pcp")
    run(asked, 0.0, lambda ask, _: grant(ask, external=outside.host, outer=outside.port))
    assert asked.places(0.0) == {}
    assert word in asked.report(0.0).mapped[0].obstacle


ANSWERS = st.builds(
    Answer,
    method=st.sampled_from(METHODS),
    transport=st.sampled_from(["tcp", "udp"]),
    inner=st.sampled_from([0, 22, 7443]),
    outer=st.integers(0, 65535),
    external=st.sampled_from(["", OUTSIDE, "127.0.0.1", "10.0.0.1", "169.254.169.254"]),
    lifetime=st.integers(0, 2**32 - 1),
    epoch=st.none() | st.integers(0, 2**32 - 1),
    nonce=st.sampled_from([b"", bytes([1] * 12), bytes([2] * 12)]),
    refused=st.sampled_from(["", "no"]),
    unsupported=st.booleans(),
)


@given(st.lists(st.tuples(st.floats(0.0, 400.0), st.lists(ANSWERS, max_size=4)), max_size=30))
def test_no_answer_makes_it_flood_or_announce_what_must_not_be(steps: list[tuple[float, list[Answer]]]) -> None:
    asked, now, sent = mapper(), 0.0, 0
    for pause, answers in steps:
        now += pause
        sent += len(asked.due(now))
        for answer in answers:
            asked.hear(answer, now)
        assert all(not obstacle(place) for place in asked.places(now).values())
        assert all(each.left < LEASE + 1e-6 for each in asked.report(now).mapped)
    assert sent <= 3 * len(steps)
