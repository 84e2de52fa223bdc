"""Members and their roles at the door to other hosts."""

import asyncio
import contextlib
import logging
import resource
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from certificates import Network, home
from doorway import Doorway, is_refused, is_well, open_files, soon

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.rpc import door, reaching, remote
from tetherd.drivers.rpc.blocking import BlockingCaller
from tetherd.drivers.rpc.door import Door
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.drivers.tcp import mutual
from tetherd.errors import BadConfig, Cancelled, InUse, PermissionDenied, TetherError, Unreachable
from tetherd.policy.admission import REJECTS
from tetherd.types import Credentials
from tetherd.wire.catalog import GetBlob, Remove, WatchCatalog
from tetherd.wire.messages import GetFleet, Report


@pytest.fixture
async def doorway(tmp_path: Path) -> AsyncIterator[Doorway]:
    async with Doorway(tmp_path).open() as made:
        yield made


async def test_a_member_is_heard_under_the_name_of_its_certificate(doorway: Doorway) -> None:
    worker = doorway.member("worker")
    with doorway.calling(worker) as caller:
        await caller.call(GetFleet(), deadline=soon())
    assert doorway.contexts[-1].node == worker.node


async def test_it_says_where_members_come_from(doorway: Doorway) -> None:
    worker, stranger = doorway.member("worker"), home().node()
    with doorway.calling(worker) as caller, doorway.calling(stranger):
        await caller.call(GetFleet(), deadline=soon())
        async with asyncio.timeout(10):
            while not doorway.door.arrivals():  # noqa: ASYNC110 - it is looked at every second
                await asyncio.sleep(0.01)
        ((node, host, port),) = doorway.door.arrivals()
        assert (node, host) == (worker.node, "127.0.0.1")
        assert port != doorway.port
    async with asyncio.timeout(10):
        while doorway.door.arrivals():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_connection_that_leads_nowhere_is_given_up_for_a_new_one(
    doorway: Doorway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PROOF", 0.2)
    heard: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(doorway.door, "begin", lambda turn, data, peer: heard.append(peer))
        with doorway.calling(doorway.member()) as caller:
            asked = asyncio.create_task(caller.call(GetFleet(), deadline=soon(30)))
            async with asyncio.timeout(20):
                while len(set(heard)) < 2:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
                patch.undo()
                await asked


async def test_the_same_host_needs_no_name(doorway: Doorway) -> None:
    caller = RemoteCaller(doorway.local, clock=SystemClock(), max_message=1 << 20)
    await caller.call(Remove("model"), deadline=soon())
    assert doorway.contexts[-1].node == ""
    caller.close()


async def test_a_method_is_for_the_roles_it_names(doorway: Doorway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    worker, gateway = doorway.member("worker"), doorway.member("gateway")
    with doorway.calling(worker) as caller:
        for _ in range(3):
            with pytest.raises(PermissionDenied, match="has worker"):
                await caller.call(Remove("model"), deadline=soon())
        await caller.call(GetFleet(), deadline=soon())  # and the connection is kept
    with doorway.calling(gateway) as caller:
        await caller.call(Remove("model"), deadline=soon())
        with pytest.raises(PermissionDenied):
            await caller.call(Report("w", "n", 1, 1, 1), deadline=soon())
    assert [record.message for record in caplog.records].count("refused a call") == 2  # once per node and method


async def test_a_change_of_roles_counts_from_the_next_call(doorway: Doorway) -> None:
    node = doorway.member("worker")
    with doorway.calling(node) as caller:
        await caller.call(Report("w", "n", 1, 1, 1), deadline=soon())
        doorway.roster[node.node] = ("gateway",)
        with pytest.raises(PermissionDenied):
            await caller.call(Report("w", "n", 1, 1, 1), deadline=soon())
        await caller.call(Remove("model"), deadline=soon())


async def test_a_node_that_is_no_member_is_told_so(doorway: Doorway) -> None:
    stranger = home().node()
    assert await is_refused(doorway, stranger)
    assert stranger.node not in doorway.heard
    assert await is_well(doorway)


async def test_a_node_that_becomes_a_member_is_heard_at_once(doorway: Doorway) -> None:
    node = home().node()
    with doorway.calling(node) as caller:
        with pytest.raises(PermissionDenied):
            await caller.call(GetFleet(), deadline=soon())
        doorway.roster[node.node] = ("worker",)
        await caller.call(GetFleet(), deadline=soon())


async def test_revocation_reaches_live_connections(doorway: Doorway) -> None:
    node, other = doorway.member("gateway"), doorway.member("gateway")
    with doorway.calling(node) as caller, doorway.calling(other) as kept:
        parked = asyncio.create_task(caller.call(WatchCatalog(0), deadline=soon(60)))
        staying = asyncio.create_task(kept.call(WatchCatalog(0), deadline=soon(60)))
        for _ in range(2):
            await doorway.parked.acquire()
        peer = next(context.peer for context in doorway.contexts if context.node == node.node)
        del doorway.roster[node.node]
        began = time.monotonic()
        with pytest.raises(PermissionDenied):
            await caller.call(GetFleet(), deadline=soon())  # not even in the meantime
        with pytest.raises((PermissionDenied, Unreachable, Cancelled)):
            await asyncio.wait_for(parked, 5)
        assert time.monotonic() - began < 5
        assert peer in doorway.lost
        assert not staying.done()
        staying.cancel()


async def test_the_watch_over_connections_goes_on_after_a_failure(
    doorway: Doorway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = doorway.member()
    with doorway.calling(node) as caller:
        await caller.call(GetFleet(), deadline=soon())
        with monkeypatch.context() as patch:
            patch.setattr(doorway.door, "_look", lambda _: 1 / 0)
            async with asyncio.timeout(10):
                while "it goes on" not in caplog.text:  # noqa: ASYNC110 - what is waited for sets no event
                    await asyncio.sleep(0.01)
        del doorway.roster[node.node]
        async with asyncio.timeout(10):
            while any(guest.node == node.node for guest in doorway.door._guests.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert "ZeroDivisionError" in caplog.text


async def test_who_comes_again_and_again_is_kept_waiting(doorway: Doorway) -> None:
    stranger = home().node()
    for _ in range(REJECTS):
        assert await is_refused(doorway, stranger)
    used: set[int] = set()
    with doorway.calling(stranger) as caller:
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            with pytest.raises(PermissionDenied):
                await caller.call(GetFleet(), deadline=soon())
            used |= {peer for peer, guest in doorway.door._guests.items() if guest.node == stranger.node}
            await asyncio.sleep(0.1)
    assert len(used) <= 2  # the one that lingers from before, and one for all that time
    assert await is_well(doorway)


async def test_a_node_has_as_many_connections_as_it_may_have_and_no_more(doorway: Doorway) -> None:
    doorway.door._most = 2
    member = doorway.member()
    with doorway.calling(member) as one, doorway.calling(member) as other:
        for caller in (one, other):
            await caller.call(GetFleet(), deadline=soon())
        assert one.connected
        with doorway.calling(member) as third, pytest.raises(Unreachable):
            await third.call(GetFleet(), deadline=soon(), patience=0.5)
        with doorway.calling(doorway.member()) as another:
            await another.call(GetFleet(), deadline=soon())


async def test_threads_call_from_another_host(doorway: Doorway) -> None:
    worker = doorway.member("worker")
    secret = reaching.Secret(worker, doorway.credentials.node)
    caller = BlockingCaller(doorway.address, max_message=1 << 20, secret=lambda: secret)
    call = caller.lane()
    assert (await asyncio.to_thread(call, GetBlob("x", 0, 1000), 5.0)).size == 1000  # type: ignore[arg-type]
    with pytest.raises(PermissionDenied):
        await asyncio.to_thread(call, Remove("model"), 5.0)
    caller.close()


async def test_who_means_another_node_does_not_reach_this_one(doorway: Doorway) -> None:
    with doorway.calling(doorway.member(), node=home().node().node) as caller, pytest.raises(Unreachable):
        await caller.call(GetFleet(), deadline=soon(0.5))
    assert not doorway.contexts


# --- what a daemon does not start with -------------------------------------------------------------------------------


async def fails_to_open(tmp_path: Path, credentials: Credentials) -> TetherError:
    doorway = Doorway(tmp_path)
    doorway.door = Door(doorway.address, credentials, doorway.admission, SystemClock())
    with pytest.raises(TetherError) as error:
        async with doorway.open():
            pass
    with pytest.raises(OSError, match="refused"):
        await asyncio.open_connection("127.0.0.1", doorway.port)
    return error.value


async def test_a_key_of_another_certificate_shows_at_once(tmp_path: Path) -> None:
    one, other = home().node(), home().node()
    mixed = Credentials(one.node, other.key_pem, one.chain_pem, one.roots_pem)
    assert isinstance(await fails_to_open(tmp_path, mixed), BadConfig)


async def test_an_expired_certificate_shows_at_once(tmp_path: Path) -> None:
    error = await fails_to_open(tmp_path, home().node(life=(-9, -1)))
    assert isinstance(error, BadConfig)
    assert "own certificate" in error.message


async def test_a_root_that_vouches_for_others_shows_at_once(tmp_path: Path) -> None:
    one = home().node()
    error = await fails_to_open(tmp_path, Credentials(one.node, one.key_pem, one.chain_pem, Network("other").root.pem))
    assert "own certificate" in error.message


@pytest.mark.parametrize("lax", [ssl.CERT_NONE, ssl.CERT_OPTIONAL])
async def test_a_listener_that_lets_strangers_in_is_never_used(
    tmp_path: Path, lax: ssl.VerifyMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A build of OpenSSL that did not do as told would be like this, and take anybody for a node.
    listening, node = mutual.listening, home().node()

    def laxly(credentials: Credentials) -> ssl.SSLContext:
        context = listening(credentials)
        context.verify_mode = lax
        return context

    monkeypatch.setattr(mutual, "listening", laxly)
    monkeypatch.setattr(mutual, "peer", lambda _: node.node)
    error = await fails_to_open(tmp_path, node)
    assert isinstance(error, BadConfig)
    assert "let anybody in" in error.message


async def test_what_this_process_may_open_is_not_for_a_door_to_say(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = open_files() + 500, limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, few)
    try:
        async with Doorway(tmp_path).open():
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == few
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_a_port_that_is_taken_shows_at_once(tmp_path: Path, doorway: Doorway) -> None:
    other = Doorway(tmp_path / "other")
    (tmp_path / "other").mkdir()
    other.door = Door(doorway.address, other.credentials, other.admission, SystemClock())
    with pytest.raises(InUse):
        async with other.open():
            pass


# --- certificates change ---------------------------------------------------------------------------------------------


async def test_a_new_certificate_is_shown_without_losing_what_may_be_repeated(
    doorway: Doorway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_SETTLED", 0.05)
    fresh = home().node(key=doorway.credentials.key_pem)
    assert fresh.node == doorway.credentials.node
    answered = asyncio.Semaphore(0)

    async def load(caller: RemoteCaller) -> None:
        while True:
            await caller.call(GetBlob("x", 0, 5000), deadline=soon(10))  # type: ignore[arg-type]
            answered.release()

    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(doorway.calling(doorway.member("gateway"))) for _ in range(4)]
        tasks = [asyncio.create_task(load(caller)) for caller in callers for _ in range(4)]
        for _ in range(4):
            for _ in range(300):
                await asyncio.wait_for(answered.acquire(), 5)
            async with asyncio.timeout(10):
                while len(doorway.door._guests) < len(callers):  # noqa: ASYNC110 - what is waited for sets no event
                    await asyncio.sleep(0.01)
                ended = len(doorway.lost)
                doorway.door.renew(fresh)
                while len(doorway.lost) < ended + len(callers):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        for _ in range(300):
            await asyncio.wait_for(answered.acquire(), 5)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(doorway.lost) > 4 * len(callers)


async def test_a_certificate_that_cannot_be_used_changes_nothing(doorway: Doorway) -> None:
    with doorway.calling(doorway.member()) as caller:
        await caller.call(GetFleet(), deadline=soon())
        with pytest.raises(BadConfig):
            doorway.door.renew(Credentials(doorway.credentials.node, "no key", "no chain", "no roots"))
        await caller.call(GetFleet(), deadline=soon())
    assert await is_well(doorway)


async def test_a_caller_shows_its_new_certificate_from_the_next_connection_on(
    doorway: Doorway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_SETTLED", 0.0)
    old = doorway.member("worker")
    fresh = doorway.member("worker")
    with doorway.calling(old) as caller:
        await caller.call(GetFleet(), deadline=soon())
        caller.renew(fresh)
        await caller.call(GetFleet(), deadline=soon())
        assert doorway.heard == {old.node}
        doorway.door.renew(doorway.credentials)
        await caller.call(GetFleet(), deadline=soon())
        await caller.call(GetFleet(), deadline=soon())
        assert doorway.contexts[-1].node == fresh.node


# --- why there is no connection --------------------------------------------------------------------------------------


async def test_a_caller_finds_out_why_it_gets_no_connection(doorway: Doorway, caplog: pytest.LogCaptureFixture) -> None:
    meant = home().node().node
    secret = reaching.Secret(doorway.member(), meant)
    caller = RemoteCaller(doorway.address, clock=SystemClock(), max_message=1 << 20, redial=0.05, secret=secret)
    with pytest.raises(Unreachable, match=f"node {doorway.credentials.node} is there, not the one that is meant"):
        await caller.call(GetFleet(), deadline=soon(1.0))
    assert "cannot reach a node" in caplog.text
    caller.close()
