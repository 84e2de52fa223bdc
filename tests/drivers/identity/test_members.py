"""The authority's ledger against a model of it: whatever is done in whatever order, one token lets in one host."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tetherd.drivers.identity.members import KEPT, KEY_BYTES, PARTING, Invitation, MemberLedger
from tetherd.errors import NodeNotFound, Revoked, TetherError, TokenExpired, TokenUsed, WrongToken
from tetherd.wire.roster import Member

nodes = st.sampled_from("abc").map(lambda digit: digit * 64)
token_ids = st.integers(0, 1).map(lambda number: bytes([number]))
TTL = 60.0
DAY = 86400.0


def as_member(node: str) -> Member:
    return Member(node=node, name="host", roles=(), addresses=("192.0.2.1:1",))


class Killed(Exception):
    """The process ended at this instant."""


class Ledger(RuleBasedStateMachine):
    """A ledger that is closed, killed and opened in between, beside plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "authority.db"
        self.ledger = MemberLedger(self.path)
        self.now = 1000.0
        self.ledger.found("0" * 16, "home", self.now)
        self.epoch = 1
        self.key = 1  # the newest that is shared
        self.tokens: dict[bytes, list[object]] = {}  # when it expires, who used it
        self.members: dict[str, bool] = {}  # whether it was revoked
        self.labels: dict[str, dict[str, str]] = {}
        self.rotation = (1, 0)
        self.copies = 0

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    @initialize()
    def one_has_joined(self) -> None:
        for token in (b"\0", b"\1"):
            self.invite(token)
        self.admit(b"\0", "a" * 64)

    @rule(seconds=st.sampled_from([1.0, TTL / 2, TTL]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = MemberLedger(self.path)
        self.ledger.found("f" * 16, "other", self.now)

    @rule(
        token=token_ids, node=nodes, change=st.sampled_from(["admit", "revoke", "forget", "label", "rotate", "rekey"])
    )
    def is_killed_before_a_change_is_made(self, token: bytes, node: str, change: str) -> None:
        changes = {
            "admit": lambda: self.ledger.admit(token, as_member(node), self.now),
            "revoke": lambda: self.ledger.change(node, self.now, revoked=self.now),
            "forget": lambda: self.ledger.forget(node, self.now),
            "label": lambda: self.ledger.change(node, self.now, labels={"killed": "yes"}),
            "rotate": lambda: self.ledger.rotate(9, 9, self.now),
            "rekey": lambda: self.ledger.rekey(TTL, self.now),
        }
        self.copies += 1
        left = self.path.parent / str(self.copies)

        def kill(_: object) -> None:
            left.mkdir()
            for each in self.path.parent.glob(f"{self.path.name}*"):
                shutil.copy(each, left)
            raise Killed

        sa.event.listen(self.ledger._database._engine, "commit", kill)
        with contextlib.suppress(Killed, TetherError):
            changes[change]()
        self.ledger.close()
        if left.exists():  # what was on disk at that instant is all there is
            self.path = left / self.path.name
        self.ledger = MemberLedger(self.path)

    @rule(token=token_ids)
    def invite(self, token: bytes) -> None:
        if token not in self.tokens:
            self.ledger.invite(Invitation(token, b"k", ("worker",), self.now + TTL), self.now)
            self.tokens[token] = [self.now + TTL, ""]

    @rule(token=token_ids, node=nodes)
    def admit(self, token: bytes, node: str) -> None:
        outcome: type[TetherError] | None = None
        if token not in self.tokens:
            outcome = WrongToken
        elif (user := self.tokens[token][1]) and (user != node or node not in self.members):
            outcome = TokenUsed
        elif self.now >= self.tokens[token][0]:  # type: ignore[operator]
            outcome = TokenExpired
        elif self.members.get(node):
            outcome = Revoked
        if outcome is not None:
            with pytest.raises(outcome):
                self.ledger.admit(token, as_member(node), self.now)
            return
        admitted = self.ledger.admit(token, as_member(node), self.now)
        assert (admitted.node, admitted.roles) == (node, ("worker",))
        if not self.tokens[token][1]:
            self.tokens[token][1] = node
            self.epoch += 1
            self.labels[node] = {}
        self.members[node] = False

    @rule(token=token_ids, first=nodes, second=nodes)
    def race(self, token: bytes, first: str, second: str) -> None:
        """Two hosts come at once, to two processes that hold the file."""
        self.admit(token, first)
        before, self.ledger = self.ledger, MemberLedger(self.path)
        self.admit(token, second)
        before.close()

    @rule(node=nodes)
    def enlist(self, node: str) -> None:
        founder = msgspec.structs.replace(as_member(node), name=f"founder-{node[0]}", roles=("worker",))
        self.ledger.enlist(founder, self.now)
        if node not in self.members:
            self.members[node], self.labels[node] = False, {}
            self.epoch += 1

    @rule(node=nodes, value=st.sampled_from(["", "x", "é"]))
    def label(self, node: str, value: str) -> None:
        if node not in self.members:
            with pytest.raises(NodeNotFound):
                self.ledger.change(node, self.now, labels={"zone": value})
            return
        self.epoch += self.labels[node] != {"zone": value}
        self.labels[node] = {"zone": value}
        assert self.ledger.change(node, self.now, labels={"zone": value}).labels == {"zone": value}

    @rule()
    def rotate(self) -> None:
        generation, step = self.rotation
        self.rotation = (generation, step + 1) if step < 2 else (generation + 1, 0)
        self.ledger.rotate(*self.rotation, self.now)
        self.epoch += 1

    @rule(node=nodes)
    def is_refused_when_it_may_not_take_part(self, node: str) -> None:
        refusal = {None: NodeNotFound, True: Revoked, False: None}[self.members.get(node)]
        with pytest.raises(refusal) if refusal else contextlib.nullcontext():
            assert self.ledger.member(node).node == node

    @rule(node=nodes)
    def revoke(self, node: str) -> None:
        if node not in self.members:
            with pytest.raises(NodeNotFound):
                self.ledger.change(node, self.now, revoked=self.now)
            return
        before = self.members[node]
        self.ledger.change(node, self.now, revoked=self.epoch_of_revocation(node))
        self.members[node] = True
        self.epoch += not before
        self.key += not before

    def epoch_of_revocation(self, node: str) -> float:
        """Return when it was revoked first: revoking it again changes nothing."""
        found = next(each for each in self.ledger.state().members if each.node == node)
        return found.revoked or self.now

    @rule(node=nodes)
    def forget(self, node: str) -> None:
        was_revoked = self.members.pop(node, None)
        if was_revoked is None:
            with pytest.raises(NodeNotFound):
                self.ledger.forget(node, self.now)
            return
        self.ledger.forget(node, self.now)
        self.epoch += 1
        self.key += not was_revoked

    @rule()
    def rekey(self) -> None:
        self.ledger.rekey(TTL, self.now)
        self.epoch += 1
        self.key += 1

    @rule()
    def retire(self) -> None:
        self.epoch += len(self.ledger.state().keys) > 1
        self.ledger.retire(self.now)
        assert [each.epoch for each in self.ledger.state().keys] == [self.key]

    @invariant()
    def it_says_what_was_done(self) -> None:
        state = self.ledger.state()
        assert (state.network, state.name, state.epoch) == ("0" * 16, "home", self.epoch)
        assert {each.node: bool(each.revoked) for each in state.members} == self.members
        assert {each.node: each.labels for each in state.members} == {node: self.labels[node] for node in self.members}
        assert (state.generation, state.rotation) == self.rotation
        assert state.changed <= self.now
        assert len({each.name for each in state.members}) == len(state.members)
        *older, newest = state.keys
        assert (newest.epoch, newest.ends) == (self.key, 0.0)
        assert [each.epoch for each in older] in ([], [self.key - 1])
        assert all(each.ends for each in older)


def test_the_ledger_keeps_to_its_model() -> None:
    run_state_machine_as_test(
        Ledger,
        settings=settings(
            max_examples=100, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.fixture
def ledger(tmp_path: Path):
    made = MemberLedger(tmp_path / "authority.db")
    made.found("0" * 16, "home", 0.0)
    yield made
    made.close()


def test_tokens_are_forgotten_long_after_they_expired(ledger: MemberLedger) -> None:
    ledger.invite(Invitation(b"old", b"k", ("worker",), 60.0), 0.0)
    ledger.invite(Invitation(b"new", b"k", ("worker",), 60.0 + KEPT), KEPT)
    assert ledger.invitation(b"old").roles == ("worker",)
    ledger.invite(Invitation(b"newer", b"k", ("worker",), 120.0 + KEPT), KEPT + 61.0)
    with pytest.raises(WrongToken):
        ledger.invitation(b"old")


def test_shared_keys_overlap(ledger: MemberLedger) -> None:
    (first,) = ledger.state().keys
    assert (first.epoch, len(first.key), first.ends) == (1, KEY_BYTES, 0.0)
    ledger.rekey(TTL, 1.0)
    older, second = ledger.state().keys
    assert (older.key, older.ends) == (first.key, 1.0 + TTL)
    assert (second.epoch, second.made, second.ends) == (2, 1.0, 0.0)
    ledger.rekey(TTL, 2.0)
    assert [(each.epoch, each.ends) for each in ledger.state().keys] == [(2, 2.0 + TTL), (3, 0.0)]
    assert ledger.state().epoch == 3
    ledger.retire(3.0)
    assert [each.epoch for each in ledger.state().keys] == [3]


@pytest.mark.parametrize("goes", ["revoked", "forgotten", "forgotten after it was revoked"])
def test_whoever_goes_knows_no_key_that_is_used_from_then_on(ledger: MemberLedger, goes: str) -> None:
    ledger.enlist(as_member("a" * 64), 1.0)
    (known,) = ledger.state().keys
    ledger.rekey(DAY, 2.0)
    if "revoked" in goes:
        ledger.change("a" * 64, 3.0, revoked=3.0)
    if "forgotten" in goes:
        ledger.forget("a" * 64, 3.0)
    older, newest = ledger.state().keys
    assert (older.epoch, older.ends) == (2, 3.0 + PARTING)
    assert (newest.epoch, newest.made) == (3, 3.0)
    assert known.key not in (older.key, newest.key)


def test_when_the_newest_certificate_runs_out(ledger: MemberLedger) -> None:
    assert ledger.expires("a" * 64) == 0.0
    ledger.issued("a" * 64, 5.0, 1)
    ledger.issued("a" * 64, 9.0, 1)
    assert ledger.expires("a" * 64) == 9.0


def test_who_has_no_certificate_under_the_next_root(ledger: MemberLedger) -> None:
    for node in ("a", "b", "c"):
        ledger.enlist(as_member(node * 64), 1.0)
        ledger.issued(node * 64, 9.0, 1)
    assert len(ledger.behind(2)) == 3
    ledger.issued("a" * 64, 9.0, 2)
    ledger.change("b" * 64, 2.0, revoked=2.0)
    assert ledger.behind(2) == ["c" * 64]


def test_whoever_joins_later_is_later_whatever_the_clock_says(ledger: MemberLedger) -> None:
    ledger.enlist(msgspec.structs.replace(as_member("a" * 64), joined=1000.0), 1000.0)
    joined = [1000.0]
    for number, now in enumerate((500.0, 500.0, 2000.0)):
        token = bytes([number])
        ledger.invite(Invitation(token, b"", ("worker",), 9000.0), now)
        joined.append(ledger.admit(token, as_member(f"{number}" * 64), now).joined)
    assert joined == sorted(set(joined))
    assert joined[-1] == 2000.0
