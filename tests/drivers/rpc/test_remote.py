"""What a caller makes of servers that answer, go, come back and say nothing."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import uvloop
from certificates import home
from desks import MAX, Desk, blob, calling, free_port, manifest, serving, silence, soon, tensor, within
from doorway import Doorway
from nngrep import listen, open_rep

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.rpc import nng
from tetherd.drivers.rpc.reaching import Secret
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.drivers.rpc.server import Server
from tetherd.errors import (
    Cancelled,
    DeadlineExceeded,
    TooLarge,
    Unimplemented,
    Unreachable,
)
from tetherd.wire.catalog import Chunk, GetBlob
from tetherd.wire.frames import Codec
from tetherd.wire.messages import GetFleet, NextCommands


async def test_a_call_that_takes_too_long_ends(ipc: str) -> None:
    async with serving(ipc, Desk()):
        with calling(ipc) as caller:
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await caller.call(manifest(), deadline=soon(0.1))
            assert time.monotonic() - began < 3
            with pytest.raises(DeadlineExceeded, match="before it was sent"):
                await caller.call(blob(), deadline=soon(-1))


async def test_calls_that_are_cancelled_at_once_leave_nothing_behind(ipc: str) -> None:
    desk = Desk()
    server = Server(ipc, desk.routes(), clock=SystemClock(), max_message=MAX, lost=desk.forget)
    ready = asyncio.Event()
    task = asyncio.create_task(server.run(ready.set))
    await within(ready.wait())
    codec = Codec()
    with calling(ipc) as caller:
        await caller.call(blob(), deadline=soon())
        for _ in range(200):
            call = asyncio.create_task(caller.call(manifest(), deadline=soon(30)))
            await asyncio.sleep(0)
            call.cancel()
        del codec
        async with asyncio.timeout(5):
            while any(server._calls.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await caller.call(blob(), deadline=soon())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_without_a_server_a_call_gives_up_in_three_seconds(ipc: str) -> None:
    with calling(ipc) as caller:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="no connection"):
            await caller.call(blob(), deadline=soon(60))
        assert 2.5 < time.monotonic() - began < 4.5


async def test_a_server_that_comes_back_is_found_again(address: str) -> None:
    with calling(address) as caller:
        async with serving(address, Desk()):
            await caller.call(blob(), deadline=soon())
            parked = asyncio.create_task(caller.call(manifest(), deadline=soon(30)))
            await asyncio.sleep(0.05)
        with pytest.raises((Unreachable, Cancelled)):
            await within(parked)
        desk = Desk()
        async with serving(address, desk):
            assert await caller.call(blob(), deadline=soon(10)) == Chunk(0, tensor(3))
            remaining = desk.contexts[0].deadline - time.monotonic()
            assert remaining < 10


async def test_a_connection_whose_end_nng_missed_is_found_out_by_what_it_does_not_answer(ipc: str) -> None:
    with calling(ipc) as caller:
        caller._gain(1 << 20)
        assert caller.connected
        with pytest.raises(DeadlineExceeded):
            await caller.call(blob(), deadline=soon(0.1))
        assert not caller.connected
        async with serving(ipc, Desk()):
            assert await caller.call(blob(), deadline=soon()) == Chunk(0, tensor(3))


def hang_up_unheard(caller: RemoteCaller) -> None:
    """End its connection; return when nng knows of it, and the loop does not."""
    nng.hang_up(caller._socket)
    until = soon()
    while caller._socket.pipes:
        assert time.monotonic() < until
        time.sleep(0.001)


async def test_a_call_in_the_moment_of_a_loss_does_not_wait_for_the_next_connection(ipc: str) -> None:
    with calling(ipc) as caller:
        async with serving(ipc, Desk()):
            await caller.call(blob(), deadline=soon())
            sooner = asyncio.create_task(caller.call(manifest(), deadline=soon(30)))
            await asyncio.sleep(0)
            hang_up_unheard(caller)
            assert caller.connected
            with pytest.raises(Unreachable, match="no connection"):
                await within(caller.call(manifest(), deadline=soon(30)))
            with pytest.raises(Unreachable, match="the connection was lost"):
                await within(sooner)


async def test_a_caller_moves_to_another_address_with_and_without_a_connection(place: Path) -> None:
    here, there, nowhere = (f"ipc://{place}/{name}.sock" for name in ("here", "there", "nowhere"))
    first, second = Desk(), Desk()
    async with serving(here, first), serving(there, second):
        with calling(here) as caller:
            await caller.call(blob(), deadline=soon())
            assert caller.connected
            caller.move(there)
            await within(first.told.wait())
            await caller.call(blob(), deadline=soon())
            assert (len(first.contexts), len(second.contexts)) == (1, 1)
        with calling(nowhere) as caller:
            assert not caller.connected
            caller.move(here)
            await caller.call(blob(), deadline=soon())
            assert len(first.contexts) == 2


def connect_unheard(caller: RemoteCaller, before: frozenset[int] = frozenset()) -> None:
    """Return when nng has another connection than ``before``, and the loop does not know."""
    until = soon()
    while not nng.living(caller._socket) - before:
        assert time.monotonic() < until
        time.sleep(0.001)


async def test_who_moves_as_it_connects_does_not_stay_where_it_was(place: Path) -> None:
    here, there = (f"ipc://{place}/{name}.sock" for name in ("here", "there"))
    desk = Desk()
    with nng.closing(open_rep(MAX)) as silent:
        listen(silent, here)
        async with serving(there, desk):
            with calling(here) as caller:
                connect_unheard(caller)
                assert not caller.connected
                caller.move(there)
                await caller.call(blob(), deadline=soon())
                assert len(desk.contexts) == 1


@contextlib.asynccontextmanager
async def elsewhere(place: Path) -> AsyncIterator[Doorway]:
    """A doorway on an event loop of its own."""
    opened: Future[tuple[Doorway, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        async with Doorway(place).open() as doorway:
            over = asyncio.Event()
            opened.set_result((doorway, asyncio.get_running_loop(), over))
            await over.wait()

    running = asyncio.create_task(asyncio.to_thread(uvloop.run, run()))
    doorway, loop, over = await asyncio.wrap_future(opened)
    try:
        yield doorway
    finally:
        loop.call_soon_threadsafe(over.set)
        await running


async def test_who_renews_as_it_connects_appears_as_who_it_is_now(tmp_path: Path) -> None:
    async with elsewhere(tmp_path) as doorway:
        old, fresh = doorway.member(), doorway.member()
        with doorway.calling(old) as caller:
            connect_unheard(caller)
            assert not caller.connected
            caller.renew(fresh)
            await caller.call(GetFleet(), deadline=soon())
            assert doorway.heard == {fresh.node}


async def test_who_renews_as_it_connects_again_appears_as_who_it_is_now(tmp_path: Path) -> None:
    async with elsewhere(tmp_path) as doorway:
        old, fresh = doorway.member(), doorway.member()
        with doorway.calling(old) as caller:
            await caller.call(GetFleet(), deadline=soon())
            before = frozenset(caller._pipes)
            for pipe in caller._socket.pipes:
                pipe.close()
            connect_unheard(caller, before)
            assert caller._pipes == before
            caller.renew(fresh)
            for _ in range(2):  # the first one may find the connection that is being left
                await caller.call(GetFleet(), deadline=soon())
            assert doorway.contexts[-1].node == fresh.node


async def test_what_is_too_large_is_refused_before_it_is_sent(ipc: str) -> None:
    async with serving(ipc, Desk(), max_message=1 << 20):
        with calling(ipc, max_message=1 << 20) as caller:
            with pytest.raises(TooLarge, match="exceeds rpc"):
                await caller.call(GetBlob("x" * (2 << 20), 0, 0), deadline=soon())  # type: ignore[arg-type]
            with pytest.raises(TooLarge, match="exceeds rpc"):
                await caller.call(blob(2 << 20), deadline=soon())
            await caller.call(blob((1 << 20) - 200), deadline=soon())


async def test_a_peer_that_accepts_and_says_nothing_is_dialled_again() -> None:
    port = free_port()
    async with silence(port) as silent:
        caller = RemoteCaller(f"tcp://127.0.0.1:{port}", clock=SystemClock(), max_message=MAX, redial=0.3)
        with pytest.raises(Unreachable, match="no connection"):
            await caller.call(blob(), deadline=soon())
        silent.close()
        async with serving(f"tcp://127.0.0.1:{port}", Desk()):
            began = time.monotonic()
            assert (await caller.call(blob(), deadline=soon())).size == 0
            assert time.monotonic() - began < 2
            caller.close()


async def test_a_closed_caller_and_cancelled_calls_end_quietly(ipc: str) -> None:
    async with serving(ipc, Desk()):
        caller = RemoteCaller(ipc, clock=SystemClock(), max_message=MAX)
        call = asyncio.create_task(caller.call(manifest(), deadline=soon(30)))
        await asyncio.sleep(0.1)
        caller.close()
        call.cancel()
        with pytest.raises((asyncio.CancelledError, Unreachable)):
            await call
    del caller, call
    gc.collect()


async def test_a_worker_with_two_questions_parked_can_still_call(ipc: str) -> None:
    desk = Desk()
    async with serving(ipc, desk):
        with calling(ipc) as caller:
            parked = asyncio.create_task(caller.call(manifest(), deadline=soon(30)))
            await within(desk.began.acquire())
            with pytest.raises(Unimplemented):
                await caller.call(NextCommands("w"), deadline=soon())
            parked.cancel()


async def test_why_a_node_cannot_be_reached_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    node = home().node()
    secret = Secret(node, "7" * 64)
    address = f"tls+tcp://127.0.0.1:{free_port()}"
    caller = RemoteCaller(address, clock=SystemClock(), max_message=MAX, redial=0.02, secret=secret)
    told = 0
    async with asyncio.timeout(10):
        while told < 3:
            await asyncio.sleep(0.01)
            if caller._finding and caller._finding.done():
                told, caller._finding = told + 1, None
    caller.close()
    assert len([record for record in caplog.records if "cannot reach a node" in record.message]) == 1
