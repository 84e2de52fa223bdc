"""Requests over real ipc:// and tcp:// sockets within one process."""

import asyncio
import contextlib
import gc
import socket
import struct
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pynng
import pytest

from tetherd.drivers import blocking, nng
from tetherd.drivers.blocking import BlockingCaller
from tetherd.drivers.clock import SystemClock
from tetherd.drivers.rpc import MAX_BAD, RemoteCaller, Server
from tetherd.drivers.turns import Turn
from tetherd.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    OffsetConflict,
    QueueFull,
    TooLarge,
    Unimplemented,
    Unreachable,
)
from tetherd.ports import Context
from tetherd.types import Tensor
from tetherd.wire.frames import CALL, CANCEL, FAILURE, REPLY, Codec, Header
from tetherd.wire.messages import Chunk, Done, GetBlob, GetFleet, GetManifest, NextCommands, Release

MAX = 4 << 20


def tensor(size: int) -> Tensor:
    return Tensor("data", "UINT8", (size,), bytes(size))


class Desk:
    """A server whose handlers do as the request's digest says."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.began = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.lost: list[int] = []
        self.told = asyncio.Event()
        self.go = asyncio.Event()

    def routes(self) -> dict[Any, Any]:
        return {GetBlob: self.answer, GetManifest: self.park, Release: self.crash}

    def forget(self, peer: int) -> None:
        self.lost.append(peer)
        self.told.set()

    async def answer(self, request: GetBlob, context: Context) -> Chunk:
        self.contexts.append(context)
        if request.digest == "full":
            raise QueueFull("too much", fix="send less", retry_after=1.5, details={"limit": 3})
        if request.digest == "offset":
            raise OffsetConflict("not there", details={"offset": 7})
        return Chunk(request.offset, tensor(request.length))

    async def park(self, request: GetManifest, context: Context) -> Chunk:
        self.contexts.append(context)
        self.began.release()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return Chunk(0, tensor(1))

    async def crash(self, request: Release, context: Context) -> Done:
        raise KeyError("the secret of the handler")


@contextlib.asynccontextmanager
async def serving(address: str, desk: Desk, max_message: int = MAX) -> AsyncIterator[asyncio.Task[None]]:
    ready = asyncio.Event()
    server = Server(address, desk.routes(), clock=SystemClock(), max_message=max_message, lost=desk.forget)
    task = asyncio.create_task(server.run(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if task.done():
            task.result()
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tr") as name:
        yield Path(name)


@pytest.fixture(params=["ipc", "tcp"])
def address(request: pytest.FixtureRequest, place: Path) -> str:
    return f"ipc://{place}/rpc.sock" if request.param == "ipc" else f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture
def ipc(place: Path) -> str:
    return f"ipc://{place}/rpc.sock"


@contextlib.contextmanager
def calling(address: str, max_message: int = MAX) -> Iterator[RemoteCaller]:
    caller = RemoteCaller(address, clock=SystemClock(), max_message=max_message)
    try:
        yield caller
    finally:
        caller.close()


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def blob(length: int = 3, offset: int = 0, digest: str = "plain") -> GetBlob:
    return GetBlob(digest, offset, length)  # type: ignore[arg-type]


def manifest() -> GetManifest:
    return GetManifest("any")  # type: ignore[arg-type]


async def within(awaitable: Awaitable[Any], seconds: float = 5.0) -> Any:
    async with asyncio.timeout(seconds):
        return await awaitable


async def test_a_call_is_answered_and_brings_its_context(address: str) -> None:
    desk = Desk()
    async with serving(address, desk):
        with calling(address) as caller:
            reply = await caller.call(blob(5, 2), deadline=soon(7), request_id="abc")
            assert reply == Chunk(2, tensor(5))
            context = desk.contexts[0]
            assert context.request_id == "abc"
            assert context.deadline == pytest.approx(soon(7), abs=0.5)
            assert isinstance(context.peer, int)


async def test_two_callers_are_two_peers(ipc: str) -> None:
    desk = Desk()
    async with serving(ipc, desk):
        with calling(ipc) as one, calling(ipc) as other:
            await one.call(blob(), deadline=soon())
            await other.call(blob(), deadline=soon())
            await one.call(blob(), deadline=soon())
    peers = [context.peer for context in desk.contexts]
    assert peers[0] == peers[2] != peers[1]


async def test_errors_come_back_as_what_they_were(address: str) -> None:
    async with serving(address, Desk()):
        with calling(address) as caller:
            with pytest.raises(QueueFull) as full:
                await caller.call(blob(digest="full"), deadline=soon())
            assert (full.value.message, full.value.fix) == ("too much", "send less")
            assert (full.value.retry_after, full.value.details) == (1.5, {"limit": 3})
            with pytest.raises(OffsetConflict) as conflict:
                await caller.call(blob(digest="offset"), deadline=soon())
            assert conflict.value.details == {"offset": 7}


async def test_an_unknown_method_is_refused_and_the_connection_kept(ipc: str) -> None:
    desk = Desk()
    async with serving(ipc, desk):
        with calling(ipc) as caller:
            with pytest.raises(Unimplemented, match="fleet"):
                await caller.call(GetFleet(), deadline=soon())
            await caller.call(blob(), deadline=soon())
            assert not desk.lost


async def test_a_bug_in_a_handler_tells_nothing_of_itself(ipc: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(ipc, Desk()):
        with calling(ipc) as caller:
            with pytest.raises(Internal) as error:
                await caller.call(Release("m"), deadline=soon())
            assert "secret" not in f"{error.value} {error.value.fix} {error.value.details}"
            await caller.call(blob(), deadline=soon())
    assert "the secret of the handler" in caplog.text


async def test_a_call_that_takes_too_long_ends(ipc: str) -> None:
    async with serving(ipc, Desk()):
        with calling(ipc) as caller:
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await caller.call(manifest(), deadline=soon(0.1))
            assert time.monotonic() - began < 3
            with pytest.raises(DeadlineExceeded, match="before it was sent"):
                await caller.call(blob(), deadline=soon(-1))


async def test_cancelling_the_caller_cancels_the_handler(ipc: str) -> None:
    desk = Desk()
    async with serving(ipc, desk):
        with calling(ipc) as caller:
            call = asyncio.create_task(caller.call(manifest(), deadline=soon(30)))
            await within(desk.began.acquire())
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await within(desk.cancelled.acquire())
            assert not desk.lost
            await caller.call(blob(), deadline=soon())


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


class Recorded:
    """A turn that counts how often it is answered."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.node = turn.node
        self.apart = turn.apart
        self.answered = 0

    def answer(self, buffers: Any) -> None:
        self._turn.answer(buffers)
        self.answered += 1

    def hang_up(self) -> None:
        self._turn.hang_up()


