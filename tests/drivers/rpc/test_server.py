"""What a server makes of requests, over real ipc:// and tcp:// sockets within one process."""

import asyncio
import contextlib
import gc
import struct
from typing import Any

import pynng
import pytest
from desks import MAX, Desk, blob, calling, free_port, manifest, serving, soon, tensor, within

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.rpc.server import MAX_BAD, Server
from tetherd.drivers.rpc.turns import Turn
from tetherd.errors import (
    Cancelled,
    Internal,
    OffsetConflict,
    QueueFull,
    Unimplemented,
    Unreachable,
)
from tetherd.wire.catalog import Chunk, GetBlob, GetManifest
from tetherd.wire.frames import CALL, CANCEL, FAILURE, REPLY, Codec, Header
from tetherd.wire.messages import Done, GetFleet, Release


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


class Hurried:
    """A turn of a caller who, once answered, asks again under the same number before anything else can happen."""

    node, apart = "", None

    def __init__(self, server: Server, frames: list[bytes], kinds: asyncio.Queue[int]) -> None:
        self._server = server
        self._frames = frames
        self._kinds = kinds

    def answer(self, buffers: Any) -> None:
        self._kinds.put_nowait(Codec().split(b"".join(bytes(part) for part in buffers)).kind)
        self.ask()

    def ask(self) -> None:
        if self._frames:
            self._server.begin(self, self._frames.pop(), 1)

    def hang_up(self) -> None:
        raise AssertionError


async def test_who_is_answered_may_give_the_same_number_again_at_once() -> None:
    desk, kinds = Desk(), asyncio.Queue[int]()
    server = Server("ipc:///nowhere", desk.routes(), clock=SystemClock(), max_message=MAX, lost=desk.forget)
    call = b"".join(bytes(part) for part in Codec().encode(CALL, Header(1, GetBlob.METHOD, 5000), blob()))
    Hurried(server, [call, call], kinds).ask()
    assert [await within(kinds.get()) for _ in range(2)] == [REPLY, REPLY]


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
