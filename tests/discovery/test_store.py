"""The store against a model of it: whatever is put in whichever order, it holds its promises and its bounds."""

from hashlib import sha256

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from world import NETWORK, Pretender

from tetherd.discovery.ids import number
from tetherd.discovery.store import DAY, PER_KEY, PER_OWNER, RECORD_COST, STRIDE, Store
from tetherd.wire.datagrams import Code
from tetherd.wire.records import ANNOUNCEMENT, IMMUTABLE, MAX_TTL, Body, Record, write

OWN = sha256(b"own").digest()
NOW = 1_700_000_000
SIGNERS = [Pretender(b"signer %d" % index) for index in range(PER_KEY + 3)]
TOPICS = [sha256(b"%d" % index).digest() for index in range(4)]
CAPACITY = 40


def record(signer: int = 0, topic: int = 0, **other: object) -> Record:
    fields = {"seq": NOW, "issued": NOW, "ttl": 600, "value": b"v", **other}
    who = SIGNERS[signer]
    return write(Body(ANNOUNCEMENT, TOPICS[topic], who.public, **fields), who, NETWORK)  # type: ignore[arg-type]


class Machine(RuleBasedStateMachine):
    """Puts records of every kind of wrongness, lets time pass, and compares with what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(OWN, CAPACITY)
        self.wall = float(NOW)
        self.newest: dict[tuple[int, int], int] = {}
        self.values: set[bytes] = set()

    @rule(
        signer=st.integers(0, 1) | st.integers(0, len(SIGNERS) - 1),
        topic=st.just(0) | st.integers(0, 3),
        step=st.integers(-2, 3) | st.just(STRIDE + 1),
        age=st.just(0) | st.integers(-400, 800),
        ttl=st.sampled_from([60, 600]) | st.integers(0, 900),
        gone=st.booleans(),
    )
    def put(self, signer: int, topic: int, step: int, age: int, ttl: int, gone: bool) -> None:
        last = self.newest.get((signer, topic), NOW)
        issued = int(self.wall) - age
        said = record(signer, topic, seq=last + step, issued=issued, ttl=ttl, gone=gone)
        before = {each.owner: each for each in self.held(topic)}
        code, _ = self.store.put(said, self.wall)
        after = {each.owner: each for each in self.held(topic)}
        if code == Code.OK:
            assert after[said.owner].blob == said.blob
            assert said.until > self.wall
            assert issued <= self.wall + 300
            if said.owner in before:
                held = before[said.owner].body
                assert held.seq < said.body.seq or held == said.body
            self.newest[signer, topic] = said.body.seq
        else:
            timely = issued <= self.wall + 300 and said.until > self.wall
            assert not timely or code == Code.FULL or (signer, topic) in self.newest, "nothing stood in its way"
            assert {each.blob for each in after.values()} == {each.blob for each in before.values()}

    @rule(value=st.binary(max_size=20))
    def put_immutable(self, value: bytes) -> None:
        said = write(Body(IMMUTABLE, value=value), SIGNERS[0], NETWORK)
        if self.store.put(said, self.wall)[0] == Code.OK:
            self.values.add(said.key)
            assert [each.blob for each in self.store.find(IMMUTABLE, said.key, self.wall)] == [said.blob]

    @rule(seconds=st.integers(0, 1000).map(float) | st.sampled_from([60.0, 0.5]))
    def wait(self, seconds: float) -> None:
        self.wall += seconds

    @rule()
    def expire(self) -> None:
        before = self.all()
        self.store.expire(self.wall)
        assert self.all() == before, "only what nobody could find was forgotten"

    @rule(topic=st.integers(0, 3), skip=st.integers(0, 3), fit=st.integers(0, 5), more_or_less=st.integers(-5, 5))
    def page(self, topic: int, skip: int, fit: int, more_or_less: int) -> None:
        found = self.held(topic)
        after = found[skip - 1].owner if 0 < skip <= len(found) else None
        wanted = found[skip if after else 0 :]
        room = sum(len(each.blob) + RECORD_COST for each in wanted[:fit]) + more_or_less
        blobs, more = self.store.page(found, after, room)
        taken = sum(len(each) + RECORD_COST for each in blobs)
        assert taken <= max(room, 0)
        assert not more or taken + len(wanted[len(blobs)].blob) + RECORD_COST > room
        assert blobs == [each.blob for each in wanted[: len(blobs)]]
        assert more == (len(blobs) < len(wanted))

    @invariant()
    def bounded(self) -> None:
        assert len(self.store) <= CAPACITY
        for topic in range(4):
            held = self.held(topic)
            assert len(held) <= PER_KEY
            assert all(each.until > self.wall for each in held)
            assert [each.owner for each in held] == sorted({each.owner for each in held})

    def all(self) -> list[list[Record]]:
        values = [self.store.find(IMMUTABLE, key, self.wall) for key in sorted(self.values)]
        return values + [self.held(topic) for topic in range(4)]

    def held(self, topic: int) -> list[Record]:
        return self.store.find(ANNOUNCEMENT, TOPICS[topic], self.wall)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def immutables(count: int) -> list[Record]:
    return [write(Body(IMMUTABLE, value=b"%d" % index), SIGNERS[0], NETWORK) for index in range(count)]


def test_the_farthest_gives_way_when_it_is_full() -> None:
    store = Store(OWN, capacity=30)
    records = immutables(200)
    for each in records:
        store.put(each, NOW)
    near = sorted(records, key=lambda each: number(each.key) ^ number(OWN))[:30]
    assert len(store) == 30
    assert all(store.find(IMMUTABLE, each.key, NOW) for each in near)
    assert store.put(next(each for each in records if each not in near), NOW)[0] == Code.FULL


def test_one_owner_takes_no_more_than_its_share() -> None:
    store = Store(OWN)
    codes = [store.put(each, NOW)[0] for each in immutables(PER_OWNER + 5)]
    assert codes.count(Code.FULL) == 5
    store.expire(NOW + MAX_TTL + 1)
    assert not len(store)
    assert store.put(immutables(1)[0], NOW + MAX_TTL + 1)[0] == Code.OK


def test_the_oldest_of_a_key_gives_way() -> None:
    store = Store(OWN)
    for signer in range(PER_KEY):
        store.put(record(signer), NOW)
    store.put(record(0, seq=NOW + 1), NOW)
    store.put(record(PER_KEY), NOW)
    owners = {each.owner for each in store.find(ANNOUNCEMENT, TOPICS[0], NOW)}
    assert record(0).owner in owners, "it was said again"
    assert record(1).owner not in owners


def test_a_number_may_grow_by_so_much_a_day() -> None:
    store = Store(OWN)
    assert store.put(record(), NOW)[0] == Code.OK
    far = {"seq": NOW + 2 * STRIDE, "issued": NOW, "ttl": 7200}
    assert store.put(record(**far), NOW)[0] == Code.SEQ_FAR
    assert store.put(record(**{**far, "issued": NOW + DAY}), NOW + DAY)[0] == Code.OK


@pytest.mark.parametrize(
    ("expected", "code"), [(-1, Code.OK), (NOW, Code.OK), (NOW - 1, Code.CHANGED), (0, Code.CHANGED)]
)
def test_a_writer_can_say_what_it_expects(expected: int, code: Code) -> None:
    store = Store(OWN)
    store.put(record(), NOW)
    assert store.put(record(seq=NOW + 1), NOW, expected)[0] == code


def test_a_short_lived_word_still_covers_an_older_one_that_lives_longer() -> None:
    store = Store(OWN)
    old, new = record(seq=NOW, ttl=7200), record(seq=NOW + 1, ttl=60)
    store.put(old, NOW)
    store.put(new, NOW)
    store.expire(NOW + 100)
    assert not store.find(ANNOUNCEMENT, TOPICS[0], NOW + 100)
    assert store.put(old, NOW + 100)[0] == Code.SEQ_LOW
    store.expire(NOW + 7300)
    assert not len(store)