async def test_a_handler_that_is_cancelled_before_it_began_is_answered_for(address: str) -> None:
    desk = Desk()
    server = Server(address, desk.routes(), clock=SystemClock(), max_message=MAX, lost=desk.forget)
    ready = asyncio.Event()
    task = asyncio.create_task(server.run(ready.set))
    await within(ready.wait())
    begun, turns = server.begin, []

    def begin(turn: Turn, data: bytes, peer: int) -> None:
        turns.append(Recorded(turn))
        begun(turns[-1], data, peer)
        for call in list(server._calls[peer].values()):
            call.cancel()

    server.begin = begin  # type: ignore[method-assign]
    with calling(address) as caller:
        for _ in range(20):
            with pytest.raises(Cancelled):
                await caller.call(manifest(), deadline=soon())
    assert [turn.answered for turn in turns] == [1] * 20
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_lost_connection_cancels_its_handlers_and_is_told(address: str) -> None:
    desk = Desk()
    async with serving(address, desk):
        with calling(address) as caller, calling(address) as other:
            calls = [asyncio.create_task(caller.call(manifest(), deadline=soon(30))) for _ in range(3)]
            kept = asyncio.create_task(other.call(manifest(), deadline=soon(30)))
            for _ in range(4):
                await within(desk.began.acquire())
            peer = desk.contexts[0].peer
            caller.close()
            for _ in range(3):
                await within(desk.cancelled.acquire())
            await within(desk.told.wait())
            lost = [context.peer for context in desk.contexts if context.peer in desk.lost]
            assert len(lost) == 3
            assert peer in desk.lost or desk.contexts[-1].peer in desk.lost
            done = await within(asyncio.gather(*calls, return_exceptions=True))
            assert all(isinstance(error, Unreachable) for error in done)
            desk.go.set()
            assert await within(kept) == Chunk(0, tensor(1))


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


