"""Which relays a node uses, as the roster changes: where it waits, and the doors it opens to others."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest

from tetherd.config.schema import Relay as Settings
from tetherd.daemon.relays import Relays, local, relay
from tetherd.drivers.host.clock import SystemClock
from tetherd.policy.membership import Standing
from tetherd.roles.membership import Membership
from tetherd.types import Credentials, RoleName, Seconds
from tetherd.wire.relay import AwaitRelay, OpenRelay, Summoned
from tetherd.wire.roster import Member, Roster, SignedRoster

ME, FIRST, SECOND, TARGET = "a" * 64, "1" * 64, "2" * 64, "7" * 64


def member(node: str, name: str, *roles: RoleName, at: str = "") -> Member:
    return Member(node=node, name=name, roles=roles, addresses=(at,) if at else ())


class Club:
    """Stands for the membership: the test says who belongs to it."""

    def __init__(self, *members: Member) -> None:
        self.standing: Standing | None = None
        self._changed = asyncio.Event()
        self.set(*members)

    def set(self, *members: Member) -> None:
        roster = Roster(network="0" * 16, name="home", epoch=1, issued=0.0, members=members, roots=())
        self.standing = Standing(
            network="0" * 16,
            node=ME,
            roster=roster,
            signed=SignedRoster(b"", b"", b""),
            credentials=Credentials(ME, "", "", ""),
            issued=0.0,
            expires=1.0,
        )
        self._changed.set()
        self._changed = asyncio.Event()

    def roles_of(self, node: str) -> tuple[RoleName, ...] | None:
        assert self.standing
        found = self.standing.roster.member(node)
        return found.roles if found else None

    async def changes(self) -> None:
        await self._changed.wait()


class Asked:
    """Stands for every relay: answers the first question at once, the others never, and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.news = asyncio.Semaphore(0)

    def reach(self, node: str, address: str) -> "Asked.Caller":
        return Asked.Caller(self, node, address)

    class Caller:
        """Implements ports.Caller."""

        def __init__(self, asked: "Asked", node: str, address: str) -> None:
            self._asked = asked
            self._place = node, address

        async def call(self, request: Any, *, deadline: Seconds, request_id: str = "") -> Any:
            self._asked.requests.append((*self._place, request))
            self._asked.news.release()
            if isinstance(request, AwaitRelay) and request.first:
                return Summoned(7446, [])
            return await asyncio.get_running_loop().create_future()


@contextlib.asynccontextmanager
async def relays(club: Club, asked: Asked, services: Any) -> AsyncIterator[Relays]:
    made = Relays(cast("Membership", club), reach=asked.reach, services=services, clock=SystemClock())
    task = asyncio.create_task(made.run(lambda: None))
    try:
        yield made
    finally:
        made.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


SERVES = {"rpc": ("127.0.0.1", 7443)}
WE = member(ME, "me", "orchestrator", at="10.0.0.9:7443")
ONE = member(FIRST, "one", "relay", at="relay.example:7443")
THEY = member(TARGET, "target", "manager", at="10.1.0.1:7443")
TWO = member(SECOND, "two", "relay", at="[::1]:7443")


async def test_a_node_that_serves_waits_at_every_relay_as_they_come_and_go() -> None:
    club, asked = Club(WE, ONE), Asked()
    async with asyncio.timeout(5.0), relays(club, asked, SERVES) as here:
        for _ in range(2):
            await asked.news.acquire()
        assert [(node, address) for node, address, _ in asked.requests] == [(FIRST, "relay.example:7443")] * 2
        assert here.reachable == [FIRST]
        club.set(WE, TWO)
        for _ in range(2):
            await asked.news.acquire()
        assert asked.requests[-1][:2] == (SECOND, "[::1]:7443")
        assert here.reachable == [SECOND]


async def test_what_a_relay_led_here_bears_its_name() -> None:
    club, asked = Club(WE, ONE), Asked()
    async with asyncio.timeout(5.0), relays(club, asked, SERVES) as here:
        await asked.news.acquire()
        (waiting,) = here._waiting.values()
        waiting.carried.add(("127.0.0.1", 50001))
        assert here.carried() == {("127.0.0.1", 50001): "one"}


async def test_a_node_that_serves_nothing_waits_nowhere() -> None:
    asked = Asked()
    async with relays(Club(WE, ONE), asked, {}) as here:
        await asyncio.sleep(0.05)
        assert asked.requests == []
        assert here.reachable == []


async def test_the_way_to_a_node_is_one_door_that_asks_the_relays() -> None:
    club, asked = Club(WE, ONE, TWO, THEY), Asked()
    async with asyncio.timeout(5.0), relays(club, asked, {}) as here:
        (way,) = here.ways(TARGET)
        assert (way.name, way.address) == ("one", here.ways(TARGET)[0].address)
        assert here.ways(TARGET, "bulk")[0].address != way.address
        host, _, port = way.address.partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        await asked.news.acquire()
        assert asked.requests == [(FIRST, "relay.example:7443", OpenRelay(TARGET, "rpc"))]
        writer.close()
        await writer.wait_closed()


async def test_the_door_to_a_node_is_closed_when_it_is_no_member_any_more() -> None:
    club, asked = Club(WE, ONE, THEY), Asked()
    async with asyncio.timeout(5.0), relays(club, asked, {}) as here:
        (way,) = here.ways(TARGET)
        host, _, port = way.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await asked.news.acquire()
        club.set(WE, ONE, msgspec.structs.replace(THEY, revoked=1.0))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(host, int(port))
        assert here.ways(TARGET) == (), "nor is there another"


async def test_without_a_relay_there_is_no_way() -> None:
    async with relays(Club(WE, member(TARGET, "target", "manager")), Asked(), {}) as here:
        assert here.ways(TARGET) == ()
    async with relays(Club(WE, ONE), Asked(), {}) as here:
        assert here.ways(FIRST) == (), "a relay is not reached through itself"


async def test_while_no_file_is_left_there_is_no_way_either() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with relays(Club(WE, ONE, THEY), Asked(), {}) as here:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            assert here.ways(TARGET) == ()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(here.ways(TARGET)) == 1


@pytest.mark.parametrize(
    ("listen", "found"),
    [
        ("0.0.0.0:7443", ("127.0.0.1", 7443)),
        ("[::]:7443", ("127.0.0.1", 7443)),
        ("10.0.0.9:7443", ("10.0.0.9", 7443)),
    ],
)
def test_where_this_host_reaches_its_own_listeners(listen: str, found: tuple[str, int]) -> None:
    assert local(listen) == found


async def test_the_role_is_made_as_configured() -> None:
    settings = msgspec.structs.replace(Settings(), listen="127.0.0.1:7446", sessions=3)
    made = relay(settings, cast("Membership", Club(WE, ONE)), SystemClock())
    assert set(made.routes()) == {AwaitRelay, OpenRelay}


async def test_waiting_can_begin_anew() -> None:
    club, asked = Club(WE, ONE), Asked()
    async with asyncio.timeout(5.0), relays(club, asked, SERVES) as here:
        for _ in range(2):
            await asked.news.acquire()
    club.set(WE, TWO)
    again = asyncio.create_task(here.run(lambda: None))
    async with asyncio.timeout(5.0):
        for _ in range(2):
            await asked.news.acquire()
    assert here.reachable == [SECOND], "what the first time left is gone"
    again.cancel()
    await asyncio.wait([again])
