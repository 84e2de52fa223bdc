"""Membership while a daemon runs: news travel at once, nothing goes backwards, certificates stay young."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from tetherd.errors import Conflict, NotInNetwork, TetherError, Unreachable
from tetherd.policy.membership import PAUSE, Standing
from tetherd.ports import Context
from tetherd.roles.membership import LONELY, Membership
from tetherd.testing.time import LoopClock, simulated
from tetherd.types import Credentials, RoleName
from tetherd.wire.membership import Resign, Rostered, WatchRoster
from tetherd.wire.messages import Request
from tetherd.wire.roster import KeyEpoch, Member, Roster, SignedRoster
from tetherd.wire.tokens import JoinToken

A, B = "a" * 64, "b" * 64
DAY = 86400.0
TOKEN = JoinToken("0" * 16, b"\0" * 32, b"\0" * 5, b"\0" * 16, ("h:1",))
CLOCK = LoopClock()


def signed(roster: Roster) -> SignedRoster:
    return SignedRoster(msgspec.json.encode(roster), b"", b"")


class Papers:
    """Implements ports.Papers in memory: believes everything, and fails when told to."""

    def __init__(self, node: str, standing: Standing | None = None) -> None:
        self.node = node
        self.standing = standing
        self.failures: list[TetherError] = []
        self.renewals: list[float] = []
        self.left = False
        self.life = 7 * DAY

    def require(self) -> Standing:
        assert self.standing is not None
        return self.standing

    def load(self) -> Standing | None:
        return self.standing

    def stand(self, roster: Roster, **fields: Any) -> Standing:
        now = CLOCK.wall()
        before = self.standing or Standing(
            network=roster.network,
            node=self.node,
            roster=roster,
            signed=signed(roster),
            credentials=Credentials(self.node, "", "first", ""),
            issued=now,
            expires=now + 7 * DAY,
            here=("h:1",),
        )
        self.standing = msgspec.structs.replace(before, roster=roster, signed=signed(roster), **fields)
        return self.standing

    def found(self, network: str, roles: tuple[RoleName, ...]) -> Standing:
        founder = Member(node=self.node, name="a", roles=roles, addresses=("h:1",))
        return self.stand(roster_of(founder), founder=True)

    def join(self, token: JoinToken, consent: Callable[[tuple[RoleName, ...]], None]) -> Standing:
        consent(("worker",))
        return self.stand(roster_of(FOUNDER, Member(node=self.node, name="b", roles=("worker",)), epoch=2))

    def renew(self) -> Standing:
        if self.failures:
            raise self.failures.pop()
        now = CLOCK.wall()
        self.renewals.append(now)
        assert self.standing is not None
        credentials = Credentials(self.node, "", f"at {now}", "")
        return self.stand(self.standing.roster, credentials=credentials, issued=now, expires=now + self.life)

    def accept(self, news: SignedRoster, keys: Mapping[int, bytes]) -> Standing:
        assert self.standing is not None
        roster = msgspec.json.decode(news.body, type=Roster)
        return self.stand(roster) if roster.epoch > self.standing.roster.epoch else self.standing

    def publish(self) -> Standing:
        assert self.standing is not None
        return self.standing

    def leave(self) -> None:
        self.standing, self.left = None, True

    def invite(self, roles: tuple[RoleName, ...], ttl: float, name: str) -> JoinToken:
        return TOKEN

    def change(self, node: str, **values: Any) -> Standing:
        assert self.standing is not None
        roster = self.standing.roster
        changed = tuple(
            msgspec.structs.replace(each, **values) if each.node == node else each for each in roster.members
        )
        return self.stand(msgspec.structs.replace(roster, members=changed, epoch=roster.epoch + 1))

    def rekey(self, lagging: Sequence[str], *, force: bool) -> Standing:
        assert self.standing is not None
        roster, ends = self.standing.roster, CLOCK.wall() + DAY
        older = tuple(msgspec.structs.replace(each, ends=ends) for each in roster.keys)
        newest = KeyEpoch(len(roster.keys) + 1, b"digest")
        self.standing = msgspec.structs.replace(self.standing, keys={newest.epoch: b"key"})
        return self.stand(msgspec.structs.replace(roster, keys=(*older, newest), epoch=roster.epoch + 1))

    def retire(self) -> Standing:
        if self.failures:
            raise self.failures.pop()
        assert self.standing is not None
        roster = self.standing.roster
        return self.stand(msgspec.structs.replace(roster, keys=roster.keys[-1:], epoch=roster.epoch + 1))

    def forget(self, node: str) -> Standing:
        assert self.standing is not None
        roster = self.standing.roster
        left = tuple(each for each in roster.members if each.node != node)
        return self.stand(msgspec.structs.replace(roster, members=left, epoch=roster.epoch + 1))


FOUNDER = Member(node=A, name="a", roles=("orchestrator", "manager"), addresses=("h:1",))
WORKER = Member(node=B, name="b", roles=("worker",))


def roster_of(*members: Member, epoch: int = 1) -> Roster:
    return Roster(network="0" * 16, name="home", epoch=epoch, issued=0.0, members=members, roots=())


class Node:
    """A membership, and how often it asked to be composed anew."""

    def __init__(self, node: str, *roles: RoleName, roster: Roster | None = None) -> None:
        self.papers = Papers(node)
        if roster is not None:
            self.papers.stand(roster, founder=node == A)
        self.compositions = 0
        self.membership = Membership(
            self.papers, configured=roles, clock=CLOCK, chance=lambda: 0.5, recompose=self._count
        )

    def _count(self) -> None:
        self.compositions += 1

    async def watch(self, epoch: int, patience: float = 30.0, node: str = B) -> Rostered:
        handler = self.membership.routes()[WatchRoster]
        found: Rostered = await handler(WatchRoster(epoch), Context(CLOCK.monotonic() + patience, 1, "", node))
        return found

    async def call(self, request: Request[Any], *, deadline: float, request_id: str = "") -> Any:
        """Implements ports.Caller for a peer whose node is B."""
        return await self.membership.routes()[type(request)](request, Context(deadline, 1, "", B))


def pair(*members: Member) -> tuple[Node, Node]:
    roster = roster_of(FOUNDER, WORKER, *members)
    return Node(A, "orchestrator", "manager", roster=roster), Node(B, "worker", roster=roster)


@simulated
async def test_who_asks_for_news_is_answered_when_there_are_some() -> None:
    founder, _ = pair()
    assert msgspec.json.decode((await founder.watch(-1)).roster.body)["epoch"] == 1
    waiting = asyncio.create_task(founder.watch(1))
    await asyncio.sleep(10)
    assert not waiting.done()
    began = CLOCK.monotonic()
    await founder.membership.change(B, labels={"rack": "7"})
    news = await waiting
    assert CLOCK.monotonic() - began < 0.01
    assert msgspec.json.decode(news.roster.body)["epoch"] == 2


@simulated
async def test_who_asks_is_answered_before_its_patience_ends_though_nothing_changed() -> None:
    founder, _ = pair()
    began = CLOCK.monotonic()
    await founder.watch(1, patience=20.0)
    assert 19 < CLOCK.monotonic() - began < 20
    assert founder.membership.seen(B) == pytest.approx(0, abs=0.01)
    assert founder.membership.seen("c" * 64) is None


@simulated
async def test_a_change_reaches_who_follows() -> None:
    founder, worker = pair()
    following = asyncio.create_task(worker.membership.follow(A, founder))
    await asyncio.sleep(45)
    await founder.membership.change(B, labels={"rack": "7"})
    await asyncio.sleep(0.01)
    assert worker.membership.standing is not None
    assert worker.membership.standing.me is not None
    assert worker.membership.standing.me.labels == {"rack": "7"}
    assert worker.compositions == 0
    following.cancel()


@simulated
async def test_a_peer_that_is_away_is_asked_again_and_again() -> None:
    _founder, worker = pair()
    attempts: list[float] = []

    class Away:
        async def call(self, *_: Any, **__: Any) -> Any:
            attempts.append(CLOCK.monotonic())
            raise Unreachable("gone")

    following = asyncio.create_task(worker.membership.follow(A, Away()))
    await asyncio.sleep(60)
    following.cancel()
    gaps = [after - before for before, after in itertools.pairwise(attempts)]
    assert gaps[0] < 0.2
    assert 4 < gaps[-1] < 6


@simulated
async def test_a_revoked_node_knows_and_does_nothing_any_more() -> None:
    founder, worker = pair()
    following = asyncio.create_task(worker.membership.follow(A, founder))
    await asyncio.sleep(1)
    assert founder.membership.roles_of(B) == ("worker",)
    await founder.membership.change(B, revoked=5.0)
    assert founder.membership.roles_of(B) is None
    await asyncio.sleep(0.01)
    assert worker.membership.roles == ()
    assert worker.compositions == 1
    following.cancel()


@simulated
async def test_the_key_goes_to_members_and_not_to_who_was_just_sent_away() -> None:
    founder, _ = pair()
    waiting = asyncio.create_task(founder.watch(2))
    await asyncio.sleep(1)
    await founder.membership.rekey(force=False)
    assert (await founder.watch(1)).keys == {1: b"key"}
    await founder.membership.change(B, revoked=5.0)
    assert (await waiting).keys == {}
    assert (await founder.watch(-1, node="c" * 64)).keys == {}


def epochs(node: Node) -> list[int]:
    assert node.membership.standing is not None
    return [each.epoch for each in node.membership.standing.roster.keys]


@simulated
async def test_the_last_key_is_dropped_when_all_members_have_the_next() -> None:
    founder, _ = pair()
    keeping = asyncio.create_task(founder.membership.run(lambda: None))
    await founder.membership.rekey(force=False)
    await founder.membership.rekey(force=False)
    await asyncio.sleep(60)
    assert epochs(founder) == [1, 2], "b has not said that it has the next one"
    founder.papers.failures = [Unreachable("the disk is full", fix="wait")]
    asked = asyncio.create_task(founder.watch(3))
    await asyncio.sleep(10)
    assert epochs(founder) == [1, 2]
    await asyncio.sleep(90)
    assert epochs(founder) == [2]
    keeping.cancel()
    await asked


@simulated
async def test_the_last_key_is_dropped_when_its_time_is_over() -> None:
    founder, _ = pair()
    keeping = asyncio.create_task(founder.membership.run(lambda: None))
    await founder.membership.rekey(force=False)
    await founder.membership.rekey(force=False)
    await asyncio.sleep(DAY - 5)
    assert epochs(founder) == [1, 2]
    await asyncio.sleep(10)
    assert epochs(founder) == [2]
    keeping.cancel()


@simulated
async def test_whoever_has_left_tends_nothing_any_more() -> None:
    founder, _ = pair()
    await founder.membership.rekey(force=False)
    await founder.membership.rekey(force=False)
    keeping = asyncio.create_task(founder.membership.run(lambda: None))
    await asyncio.sleep(1)
    await founder.membership.leave(None, force=True)
    await asyncio.sleep(120)
    assert not keeping.done() or keeping.exception() is None
    keeping.cancel()


@simulated
async def test_a_daemon_is_composed_anew_only_when_that_matters() -> None:
    founder, worker = pair()
    await founder.membership.change(B, labels={"rack": "7"}, name="c", roles=("gateway",))
    assert founder.compositions == 0
    await worker.membership.change(A, addresses=("h:2",))
    assert worker.compositions == 0, "where others are it finds out as it runs"
    await worker.membership.change(A, addresses=())
    assert worker.compositions == 1, "nobody is left to call"
    await worker.membership.change(B, roles=("worker", "manager"))
    assert worker.compositions == 1, "its configuration knows no manager"
    await worker.membership.change(B, roles=())
    assert worker.compositions == 2


@simulated
async def test_certificates_are_renewed_at_half_life() -> None:
    founder, worker = pair()
    following = asyncio.create_task(worker.membership.follow(A, founder))
    told: list[Credentials] = []
    worker.membership.renewed = [told.append]
    began = CLOCK.wall()
    keeping = asyncio.create_task(worker.membership.run(lambda: None))
    await asyncio.sleep(8 * DAY)
    keeping.cancel()
    following.cancel()
    assert worker.papers.renewals == pytest.approx([began + 3.5 * DAY, began + 7 * DAY], abs=120)
    assert [each.chain_pem for each in told] == [f"at {when}" for when in worker.papers.renewals]
    assert worker.compositions == 0


@simulated
async def test_who_is_elsewhere_than_the_others_believe_tells_the_authority() -> None:
    second = Member(node=B, name="b", roles=("orchestrator",), addresses=("h:2",))
    founder = Node(A, "orchestrator", roster=roster_of(FOUNDER, second))
    node = Node(B, "orchestrator", roster=roster_of(FOUNDER, second))
    following = asyncio.create_task(node.membership.follow(A, founder))
    keeping = asyncio.create_task(node.membership.run(lambda: None))
    await asyncio.sleep(0.001)
    assert len(node.papers.renewals) == 1, "it does not wait"
    await asyncio.sleep(60)
    assert 1 < len(node.papers.renewals) < 60, "the authority goes on saying where it was"
    await node.membership.change(B, addresses=("h:1",))
    await asyncio.sleep(60)
    node.papers.renewals.clear()
    await asyncio.sleep(DAY)
    assert node.papers.renewals == []
    keeping.cancel()
    following.cancel()


@simulated
async def test_who_hears_from_nobody_asks_the_authority_whether_the_root_changed() -> None:
    founder, worker = pair()
    founder.membership.standing = None  # it answers nothing
    following = asyncio.create_task(worker.membership.follow(A, founder))
    began = CLOCK.wall()
    keeping = asyncio.create_task(worker.membership.run(lambda: None))
    await asyncio.sleep(1800)
    assert worker.papers.renewals == pytest.approx([began + LONELY], abs=1)
    founder.membership.standing = founder.papers.standing
    await asyncio.sleep(DAY)
    assert len(worker.papers.renewals) == 1, "it hears of everything again"
    for task in (keeping, following):
        task.cancel()


@simulated
async def test_a_renewal_that_fails_is_tried_again_soon() -> None:
    founder, worker = pair()
    following = asyncio.create_task(worker.membership.follow(A, founder))
    worker.papers.failures = [Unreachable("gone", fix="wait") for _ in range(3)]
    began = CLOCK.wall()
    keeping = asyncio.create_task(worker.membership.run(lambda: None))
    await asyncio.sleep(4 * DAY)
    keeping.cancel()
    following.cancel()
    (when,) = worker.papers.renewals
    assert began + 3.5 * DAY < when < began + 3.5 * DAY + 300


@simulated
async def test_a_certificate_that_is_old_when_it_comes_is_not_asked_for_without_a_pause() -> None:
    founder, _ = pair()
    founder.papers.stand(founder.papers.require().roster, issued=0.0, expires=1.0)
    founder.membership.standing = founder.papers.standing
    founder.papers.life = 0.0
    keeping = asyncio.create_task(founder.membership.run(lambda: None))
    await asyncio.sleep(60)
    keeping.cancel()
    assert 2 < len(founder.papers.renewals) <= 60 / PAUSE + 1


@simulated
async def test_deeds_that_overlap_compose_anew_once() -> None:
    _, worker = pair()
    after = worker.papers.change(A, addresses=())
    overlapping = asyncio.create_task(worker.membership.refresh())
    await asyncio.sleep(0)
    worker.membership.standing = after  # another deed got there first
    await overlapping
    assert worker.compositions == 0, "whoever did that has composed it anew"


@simulated
async def test_founding_and_joining_compose_anew() -> None:
    host = Node(A, "gateway", "orchestrator")
    assert host.membership.roles == ("gateway", "orchestrator")
    assert (await host.membership.found("home")).founder
    assert host.compositions == 1
    other = Node(B, "gateway", "worker")
    await other.membership.join(TOKEN)
    assert other.membership.roles == ("worker",)
    assert other.compositions == 1


@simulated
async def test_who_leaves_tells_the_authority() -> None:
    founder, worker = pair()
    await worker.membership.leave(founder, force=False)
    assert worker.papers.left
    assert worker.membership.standing is None
    assert founder.membership.roles_of(B) is None
    assert founder.membership.standing is not None
    assert [each.node for each in founder.membership.standing.roster.members] == [A]
    with pytest.raises(NotInNetwork):
        await worker.membership.leave(founder, force=False)


@simulated
async def test_who_cannot_tell_leaves_by_force_only() -> None:
    _, worker = pair()
    with pytest.raises(NotInNetwork, match="not known") as caught:
        await worker.membership.leave(None, force=False)
    assert "--force" in caught.value.fix
    assert not worker.papers.left
    await worker.membership.leave(None, force=True)
    assert worker.papers.left


@simulated
async def test_who_was_sent_away_leaves_without_telling() -> None:
    founder, worker = pair()
    await founder.membership.change(B, revoked=1.0)
    assert founder.membership.standing is not None
    await worker.membership._take(worker.papers.accept, founder.membership.standing.signed, {})
    await worker.membership.leave(None, force=False)
    assert worker.papers.left


@simulated
async def test_the_founder_of_others_leaves_by_force_only() -> None:
    founder, _ = pair()
    with pytest.raises(Conflict, match="authority"):
        await founder.membership.leave(None, force=False)
    await founder.membership.leave(None, force=True)
    assert founder.papers.left


@simulated
async def test_nobody_resigns_for_another() -> None:
    founder, _ = pair()
    with pytest.raises(NotInNetwork):
        await founder.membership.routes()[Resign](Resign(), Context(CLOCK.monotonic() + 1))
    assert founder.membership.roles_of(B) == ("worker",)


@simulated
async def test_outside_a_network_nobody_is_anybody() -> None:
    host = Node(A, "worker")
    assert host.membership.roles_of(B) is None
    with pytest.raises(NotInNetwork):
        await host.watch(-1)
