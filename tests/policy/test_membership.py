from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import InvalidInput, NodeNotFound
from tetherd.policy.membership import (
    ALARM,
    RETRY,
    WARN,
    Standing,
    authority,
    dialable,
    duties,
    find,
    foundations,
    hosts,
    renewal,
    retry,
    urgency,
)
from tetherd.types import Credentials, RoleName
from tetherd.wire.roster import Member, Roster, SignedRoster

chances = st.floats(0, 1)
DAY = 86400.0


def member(digit: str, *roles: RoleName, joined: float = 0.0, at: str = "", **fields: object) -> Member:
    whole = Member(node=digit * 64, name=f"n-{digit}", roles=roles, joined=joined, addresses=(at,) if at else ())
    return msgspec.structs.replace(whole, **fields)


ME = member("a", "worker")
FOUNDER = member("b", "orchestrator", "manager", joined=1.0, at="h:1")
SECOND = member("c", "orchestrator", joined=2.0, at="h:2")
MUTE = member("d", "orchestrator", joined=0.5)
GONE = member("e", "orchestrator", joined=0.1, at="h:3", revoked=9.0)


def standing(*members: Member) -> Standing:
    roster = Roster(network="0" * 16, name="home", epoch=1, issued=0.0, members=(ME, *members), roots=())
    return Standing(
        network="0" * 16,
        node=ME.node,
        roster=roster,
        signed=SignedRoster(b"", b"", b""),
        credentials=Credentials(ME.node, "", "", ""),
        issued=0.0,
        expires=7 * DAY,
    )


@given(chances)
def test_a_certificate_is_renewed_around_half_its_life(chance: float) -> None:
    assert 0.45 * 7 * DAY <= renewal(0.0, 7 * DAY, chance) <= 0.55 * 7 * DAY


def test_nodes_that_joined_together_do_not_renew_together() -> None:
    assert renewal(0.0, 7 * DAY, 0.0) < renewal(0.0, 7 * DAY, 0.5) < renewal(0.0, 7 * DAY, 1.0)


@given(st.integers(0, 10**6), chances)
def test_renewal_is_tried_again_within_the_hour(attempts: int, chance: float) -> None:
    assert 10 < retry(attempts, chance) <= RETRY
    assert retry(0, chance) < 20


def test_when_a_certificate_is_a_worry() -> None:
    assert [urgency(100 * DAY, 100 * DAY - left) for left in (WARN + 1, WARN - 1, ALARM - 1, -1)] == [
        "",
        "warn",
        "error",
        "error",
    ]


def test_a_host_does_what_both_it_and_its_network_want() -> None:
    assert duties(("gateway", "worker"), ("worker", "manager")) == ("worker",)
    assert duties(("gateway",), ("worker",)) == ()


def test_who_is_dialled_for_a_role() -> None:
    roster = standing(SECOND, MUTE, GONE, FOUNDER).roster
    assert hosts(roster, "orchestrator", ME.node) == [FOUNDER, SECOND]
    assert hosts(roster, "orchestrator", FOUNDER.node) == [SECOND]
    assert hosts(roster, "gateway", ME.node) == []
    assert dialable(roster, ME.node) == {FOUNDER.node: ("h:1",), SECOND.node: ("h:2",)}


def test_the_authority_is_on_the_host_that_joined_first_of_all() -> None:
    whole = standing(SECOND, FOUNDER, member("f", "gateway", joined=0.0)).roster
    assert authority(whole) == ME, "of two that say the same, the id decides"
    assert authority(msgspec.structs.replace(whole, members=(SECOND, MUTE))) == MUTE, "it need not be dialled"
    assert authority(msgspec.structs.replace(whole, members=())) is None


def test_what_a_composition_rests_on_is_not_where_others_are_nor_which() -> None:
    def rests(*members: Member, roles: tuple[RoleName, ...]) -> Any:
        return foundations(standing(*members).roster, roles, ME.node)

    elsewhere = msgspec.structs.replace(FOUNDER, addresses=("h:9",))
    roles: tuple[RoleName, ...]
    for roles in (("gateway",), ("worker",)):
        assert rests(FOUNDER, roles=roles) == rests(elsewhere, roles=roles)
        assert rests(FOUNDER, roles=roles) == rests(FOUNDER, SECOND, MUTE, roles=roles)
        assert rests(roles=roles) == rests(GONE, MUTE, roles=roles)
        assert rests(FOUNDER, roles=roles) != rests(roles=roles)
    assert rests(FOUNDER, roles=("manager",)) == rests(elsewhere, SECOND, roles=("manager",))
    assert rests(FOUNDER, roles=("manager",)) != rests(SECOND, roles=("manager",)), "it follows another one"


def test_a_revoked_node_has_no_place() -> None:
    found = standing()
    assert found.me == ME
    away = msgspec.structs.replace(found.roster, members=(msgspec.structs.replace(ME, revoked=1.0),))
    assert msgspec.structs.replace(found, roster=away).me is None


def test_which_node_a_word_means() -> None:
    twins = [member("f", name="x"), msgspec.structs.replace(member("0"), node="f" * 63 + "0")]
    assert find([ME, FOUNDER], "n-b") == FOUNDER
    assert find([ME, FOUNDER], "bbbb") == FOUNDER
    assert find(twins, "f" * 64) == twins[0]
    with pytest.raises(NodeNotFound):
        find([ME, FOUNDER], "bbb")
    with pytest.raises(InvalidInput, match="several"):
        find(twins, "ffff")


def test_a_name_wins_over_the_beginning_of_an_id() -> None:
    named = member("0", name="ffff")
    assert find([member("f"), named], "ffff") == named
