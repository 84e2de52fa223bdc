from tetherd.types import ROLES
from tetherd.wire.frames import REPLY, Codec, Header
from tetherd.wire.membership import Resign, Rostered, WatchRoster
from tetherd.wire.roster import SignedRoster


def test_every_member_may_watch_the_roster_and_go() -> None:
    for kind in (WatchRoster, Resign):
        assert frozenset(ROLES) == kind.ROLES
        assert kind.REPEATABLE


def test_whoever_holds_no_roster_is_answered_at_once() -> None:
    assert WatchRoster().epoch == -1


def test_a_roster_comes_with_the_keys_that_members_share() -> None:
    sent = Rostered(SignedRoster(b"roster", b"signature", b"issuing"), {3: b"k" * 32})
    codec = Codec()
    frame = codec.split(b"".join(codec.encode(REPLY, Header(1), sent)))
    assert codec.message(frame, Rostered) == sent
    assert Rostered(sent.roster).keys == {}
    assert Rostered(sent.roster).keys is not Rostered(sent.roster).keys
