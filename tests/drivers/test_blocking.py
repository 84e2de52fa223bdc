"""Callers of threads that follow a node of another host to where it is now; the rest of them is in test_rpc."""

import asyncio
from pathlib import Path

import pytest
from certificates import Network
from doorway import Doorway

from tetherd.drivers import nng
from tetherd.drivers.blocking import BlockingCaller
from tetherd.drivers.clock import SystemClock
from tetherd.drivers.door import Door
from tetherd.errors import BadConfig, Unreachable
from tetherd.types import Digest
from tetherd.wire.messages import GetBlob, WatchCatalog

REQUEST = GetBlob(Digest("sha256:0"), 0, 10)


async def test_it_follows_a_node_to_another_address(tmp_path: Path) -> None:
    for place in ("1", "2"):
        (tmp_path / place).mkdir()
    first, second = Doorway(tmp_path / "1"), Doorway(tmp_path / "2")
    worker = first.member("worker")
    second.roster.update(first.roster)
    second.door = Door((second.address,), first.credentials, second.admission, SystemClock())
    secret = nng.Secret(worker, first.credentials.node)
    caller = BlockingCaller(first.address, max_message=1 << 20, secret=lambda: secret)
    call = caller.lane()
    async with second.open(), first.open():
        assert (await asyncio.to_thread(call, REQUEST, 5.0)).size == 10
        caller.move(second.address)
        assert (await asyncio.to_thread(call, REQUEST, 5.0)).size == 10
        assert (len(first.contexts), len(second.contexts)) == (1, 1)
        with pytest.raises(BadConfig):
            caller.move("nonsense")
        caller.move(second.address)
        assert (await asyncio.to_thread(call, REQUEST, 5.0)).size == 10
    caller.close()
    caller.move(first.address)  # closed is closed
    assert caller.address == second.address


async def test_after_a_loss_it_shows_the_certificate_of_now_at_once(tmp_path: Path) -> None:
    for place in ("1", "2"):
        (tmp_path / place).mkdir()
    first, second, later = Doorway(tmp_path / "1"), Doorway(tmp_path / "2"), Network()
    me, there = first.member("gateway"), first.credentials
    second.credentials, second.address = later.node(key=there.key_pem), first.address
    second.door = Door((second.address,), second.credentials, second.admission, SystemClock())
    second.roster.update(first.roster)
    shown = [nng.Secret(me, there.node)]
    caller = BlockingCaller(first.address, max_message=1 << 20, secret=lambda: shown[-1])
    async with first.open():
        parked = asyncio.create_task(asyncio.to_thread(caller.lane(), WatchCatalog(), 30.0))
        await asyncio.wait_for(first.parked.acquire(), 10)
        await asyncio.sleep(0.5)  # a connection that ends sooner was made with what is shown now
        shown.append(nng.Secret(later.node(key=me.key_pem), there.node))
    async with second.open():
        await asyncio.wait_for(second.parked.acquire(), 2.5)
        caller.close()
        with pytest.raises(Unreachable):
            await parked
