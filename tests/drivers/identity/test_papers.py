"""A host's membership on its disk: what is kept, what can be repeated, and what is never taken backwards."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tetherd.drivers.host import durable
from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.identity import keys
from tetherd.drivers.identity.enrolment import EnrolmentServer
from tetherd.drivers.identity.papers import DiskPapers
from tetherd.errors import BadRoster, Conflict, Forbidden, InUse, NodeNotFound, NotInNetwork, Revoked, Unreachable
from tetherd.policy.membership import Standing
from tetherd.types import RoleName
from tetherd.wire.enrolment import Admission

CLOCK = SystemClock()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def papers(folder: Path, name: str, port: int = 1, at: str = "127.0.0.1:7443") -> DiskPapers:
    return DiskPapers(folder / name, name, addresses=(at,) * 9, enrol=(f"127.0.0.1:{port}",), clock=CLOCK)


class Crash(BaseException):
    """The power is gone."""


def crash_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Have the power go after so many writes."""
    left = [step]
    real = durable.write

    def failing(path: Path, data: bytes) -> None:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        real(path, data)

    patch.setattr(durable, "write", failing)


class Founder:
    """A founder that lets hosts in."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.papers = papers(folder, "a", self.port)
        self.standing = self.papers.found("home", ("orchestrator", "manager"))

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        assert self.papers.authority is not None
        server = EnrolmentServer(
            f"127.0.0.1:{self.port}",
            self.papers.authority,
            self.standing.credentials,
            clock=CLOCK,
            admitted=lambda: None,
        )
        ready = asyncio.Event()
        task = asyncio.create_task(server.run(ready.set))
        await ready.wait()
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def join(self, host: DiskPapers, role: RoleName = "worker") -> Standing:
        token = self.papers.invite((role,), 60.0, "")
        async with self.open():
            standing = await asyncio.to_thread(host.join, token, lambda _: None)
        self.papers.publish()
        return standing


@pytest.fixture
def founder(tmp_path: Path):
    made = Founder(tmp_path)
    yield made
    made.papers.close()


async def test_a_network_is_founded_once_and_found_again(founder: Founder, tmp_path: Path) -> None:
    standing = founder.standing
    assert standing.founder
    assert standing.me is not None
    assert (standing.me.name, standing.me.roles) == ("a", ("orchestrator", "manager"))
    assert standing.roster.keys[0].epoch in standing.keys
    with pytest.raises(Conflict, match="home"):
        founder.papers.found("other", ("worker",))
    again = papers(tmp_path, "a").load()
    assert again is not None
    assert (again.node, again.network, again.keys) == (standing.node, standing.network, standing.keys)


async def test_founding_that_a_crash_interrupted_is_done_again(founder: Founder, tmp_path: Path) -> None:
    (tmp_path / "a" / "identity" / keys.NETWORK).unlink()
    again = papers(tmp_path, "a")
    assert again.load() is None
    standing = again.found("home", ("orchestrator",))
    assert (standing.node, standing.network) == (founder.standing.node, founder.standing.network)
    again.close()


async def test_a_host_joins_renews_and_stays(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    assert host.load() is None
    joined = await founder.join(host)
    assert not joined.founder
    assert joined.network == founder.standing.network
    assert joined.keys == founder.standing.keys
    async with founder.open():
        renewed = await asyncio.to_thread(host.renew)
    assert renewed.credentials.chain_pem != joined.credentials.chain_pem
    assert renewed.credentials.key_pem == joined.credentials.key_pem
    loaded = papers(tmp_path, "b").load()
    assert loaded is not None
    assert loaded.credentials == renewed.credentials
    with pytest.raises(Conflict):
        host.join(founder.papers.invite(("worker",), 60.0, ""), lambda _: None)


async def test_a_host_that_cannot_do_what_it_is_let_in_for_keeps_nothing(founder: Founder, tmp_path: Path) -> None:
    def refuse(granted: tuple[RoleName, ...]) -> None:
        raise InUse(f"{granted}")

    token, host = founder.papers.invite(("manager",), 60.0, ""), papers(tmp_path, "b")
    async with founder.open():
        with pytest.raises(InUse, match="manager"):
            await asyncio.to_thread(host.join, token, refuse)
        assert host.load() is None
        assert papers(tmp_path, "b").load() is None
        standing = await asyncio.to_thread(host.join, token, lambda _: None)
    assert standing.me is not None
    assert standing.me.roles == ("manager",)


async def test_joining_that_a_crash_interrupted_is_repeated_with_the_same_token(
    founder: Founder, tmp_path: Path
) -> None:
    token = founder.papers.invite(("worker",), 60.0, "")
    async with founder.open():
        first = await asyncio.to_thread(papers(tmp_path, "b").join, token, lambda _: None)
        (tmp_path / "b" / "identity" / keys.NETWORK).unlink()
        (tmp_path / "b" / "identity" / keys.CERTIFICATE).unlink()
        second = await asyncio.to_thread(papers(tmp_path, "b").join, token, lambda _: None)
    assert second.node == first.node
    assert second.roster.epoch == first.roster.epoch


async def test_rosters_are_taken_forwards_only(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    joined = await founder.join(host)
    early = joined.signed
    late = founder.papers.change(joined.node, labels={"rack": "7"}).signed
    assert host.accept(late, {}).roster.epoch > joined.roster.epoch
    taken = host.accept(early, {})
    assert taken.me is not None
    assert taken.me.labels == {"rack": "7"}
    kept = papers(tmp_path, "b").load()
    assert kept is not None
    assert kept.me == taken.me
    with pytest.raises(BadRoster):
        host.accept(type(late)(late.body, b"\0" * 70, late.signer), {})


async def test_keys_that_the_roster_does_not_name_are_not_kept(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    joined = await founder.join(host)
    late = founder.papers.change(joined.node, labels={"rack": "7"}).signed
    assert host.accept(late, {1: b"forged", 9: b"other"}).keys == joined.keys
    kept = papers(tmp_path, "b").load()
    assert kept is not None
    assert kept.keys == joined.keys


async def test_the_next_key_comes_with_the_roster_that_names_it(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    joined = await founder.join(host)
    news = founder.papers.rekey([], force=False)
    assert news.keys.keys() == {1, 2}
    for keys_kept_back in ({}, {1: news.keys[1]}, {2: b"forged"}):
        with pytest.raises(BadRoster, match="key"):
            host.accept(news.signed, keys_kept_back)
    assert host.accept(news.signed, news.keys).keys == news.keys
    last = founder.papers.retire()
    assert host.accept(last.signed, {}).keys == {2: news.keys[2]}
    assert joined.roster.keys[0].digest not in {each.digest for each in last.roster.keys}


async def test_another_key_waits_for_those_that_may_not_have_the_last(founder: Founder) -> None:
    founder.papers.rekey(["b"], force=False)
    with pytest.raises(Conflict, match="b") as caught:
        founder.papers.rekey(["b"], force=False)
    assert "--force" in caught.value.fix
    assert founder.papers.rekey(["b"], force=True).keys.keys() == {2, 3}


def check_keys(restarted: DiskPapers, news: Standing) -> None:
    """Assert that a host has the keys of a list as soon as it has the list: nobody says them again."""
    standing = restarted.load()
    assert standing is not None
    if standing.roster.epoch == news.roster.epoch:
        assert standing.keys == news.keys
    assert restarted.accept(news.signed, news.keys).keys == news.keys


@pytest.mark.parametrize("step", [0, 1, 2])
async def test_a_key_is_not_lost_by_a_crash_while_it_is_taken_over(
    founder: Founder, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = papers(tmp_path, "b")
    await founder.join(host)
    founder.papers.rekey([], force=False)
    news = founder.papers.retire()

    with monkeypatch.context() as patch:
        crash_at(step, patch)
        with pytest.raises(Crash):
            host.accept(news.signed, news.keys)
    check_keys(papers(tmp_path, "b"), news)


@pytest.mark.parametrize("step", range(5))
async def test_a_key_is_not_lost_by_a_crash_while_a_renewal_brings_it(
    founder: Founder, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = papers(tmp_path, "b")
    await founder.join(host)
    founder.papers.rekey([], force=False)
    news = founder.papers.retire()
    async with founder.open():
        with monkeypatch.context() as patch:
            crash_at(step, patch)
            with contextlib.suppress(Crash):
                await asyncio.to_thread(host.renew)
    check_keys(papers(tmp_path, "b"), news)


@pytest.mark.parametrize("step", range(3))
async def test_a_root_is_not_lost_by_a_crash_while_it_is_announced(
    founder: Founder, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = papers(tmp_path, "b")
    await founder.join(host)
    announced = founder.papers.rotate([], force=True)
    with monkeypatch.context() as patch:
        crash_at(step, patch)
        with contextlib.suppress(Crash):
            host.accept(announced.signed, announced.keys)
    standing = papers(tmp_path, "b").load()
    assert standing is not None
    if standing.roster.epoch == announced.roster.epoch:
        assert standing.credentials.roots_pem == "".join(announced.roster.roots)


async def test_who_is_sent_away_while_it_renews_learns_that_at_once(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    joined = await founder.join(host)
    authority = founder.papers.authority
    assert authority is not None
    real, heard = authority.renew, []

    def slow(*asked: Any) -> Admission:
        admission = real(*asked)
        news = founder.papers.change(joined.node, revoked=CLOCK.wall())
        heard.append(host.accept(news.signed, {}))  # while the host waits for this answer
        return admission

    authority.renew = slow  # type: ignore[method-assign]
    async with founder.open():
        standing = await asyncio.to_thread(host.renew)
    assert standing.me is None, "what came is older than what is held"
    assert standing.roster == heard[0].roster
    assert standing.credentials.chain_pem != joined.credentials.chain_pem
    kept = papers(tmp_path, "b").load()
    assert kept is not None
    assert (kept.roster, kept.credentials) == (standing.roster, standing.credentials)


async def test_who_has_come_to_be_somebody_else_while_it_renews_stays_that(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    await founder.join(host)
    authority = founder.papers.authority
    assert authority is not None
    real, founded = authority.renew, []

    def slow(*asked: Any) -> Admission:
        admission = real(*asked)
        host.leave()
        founded.append(host.found("other", ("worker",)))  # while it waits for this answer
        return admission

    authority.renew = slow  # type: ignore[method-assign]
    async with founder.open():
        standing = await asyncio.to_thread(host.renew)
    assert standing == founded[0]
    kept = papers(tmp_path, "b").load()
    assert kept is not None
    assert (kept.network, kept.credentials) == (standing.network, standing.credentials)
    host.close()


async def test_while_nobody_answers_a_host_that_joins_the_rest_goes_on(founder: Founder, tmp_path: Path) -> None:
    host, token = papers(tmp_path, "b"), founder.papers.invite(("worker",), 60.0, "")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        token = msgspec.structs.replace(token, addresses=(address,))
        asking = asyncio.create_task(asyncio.to_thread(host.join, token, lambda _: None))
        waiting, _ = await asyncio.to_thread(silent.accept)
        with waiting:
            async with asyncio.timeout(5):
                assert await asyncio.to_thread(host.load) is None
                await asyncio.to_thread(host.leave)
            assert not asking.done()
    with pytest.raises(Unreachable):
        await asking


async def test_who_founds_a_network_while_it_joins_another_stays_in_its_own(founder: Founder, tmp_path: Path) -> None:
    host, token = papers(tmp_path, "b"), founder.papers.invite(("worker",), 60.0, "")
    authority = founder.papers.authority
    assert authority is not None
    real, founded = authority.join, []

    def slow(*asked: Any) -> Admission:
        admission = real(*asked)
        founded.append(host.found("other", ("worker",)))  # while it waits for this answer
        return admission

    authority.join = slow  # type: ignore[method-assign]
    async with founder.open():
        with pytest.raises(Conflict, match="other"):
            await asyncio.to_thread(host.join, token, lambda _: None)
    assert host.load() == founded[0]
    host.close()


async def test_a_revoked_node_knows_and_cannot_renew(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    joined = await founder.join(host)
    news = founder.papers.change(joined.node, revoked=CLOCK.wall())
    sent_away = host.accept(news.signed, {})
    assert (sent_away.me, sent_away.keys) == (None, joined.keys), "and it does not get the key that is used from now on"
    async with founder.open():
        with pytest.raises(Revoked):
            await asyncio.to_thread(host.renew)
    founder.papers.forget(joined.node)
    async with founder.open():
        with pytest.raises(NodeNotFound):
            await asyncio.to_thread(host.renew)


@pytest.mark.parametrize("step", range(6))
async def test_a_host_that_was_away_while_the_root_changed_comes_back(
    founder: Founder, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await founder.join(papers(tmp_path, "b"))
    for _ in range(3):
        founder.papers.rotate(["b"], force=True)
    founder.standing = founder.papers.renew()

    host = papers(tmp_path, "b")
    host.load()
    async with founder.open():
        with monkeypatch.context() as patch:
            crash_at(step, patch)
            with contextlib.suppress(Crash):
                await asyncio.to_thread(host.renew)
        again = papers(tmp_path, "b")
        assert again.load() is not None
        renewed = await asyncio.to_thread(again.renew)
    assert renewed.roster.roots == founder.standing.roster.roots
    assert not renewed.outdated


async def test_whom_to_trust_is_not_asked_of_a_directory_that_others_can_write_to(
    founder: Founder, tmp_path: Path
) -> None:
    await founder.join(papers(tmp_path, "b"))
    folder = tmp_path / "b" / "identity"
    folder.chmod(0o770)
    with pytest.raises(Forbidden, match="put files into"):
        papers(tmp_path, "b").load()
    folder.chmod(0o750)
    assert papers(tmp_path, "b").load() is not None


async def test_leaving_leaves_nothing(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    joined = await founder.join(host)
    host.leave()
    assert host.load() is None
    assert (await founder.join(host)).node != joined.node
    founder.papers.leave()
    assert founder.papers.load() is None
    assert not [path for path in (tmp_path / "a").rglob("*") if path.is_file()]


async def test_what_needs_a_network_or_its_authority_says_so(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    for deed in (host.renew, host.publish, lambda: host.invite(("worker",), 60.0, "")):
        with pytest.raises(NotInNetwork) as caught:
            deed()
        assert caught.value.fix
    await founder.join(host)
    with pytest.raises(NotInNetwork, match="authority"):
        host.change(founder.standing.node, labels={})
    with pytest.raises(Unreachable):
        await asyncio.to_thread(host.renew)


@pytest.mark.parametrize("role", ["worker", "relay"])
async def test_where_a_member_is_now_reaches_the_authority(founder: Founder, tmp_path: Path, role: RoleName) -> None:
    joined = await founder.join(papers(tmp_path, "b"), role)
    assert not joined.moved
    again = papers(tmp_path, "b", at="127.0.0.1:9")
    standing = again.load()
    assert standing is not None
    assert standing.moved == (role == "relay"), "nobody dials a worker"
    async with founder.open():
        told = await asyncio.to_thread(again.renew)
    assert not told.moved
    member = founder.papers.publish().roster.member(joined.node)
    assert member is not None
    assert set(member.addresses) == ({"127.0.0.1:9"} if role == "relay" else set())


async def test_where_the_founder_is_now_reaches_its_members(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    joined = await founder.join(host)
    founder.papers.close()
    moved = papers(tmp_path, "a", port=9)
    standing = moved.load()
    assert standing is not None
    assert standing.roster.enrol == ("127.0.0.1:9",)
    assert standing.roster.epoch > joined.roster.epoch
    assert host.accept(standing.signed, {}).roster.enrol == ("127.0.0.1:9",)
    again = moved.load()
    assert again is not None
    assert again.roster.epoch == standing.roster.epoch
    moved.close()


OUTSIDE, ENROL = "11.0.0.1:17443", "11.0.0.1:17444"


async def test_where_a_router_leads_to_the_founder_is_in_the_roster_and_in_tokens(founder: Founder) -> None:
    before = founder.papers.invite(("worker",), 60.0, "").addresses
    standing = founder.papers.reach(OUTSIDE, ENROL)
    assert standing.me is not None
    assert standing.me.addresses[-1] == OUTSIDE
    assert standing.roster.enrol == founder.papers.invite(("worker",), 60.0, "").addresses == (*before, ENROL)
    assert not standing.moved
    again = founder.papers.reach("", "")
    assert again.me is not None
    assert OUTSIDE not in again.me.addresses
    assert again.roster.enrol == before


async def test_where_a_router_leads_to_a_member_reaches_the_authority(founder: Founder, tmp_path: Path) -> None:
    host = papers(tmp_path, "b")
    await founder.join(host, "orchestrator")
    standing = host.reach(OUTSIDE, "")
    assert standing.moved
    assert standing.here[-1] == OUTSIDE
    async with founder.open():
        told = await asyncio.to_thread(host.renew)
    assert not told.moved
    assert founder.papers.publish().roster.member(standing.node) == told.me
    assert host.reach("", "").moved
