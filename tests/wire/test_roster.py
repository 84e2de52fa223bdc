"""Rosters: one encoding, and never one that is earlier or another network's."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import BadRoster
from tetherd.types import ROLES
from tetherd.wire.roster import KeyEpoch, Member, Roster, decode, encode, newer

nodes = st.binary(min_size=32, max_size=32).map(bytes.hex)
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
times = st.floats(0, 4e9)
members = st.builds(
    Member,
    node=nodes,
    name=names,
    roles=st.lists(st.sampled_from(ROLES), unique=True).map(tuple),
    addresses=st.lists(st.sampled_from(["192.0.2.1:7443", "[::1]:1"]), max_size=3).map(tuple),
    labels=st.dictionaries(names, st.text(max_size=8), max_size=3),
    joined=times,
    revoked=times,
)
rosters = st.builds(
    Roster,
    network=st.binary(min_size=8, max_size=8).map(bytes.hex),
    name=names,
    epoch=st.integers(1, 2**53),
    issued=times,
    members=st.lists(members, max_size=5, unique_by=lambda member: member.node).map(tuple),
    roots=st.lists(st.text(max_size=10), max_size=2).map(tuple),
    keys=st.lists(st.builds(KeyEpoch, st.integers(0, 9), st.binary(max_size=32)), max_size=2).map(tuple),
)
ONE = Roster(network="0" * 16, name="home", epoch=1, issued=1.0, members=(), roots=())


def changed(**fields: object) -> Roster:
    return msgspec.structs.replace(ONE, **fields)


@given(rosters)
def test_a_roster_comes_back_and_has_one_encoding(roster: Roster) -> None:
    body = encode(roster)
    assert encode(decode(body)) == body
    assert encode(msgspec.structs.replace(roster, members=roster.members[::-1])) == body


@given(rosters, st.data())
def test_a_damaged_roster_is_refused_or_is_another_one(roster: Roster, data: st.DataObject) -> None:
    body = bytearray(encode(roster))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(body))
    except BadRoster:
        return
    assert encode(found) == bytes(body)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(BadRoster):
        decode(body)


def member(**fields: object) -> Member:
    whole = Member(node="0" * 64, name="n", roles=("worker",))
    return msgspec.structs.replace(whole, **fields)


@pytest.mark.parametrize(
    "roster",
    [
        changed(epoch=0),
        changed(name="../home"),
        changed(issued=1e300),
        changed(members=(member(), member())),
        changed(members=(member(node="A" * 64),)),
        changed(members=(member(name="a b"),)),
        changed(members=(member(addresses=("nowhere",)),)),
        changed(members=(member(labels={str(n): "" for n in range(99)}),)),
        changed(roots=("",) * 9),
    ],
)
def test_what_cannot_be_is_refused(roster: Roster) -> None:
    with pytest.raises(BadRoster) as caught:
        decode(encode(roster))
    assert caught.value.fix


def test_another_order_or_spacing_is_refused() -> None:
    with pytest.raises(BadRoster, match="canonical"):
        decode(encode(ONE).replace(b",", b", "))


def test_which_roster_replaces_which() -> None:
    assert newer(None, ONE)
    assert newer(ONE, changed(epoch=2))
    assert not newer(ONE, ONE)
    assert not newer(changed(epoch=2), ONE)
    assert not newer(ONE, changed(epoch=2, network="1" * 16))


def test_a_revoked_member_takes_no_part() -> None:
    roster = changed(members=(member(revoked=5.0), member(node="1" * 64)))
    assert roster.member("0" * 64) is None
    assert roster.member("2" * 64) is None
    assert roster.member("1" * 64) == roster.members[1]