async def test_what_is_too_large_is_refused_before_it_is_sent(ipc: str) -> None:
    async with serving(ipc, Desk(), max_message=1 << 20):
        with calling(ipc, max_message=1 << 20) as caller:
            with pytest.raises(TooLarge, match="exceeds rpc"):
                await caller.call(GetBlob("x" * (2 << 20), 0, 0), deadline=soon())  # type: ignore[arg-type]
            with pytest.raises(TooLarge, match="exceeds rpc"):
                await caller.call(blob(2 << 20), deadline=soon())
            await caller.call(blob((1 << 20) - 200), deadline=soon())


async def test_three_hundred_calls_are_parked_at_once(ipc: str) -> None:
    desk = Desk()
    async with serving(ipc, desk):
        with calling(ipc) as caller:
            calls = [asyncio.create_task(caller.call(manifest(), deadline=soon(30))) for _ in range(300)]
            for _ in calls:
                await within(desk.began.acquire())
            await caller.call(blob(), deadline=soon())
            desk.go.set()
            assert len(await within(asyncio.gather(*calls))) == 300


async def test_large_replies_all_arrive(address: str) -> None:
    async with serving(address, Desk()):
        with calling(address) as caller:
            calls = [caller.call(blob(1 << 20, index), deadline=soon(30)) for index in range(64)]
            replies = await within(asyncio.gather(*calls), 30)
            assert [reply.size for reply in replies] == list(range(64))
            assert all(len(reply.data.data) == 1 << 20 for reply in replies)


async def test_garbage_is_refused_and_then_its_connection_closed(ipc: str) -> None:
    desk = Desk()
    async with serving(ipc, desk):
        loop = asyncio.get_running_loop()

        def send() -> int:
            codec, refused = Codec(), 0
            with pynng.Req0(resend_time=-1, recv_timeout=2000) as raw:
                raw.dial(ipc, block=True)
                for number in range(MAX_BAD + 1):
                    try:
                        raw.send(bytes([number]) * number)
                        refused += codec.failure(codec.split(raw.recv())).code == "BAD_FRAME"
                    except pynng.NNGException:
                        break
            return refused

        refused = await loop.run_in_executor(None, send)
        assert refused >= MAX_BAD - 1  # the last may be lost with the connection, or come over a new one
        await within(desk.told.wait())
        with calling(ipc) as caller:
            await caller.call(blob(), deadline=soon())


async def test_a_cancel_may_overtake_its_call(ipc: str) -> None:
    codec, desk = Codec(), Desk()
    async with serving(ipc, desk):
        early = (
            codec.encode(CANCEL, Header(5), Done()),
            codec.encode(CALL, Header(5, GetManifest.METHOD, 9000), manifest()),
        )
        later = codec.encode(CALL, Header(6, GetBlob.METHOD, 9000), blob())

        def send() -> bytes:
            with pynng.Req0(resend_time=-1, recv_timeout=5000) as raw, raw.new_context() as second:
                raw.dial(ipc, block=True)
                raw.send(b"".join(bytes(part) for part in early[0]))
                raw.recv()
                second.send(b"".join(bytes(part) for part in early[1]))
                raw.send(b"".join(bytes(part) for part in later))
                return bytes(raw.recv())

        assert codec.split(await asyncio.to_thread(send)).kind == REPLY
        assert len(desk.contexts) == 1  # the cancelled one never began


