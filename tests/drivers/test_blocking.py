"""Callers of threads that follow a node of another host to where it is now; the rest of them is in test_rpc."""

import asyncio
from pathlib import Path

import pytest
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


async def test_a_loss_is_followed_by_an_attempt_with_the_certificates_of_now(tmp_path: Path) -> None:
    doorway = Doorway(tmp_path)
    secret, asked = nng.Secret(doorway.member("gateway"), doorway.credentials.node), 0

    def count() -> nng.Secret:
        nonlocal asked
        asked += 1
        return secret

    caller = BlockingCaller(doorway.address, max_message=1 << 20, secret=count)
    async with doorway.open():
        parked = asyncio.create_task(asyncio.to_thread(caller.lane(), WatchCatalog(), 30.0))
        await asyncio.wait_for(doorway.parked.acquire(), 10)
        assert asked == 1
    with pytest.raises(Unreachable):
        await parked
    assert asked == 2
    caller.close()
