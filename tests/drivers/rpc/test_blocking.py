"""Calls from threads; and callers that follow a node of another host to where it is now."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Network
from desks import MAX, Desk, blob, free_port, manifest, serving, silence, within
from doorway import Doorway

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.rpc import blocking, reaching
from tetherd.drivers.rpc.blocking import BlockingCaller
from tetherd.drivers.rpc.door import Door
from tetherd.errors import (
    BadConfig,
    QueueFull,
    TooLarge,
    Unreachable,
)
from tetherd.types import Digest
from tetherd.wire.catalog import GetBlob, WatchCatalog

REQUEST = GetBlob(Digest("sha256:0"), 0, 10)


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await within(asyncio.to_thread(work, *arguments), 10)


async def test_threads_have_connections_of_their_own(address: str) -> None:
    desk = Desk()
    async with serving(address, desk):
        caller = BlockingCaller(address, max_message=MAX)

        def work(count: int) -> list[int]:
            call = caller.lane()
            return [call(blob(count, index), 5.0).size for index in range(count)]

        results = await asyncio.gather(*(in_thread(work, 20) for _ in range(4)))
        assert results == [list(range(20))] * 4
        assert len({context.peer for context in desk.contexts}) == 4
        with pytest.raises(QueueFull):
            await in_thread(caller.lane(), blob(digest="full"), 5.0)
        with pytest.raises(TooLarge):
            await in_thread(caller.lane(), GetBlob("x" * (5 << 20), 0, 0), 5.0)
        caller.close()


async def test_every_parked_call_of_a_process_that_ends_is_cancelled(address: str) -> None:
    desk = Desk()
    async with serving(address, desk):
        caller = BlockingCaller(address, max_message=MAX)
        sent = threading.Semaphore(0)

        def park() -> str:
            try:
                caller.lane()(manifest(), 60.0, sent.release)
            except Unreachable as error:
                return error.message
            return "answered"

        threads = [asyncio.create_task(in_thread(park)) for _ in range(3)]
        for _ in range(3):
            await within(desk.began.acquire())
            assert sent.acquire(timeout=5)
        caller.close()
        for _ in range(3):
            await within(desk.cancelled.acquire())
        assert all("connection was lost" in message for message in await asyncio.gather(*threads))


async def test_a_thread_without_a_server_gives_up_in_three_seconds(address: str) -> None:
    caller = BlockingCaller(address, max_message=MAX)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="no connection"):
        await in_thread(caller.lane(), blob(), 60.0)
    assert time.monotonic() - began < 4.5
    caller.close()


@contextlib.asynccontextmanager
async def forgetful(port: int, target: int) -> AsyncIterator[asyncio.Event]:
    """Pass connections on to another port. What they bring after the event is set is lost, and nobody is told."""
    forgotten = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lossy: bool) -> None:
        try:
            while data := await reader.read(65536):
                if not (lossy and forgotten.is_set()):
                    writer.write(data)
        finally:
            writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        lossy = not forgotten.is_set()  # only connections from before
        for one, other in ((reader, far_writer), (far_reader, writer)):
            tasks.add(asyncio.create_task(carry(one, other, lossy=lossy)))

    server = await asyncio.start_server(pass_on, "127.0.0.1", port)
    try:
        yield forgotten
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_connection_that_a_network_forgets_is_given_up_and_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "GRACE", 0.2)
    port, target = free_port(), free_port()
    async with serving(f"tcp://127.0.0.1:{target}", Desk()), forgetful(port, target) as forgotten:
        caller = BlockingCaller(f"tcp://127.0.0.1:{port}", max_message=MAX)
        call = caller.lane()
        assert (await in_thread(call, blob(1, 3), 5.0)).size == 3
        forgotten.set()
        with pytest.raises(Unreachable, match="the connection was lost"):
            await in_thread(call, blob(1, 4), 0.1)
        assert (await in_thread(call, blob(1, 5), 5.0)).size == 5
        caller.close()


async def test_a_thread_dials_a_silent_peer_again() -> None:
    port = free_port()
    async with silence(port) as silent:
        caller = BlockingCaller(f"tcp://127.0.0.1:{port}", max_message=MAX)
        with pytest.raises(Unreachable, match="no connection"):
            await in_thread(caller.lane(), blob(), 5.0)
        silent.close()
        async with serving(f"tcp://127.0.0.1:{port}", Desk()):
            with contextlib.suppress(Unreachable):  # this attempt may have met the silence as well
                await in_thread(caller.lane(), blob(), 5.0)
            assert (await in_thread(caller.lane(), blob(), 5.0)).size == 0
            caller.close()


def two_places(folder: Path) -> tuple[Doorway, Doorway, reaching.Secret]:
    """Return a node at two addresses, and what a member dials it with."""
    for place in ("1", "2"):
        (folder / place).mkdir()
    first, second = Doorway(folder / "1"), Doorway(folder / "2")
    worker = first.member("worker")
    second.roster.update(first.roster)
    second.door = Door(second.address, first.credentials, second.admission, SystemClock())
    return first, second, reaching.Secret(worker, first.credentials.node)


async def test_it_follows_a_node_to_another_address(tmp_path: Path) -> None:
    first, second, secret = two_places(tmp_path)
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
    second.door = Door(second.address, second.credentials, second.admission, SystemClock())
    second.roster.update(first.roster)
    shown = [reaching.Secret(me, there.node)]
    caller = BlockingCaller(first.address, max_message=1 << 20, secret=lambda: shown[-1])
    async with first.open():
        parked = asyncio.create_task(asyncio.to_thread(caller.lane(), WatchCatalog(), 30.0))
        await asyncio.wait_for(first.parked.acquire(), 10)
        await asyncio.sleep(0.5)  # a connection that ends sooner was made with what is shown now
        shown.append(reaching.Secret(later.node(key=me.key_pem), there.node))
    async with second.open():
        await asyncio.wait_for(second.parked.acquire(), 2.5)
        caller.close()
        with pytest.raises(Unreachable):
            await parked


async def test_who_moves_while_it_connects_does_not_stay_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, secret = two_places(tmp_path)
    caller = BlockingCaller(first.address, max_message=1 << 20, secret=lambda: secret)
    dial = blocking.to_node

    def dial_and_move(address: str, *arguments: Any) -> Any:
        line = dial(address, *arguments)
        caller.move(second.address)
        return line

    monkeypatch.setattr(blocking, "to_node", dial_and_move)
    async with second.open(), first.open():
        assert (await asyncio.to_thread(caller.lane(), REQUEST, 5.0)).size == 10
        assert (len(first.contexts), len(second.contexts)) == (0, 1)
        caller.close()
