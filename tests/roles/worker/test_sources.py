"""Where a worker has its runners fetch from, and how much time that gives them."""

import asyncio
from typing import Any

import pytest

from tetherd.config.schema import Worker as Settings
from tetherd.errors import ModelLoadFailed, Unreachable
from tetherd.roles.worker import Place, Worker
from tetherd.testing import Cluster, FakeSurroundings, simulated
from tetherd.types import Digest
from tetherd.wire.assignments import Event
from tetherd.wire.chunks import BlobSource
from tetherd.wire.messages import Load
from tetherd.wire.replication import GetHoldings, HolderState, Holdings

VERSION = Digest("sha256:" + "0" * 64)
LOAD = Load("m", 1, VERSION)


class Manager:
    """Says who holds the version, or does not answer."""

    def __init__(self, *holders: HolderState) -> None:
        self.holders = list(holders)
        self.away = False

    async def call(self, request: Any, *, deadline: float, request_id: str = "") -> Any:
        assert request == GetHoldings((VERSION,))
        if self.away:
            raise Unreachable("the manager does not answer")
        return Holdings(3, self.holders)


class Clock:
    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0


def holder(node: str, *, alive: bool = True, held: bool = True) -> HolderState:
    return HolderState(node, node, f"{node}:7445", alive, False, [VERSION] if held else [])


def worker(manager: Manager, node_id: str = "me") -> Worker:
    place = Place(worker="w", node="w", cache_dir="", max_message=1, identity="i", node_id=node_id)
    settings = Settings(memory_limit=1, max_concurrency=1, spare=False)
    return Worker(
        place=place, settings=settings, surroundings=FakeSurroundings({}), manager=manager, launchers={}, clock=Clock()
    )


async def test_those_who_hold_it_and_are_there_are_its_sources() -> None:
    manager = Manager(holder("a"), holder("b", alive=False), holder("c", held=False), holder("d"))
    found = await worker(manager)._sources(LOAD)
    assert found == (BlobSource("a", "a:7445"), BlobSource("d", "d:7445"))


async def test_what_this_host_holds_comes_from_here() -> None:
    assert await worker(Manager(holder("a"), holder("me")))._sources(LOAD) == ()


async def test_while_nobody_can_tell_the_last_answer_counts() -> None:
    manager = Manager(holder("a"))
    one = worker(manager)
    found = await one._sources(LOAD)
    one._groups[VERSION] = object()  # type: ignore[assignment]  # it is loaded
    found = await one._sources(LOAD)
    manager.away = True
    assert await one._sources(LOAD) == found == (BlobSource("a", "a:7445"),)


async def test_in_no_network_nobody_is_asked() -> None:
    manager = Manager()
    manager.away = True
    assert await worker(manager, node_id="")._sources(LOAD) == ()


@simulated
async def test_a_load_may_take_longer_while_its_files_arrive() -> None:
    settings = Settings(memory_limit=1000, max_concurrency=64, spare=False, load_timeout=5.0)
    async with Cluster(settings=settings) as cluster:
        cluster.launchers[0].fates.append("hang")
        began = cluster.clock.monotonic()
        asked = asyncio.create_task(cluster.infer(1))
        for _ in range(3):
            await asyncio.sleep(4)
            cluster.runners()[0].tell(Event("fetching"))
        with pytest.raises(ModelLoadFailed, match="loading took longer than 5 s"):
            await asked
        assert 16.9 < cluster.clock.monotonic() - began < 18
