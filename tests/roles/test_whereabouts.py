import asyncio
from collections.abc import Callable
from contextlib import suppress

from tetherd.discovery.hints import Drop, Hint, Source
from tetherd.errors import Unavailable
from tetherd.roles.whereabouts import AT_ONCE, MOST, TICK, Whereabouts
from tetherd.testing.time import LoopClock, simulated
from tetherd.wire.endpoint import NAME, Endpoint, decode, encode
from tetherd.wire.records import MUTABLE, Body, Record

A, B = "a" * 64, "b" * 64
MINE = Endpoint(("10.0.0.7:7443",), {"bulk": 7445})


class Directory:
    """Implements ports.Directory. ``refusals``: how many puts fail before one succeeds."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[bytes, float]] = {}
        self.told: list[bytes] = []
        self.asked: list[str] = []
        self.refusals = 0
        self.silent = False
        self.busy = self.busiest = 0

    async def put(self, name: bytes, value: bytes) -> int:
        assert name == NAME
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("nobody is there")
        self.told.append(value)
        return 1

    async def get(self, node: str, name: bytes) -> Record | None:
        self.asked.append(node)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        await asyncio.sleep(0.01)
        self.busy -= 1
        if self.silent:
            raise Unavailable("nobody is there")
        if node not in self.kept:
            return None
        value, until = self.kept[node]
        body = Body(MUTABLE, name, b"", 1, int(until) - 600, 600, value)
        return Record(body, b"", bytes.fromhex(node), b"")


class Ears:
    """Implements ports.Ears."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []
        self.drops: list[Drop] = []

    def hear(self, hint: Hint) -> None:
        self.hints.append(hint)

    def vanish(self, source: Source, origin: str, node: str) -> None:
        raise AssertionError("records expire, nobody takes them back here")

    def drop(self, drop: Drop) -> None:
        self.drops.append(drop)


class World:
    def __init__(self, mine: Endpoint | None = MINE, wanted: tuple[str, ...] = (A, B)) -> None:
        self.directory, self.ears, self.mine = Directory(), Ears(), mine
        self.wanted = wanted
        self.role = Whereabouts(
            self.directory,
            self.ears,
            LoopClock(),
            mine=lambda: self.mine,
            wanted=lambda: self.wanted,
            chance=lambda: 0.5,
        )

    async def running(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.role.run(lambda: None)


@simulated
async def test_it_tells_where_this_node_is_once_somebody_listens() -> None:
    world = World()
    world.directory.refusals = 3
    await world.running(100)
    assert [decode(value) for value in world.directory.told] == [MINE]


@simulated
async def test_a_node_that_cannot_be_dialled_tells_nothing() -> None:
    world = World(mine=None)
    await world.running(100)
    assert world.directory.told == []


@simulated
async def test_it_tells_again_when_this_node_moves_also_while_nobody_listens() -> None:
    world = World()
    there = Endpoint(("11.0.0.1:7443", *MINE.addresses), MINE.ports)

    async def move() -> None:
        await asyncio.sleep(10)
        world.directory.refusals = 5
        world.mine = Endpoint(("11.0.0.9:7443",))
        world.role.move()
        await asyncio.sleep(5)
        world.mine = there
        world.role.move()

    moving = asyncio.create_task(move())
    await world.running(100)
    await moving
    assert [decode(value) for value in world.directory.told] == [MINE, there]


@simulated
async def test_what_is_found_is_a_hint_for_as_long_as_the_record_holds() -> None:
    world = World()
    world.directory.kept[A] = (encode(Endpoint(("10.0.0.1:7443",), {"bulk": 7445})), LoopClock().wall() + 300)
    await world.running(0.5)
    (hint,) = world.ears.hints
    assert (hint.source, hint.node, hint.addresses, hint.ports) == ("dht", A, ("10.0.0.1:7443",), {"bulk": 7445})
    assert 290 < hint.ttl <= 300


@simulated
async def test_an_expired_record_is_no_hint_and_nonsense_has_a_reason() -> None:
    world = World()
    world.directory.kept[A] = (encode(MINE), LoopClock().wall() - 1)
    world.directory.kept[B] = (b"\xc1", LoopClock().wall() + 300)
    await world.running(0.5)
    assert world.ears.hints == []
    assert [(drop.reason, drop.node) for drop in world.ears.drops] == [("malformed", B)]


@simulated
async def test_it_asks_often_at_first_then_once_a_minute_and_survives_silence() -> None:
    world = World(wanted=(A,))
    world.directory.silent = True
    await world.running(60)
    assert len(world.directory.asked) == 6
    await world.running(60 * 10)
    assert 6 + 9 <= len(world.directory.asked) <= 6 + 11


async def later(seconds: float, deed: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    deed()


@simulated
async def test_when_there_is_news_it_tells_and_asks_often_again() -> None:
    world = World(wanted=(A,))
    world.directory.silent, world.directory.refusals = True, 1000
    loop = asyncio.get_running_loop()

    def hear() -> None:
        asked, world.directory.refusals = len(world.directory.asked), 0
        world.role.hurry()
        loop.call_later(TICK, lambda: ends.append((len(world.directory.asked) - asked, len(world.directory.told))))

    ends: list[tuple[int, int]] = []
    hearing = asyncio.create_task(later(600, hear))
    await world.running(610)
    await hearing
    assert ends == [(1, 1)]


@simulated
async def test_a_node_whose_connection_is_lost_is_asked_about_at_once() -> None:
    world = World(wanted=(A,))
    world.directory.silent = True
    losing = asyncio.create_task(later(600, lambda: setattr(world, "wanted", (A, B))))
    await world.running(600 + TICK)
    await losing
    assert B in world.directory.asked


@simulated
async def test_many_are_asked_a_few_at_once() -> None:
    world = World(wanted=tuple(f"{i:064x}" for i in range(MOST + 50)))
    await world.running(0.5)
    assert len(world.directory.asked) == MOST
    assert world.directory.busiest == AT_ONCE