@pytest.mark.parametrize("kind", [REPLY, FAILURE])
async def test_a_reply_where_calls_are_answered_is_refused(ipc: str, kind: int) -> None:
    codec = Codec()
    async with serving(ipc, Desk()):
        answer = await asyncio.to_thread(exchange, ipc, codec.encode(kind, Header(1), Done()))
        assert codec.failure(codec.split(answer)).code == "BAD_FRAME"


async def test_cancelling_what_is_not_there_is_answered(ipc: str) -> None:
    codec = Codec()
    async with serving(ipc, Desk()):
        answer = await asyncio.to_thread(exchange, ipc, codec.encode(CANCEL, Header(99), Done()))
        assert codec.split(answer).kind == REPLY


async def test_a_message_that_is_not_the_methods_is_refused(ipc: str) -> None:
    codec = Codec()
    async with serving(ipc, Desk()):
        answer = await asyncio.to_thread(exchange, ipc, codec.encode(CALL, Header(1, GetBlob.METHOD, 1000), Done()))
        assert codec.failure(codec.split(answer)).code == "BAD_FRAME"


def exchange(address: str, parts: list[Any]) -> bytes:
    with pynng.Req0(resend_time=-1, recv_timeout=5000) as raw:
        raw.dial(address, block=True)
        raw.send(b"".join(bytes(part) for part in parts))
        return bytes(raw.recv())


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 8 << 30, MAX + 4096])
async def test_a_length_beyond_all_bounds_ends_that_connection_alone(length: int) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    async with serving(address, Desk()):
        with calling(address) as caller:
            await caller.call(blob(), deadline=soon())
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
            writer.write(b"\0SP\0\0\x30\0\0" + struct.pack(">Q", length) + b"x" * 1000)
            await within(reader.read())  # its header, then the end
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await caller.call(blob(), deadline=soon())


async def test_half_a_handshake_disturbs_nobody() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    async with serving(address, Desk()):
        silent = [await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2])) for _ in range(20)]
        for _, writer in silent[10:]:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with calling(address) as caller:
            await caller.call(blob(), deadline=soon())
        for _, writer in silent:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


# --- threads ---------------------------------------------------------------------------------------------------------


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await within(asyncio.to_thread(work, *arguments), 10)


async def test_threads_share_a_connection_or_have_their_own(address: str) -> None:
    desk = Desk()
    async with serving(address, desk):
        caller = BlockingCaller(address, max_message=MAX)

        def work(count: int) -> list[int]:
            call = caller.lane()
            return [call(blob(count, index), 5.0).size for index in range(count)]

        results = await asyncio.gather(*(in_thread(work, 20) for _ in range(4)))
        assert results == [list(range(20))] * 4
        assert len({context.peer for context in desk.contexts}) == (4 if address.startswith("ipc") else 1)
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


@contextlib.asynccontextmanager
async def silence(port: int) -> AsyncIterator[asyncio.AbstractServer]:
    """Accept connections on a port and say nothing; they stay open when the server is closed."""
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", port)
    try:
        yield server
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()


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


async def test_a_thread_dials_a_silent_peer_again() -> None:
    port = free_port()
    async with silence(port) as silent:
        caller = BlockingCaller(f"tcp://127.0.0.1:{port}", max_message=MAX, redial=0.3)
        with pytest.raises(Unreachable, match="no connection"):
            await in_thread(caller.lane(), blob(), 5.0)
        silent.close()
        async with serving(f"tcp://127.0.0.1:{port}", Desk()):
            with contextlib.suppress(Unreachable):  # this attempt may have met the silence as well
                await in_thread(caller.lane(), blob(), 5.0)
            assert (await in_thread(caller.lane(), blob(), 5.0)).size == 0
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


async def test_ten_lives_of_a_server_and_its_callers(ipc: str) -> None:
    for _ in range(10):
        desk = Desk()
        async with serving(ipc, desk):
            with calling(ipc) as caller:
                parked = [asyncio.create_task(caller.call(manifest(), deadline=soon(30))) for _ in range(5)]
                await within(desk.began.acquire())
                parked[0].cancel()
        await within(asyncio.gather(*parked, return_exceptions=True))
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
