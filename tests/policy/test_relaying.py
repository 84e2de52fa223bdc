"""Who may be connected with whom through a relay, once per ticket, and for how long and how much."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tetherd.errors import Forbidden, Unavailable
from tetherd.policy.relaying import DAY, Limits, Relaying, Session

A, B, C = "a" * 64, "b" * 64, "c" * 64
LIMITS = Limits(sessions=4, sessions_per_node=2, session_bytes=1000, node_bytes=10_000, idle=60.0, ticket=10.0)


def everyone(_: str) -> bool:
    return True


def tickets(number: int = 0) -> tuple[bytes, bytes]:
    return b"d%031d" % number, b"t%031d" % number


def waiting(*nodes: str, limits: Limits = LIMITS) -> Relaying:
    relaying = Relaying(limits)
    for node in nodes:
        relaying.arrive(node)
    return relaying


def opened(relaying: Relaying, number: int = 0, now: float = 0.0, dialer: str = A) -> Session:
    return relaying.open((dialer, B), "rpc", tickets(number), now)


def test_a_session_leads_to_a_node_that_waits_and_each_side_has_its_own_ticket() -> None:
    relaying = waiting(B)
    session = opened(relaying)
    (summons,) = relaying.summons(B)
    assert (summons.ticket, summons.service) == (tickets()[1], "rpc")
    assert relaying.summons(B) == []
    assert relaying.claim(tickets()[0], 1.0) == relaying.claim(summons.ticket, 1.0) == session.id


def test_a_node_that_does_not_wait_is_not_led_to() -> None:
    relaying = waiting(C)
    with pytest.raises(Unavailable, match="does not wait"):
        opened(relaying)
    assert not relaying.sessions


def test_a_node_that_was_answered_is_present_until_it_is_late_to_ask_again() -> None:
    relaying = waiting(B)
    relaying.leave(B, until=2.0)
    assert relaying.present(B, 1.9)
    assert not relaying.present(B, 2.0)


def test_a_node_whose_connection_broke_is_gone_at_once() -> None:
    relaying = waiting(B)
    relaying.leave(B)
    assert not relaying.present(B, 0.0)


def test_one_of_two_waits_is_enough() -> None:
    relaying = waiting(B, B)
    relaying.leave(B)
    assert relaying.present(B, 0.0)


@pytest.mark.parametrize("index", [0, 1])
def test_a_ticket_is_good_once(index: int) -> None:
    relaying = waiting(B)
    opened(relaying)
    relaying.claim(tickets()[index], 0.0)
    with pytest.raises(Forbidden):
        relaying.claim(tickets()[index], 0.0)


def test_a_ticket_is_good_for_a_while() -> None:
    relaying = waiting(B)
    opened(relaying)
    with pytest.raises(Forbidden):
        relaying.claim(tickets()[0], 10.1)
    assert relaying.overdue(10.1, everyone) == [(1, "one end never came")]


def test_tickets_end_with_their_session() -> None:
    relaying = waiting(B)
    relaying.end(opened(relaying).id)
    with pytest.raises(Forbidden):
        relaying.claim(tickets()[0], 0.0)
    assert relaying.summons(B) == []


def test_a_ticket_nobody_issued_is_refused() -> None:
    with pytest.raises(Forbidden):
        waiting(B).claim(bytes(32), 0.0)


def test_sessions_are_bounded_per_opener_and_in_all() -> None:
    relaying = waiting(B)
    for number in range(2):
        opened(relaying, number)
    with pytest.raises(Unavailable, match="all the connections it may"):
        opened(relaying, 2)
    for number in range(2):
        opened(relaying, 2 + number, dialer=C)
    with pytest.raises(Unavailable, match="as many connections as it may"):
        opened(relaying, 5, dialer="d" * 64)
    relaying.end(1)
    opened(relaying, 6)


def joined(relaying: Relaying, number: int = 0, now: float = 0.0) -> Session:
    session = opened(relaying, number, now)
    for ticket in tickets(number):
        relaying.claim(ticket, now)
    return session


def test_a_session_that_carries_nothing_ends() -> None:
    relaying = waiting(B)
    session = joined(relaying)
    relaying.moved(session.id, 1, 30.0)
    relaying.moved(session.id, 1, 80.0)
    assert relaying.overdue(90.0, everyone) == []
    assert relaying.overdue(90.1, everyone) == [(session.id, "nothing moved for too long")]


def test_a_session_carries_so_much_and_no_more() -> None:
    relaying = waiting(B)
    session = joined(relaying)
    relaying.moved(session.id, 1000, 1.0)
    assert relaying.overdue(1.0, everyone) == []
    relaying.moved(session.id, 1001, 1.0)
    assert relaying.overdue(1.0, everyone) == [(session.id, "it carried as much as one connection may")]


def test_a_node_that_used_its_day_up_is_cut_and_refused_until_some_of_it_is_forgiven() -> None:
    relaying = waiting(B, limits=Limits(session_bytes=10**9, node_bytes=10_000, idle=DAY, ticket=10.0))
    session = joined(relaying)
    relaying.moved(session.id, 10_001, 0.0)
    assert relaying.overdue(0.0, everyone) == [(session.id, "its opener used up what one node may in a day")]
    relaying.end(session.id)
    with pytest.raises(Unavailable, match="in a day") as refused:
        opened(relaying, 1)
    assert opened(relaying, 2, dialer=C), "others have a day of their own"
    wait = refused.value.retry_after
    assert wait
    with pytest.raises(Unavailable):
        opened(relaying, 3, now=wait - 1)
    opened(relaying, 4, now=wait + 1)


@pytest.mark.parametrize("revoked", [A, B])
def test_a_session_of_a_node_that_is_no_member_any_more_ends(revoked: str) -> None:
    relaying = waiting(B)
    session = joined(relaying)
    assert relaying.overdue(0.0, lambda node: node != revoked) == [
        (session.id, "one end is no member of the network any more")
    ]


def test_what_is_over_is_forgotten() -> None:
    relaying = waiting(B)
    session = joined(relaying)
    relaying.moved(session.id, 500, 0.0)
    relaying.end(session.id)
    opened(relaying, 1, dialer=C)
    relaying.leave(B, until=5.0)
    relaying.end(2)
    assert relaying.overdue(2 * DAY, everyone) == []
    kept = {name: value for name, value in vars(relaying).items() if name not in ("_limits", "_count")}
    assert not any(kept.values()), kept


class Machine(RuleBasedStateMachine):
    """A relay under everything its nodes can do, beside a model that only knows what was handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.count = 0
        self.relaying = Relaying(LIMITS)
        self.waits: list[str] = []
        self.unclaimed: dict[bytes, tuple[int, float]] = {}
        self.spent: set[bytes] = set()
        self.total: dict[int, int] = {}
        self.revoked: set[str] = set()

    nodes = st.sampled_from([A, B, C])

    def member(self, node: str) -> bool:
        return node not in self.revoked

    @rule(node=nodes)
    def arrive(self, node: str) -> None:
        self.relaying.arrive(node)
        self.waits.append(node)

    @precondition(lambda self: self.waits)
    @rule(data=st.data(), answered=st.booleans())
    def leave(self, data: st.DataObject, answered: bool) -> None:
        node = data.draw(st.sampled_from(self.waits))
        self.waits.remove(node)
        self.relaying.leave(node, self.now + 2.0 if answered else None)

    @rule(dialer=nodes, wanted=nodes)
    def open(self, dialer: str, wanted: str) -> None:
        self.count += 1
        mine = tickets(self.count)
        try:
            session = self.relaying.open((dialer, wanted), "bulk", mine, self.now)
        except Unavailable:
            return
        self.unclaimed |= dict.fromkeys(mine, (session.id, self.now))
        self.total[session.id] = 0

    @rule(node=nodes)
    def ask(self, node: str) -> None:
        for summons in self.relaying.summons(node):
            session = self.relaying.sessions[self.unclaimed[summons.ticket][0]]
            assert session.target == node
            assert summons.service == session.service

    @precondition(lambda self: self.unclaimed or self.spent)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.spent | self.unclaimed.keys())))
        number, opened = self.unclaimed.pop(ticket, (0, 0.0))
        good = ticket not in self.spent and number in self.relaying.sessions and self.now - opened <= LIMITS.ticket
        self.spent.add(ticket)
        if good:
            assert self.relaying.claim(ticket, self.now) == number
        else:
            with pytest.raises(Forbidden):
                self.relaying.claim(ticket, self.now)

    @precondition(lambda self: self.total)
    @rule(data=st.data(), more=st.integers(0, 2000))
    def move(self, data: st.DataObject, more: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.total)))
        self.total[number] += more
        self.relaying.moved(number, self.total[number], self.now)

    @rule(node=nodes)
    def revoke(self, node: str) -> None:
        self.revoked.add(node)

    @rule(seconds=st.sampled_from([0.5, 5.0, 30.0, DAY]))
    def sweep(self, seconds: float) -> None:
        self.now += seconds
        for number, why in self.relaying.overdue(self.now, self.member):
            assert why
            session = self.relaying.end(number)
            assert session
            assert session.id == number
            del self.total[number]
        assert self.relaying.overdue(self.now, self.member) == []
        for session in self.relaying.sessions.values():
            assert self.member(session.dialer)
            assert self.member(session.target)
            assert session.moved <= LIMITS.session_bytes

    @invariant()
    def bounds_hold(self) -> None:
        sessions = list(self.relaying.sessions.values())
        assert len(sessions) <= LIMITS.sessions
        for node in (A, B, C):
            assert sum(session.dialer == node for session in sessions) <= LIMITS.sessions_per_node
        assert all(self.relaying.present(node, self.now) for node in self.waits)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
