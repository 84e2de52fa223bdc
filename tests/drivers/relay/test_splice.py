"""Two sockets made one, byte for byte, with the pressure, the ends and the breaks of either passed on to the other."""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from tetherd.drivers.relay.splice import CHUNK, Splice, reset, tune

MIB = 1 << 20


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    for end in (ours, theirs):
        tune(end)
    return ours, theirs


class Bench(NamedTuple):
    """A splice and the two peers outside of it."""

    left: socket.socket
    right: socket.socket
    splice: Splice
    task: asyncio.Task[None]


@contextlib.asynccontextmanager
async def spliced() -> AsyncIterator[Bench]:
    (left, inner_left), (right, inner_right) = pair(), pair()
    splice = Splice(inner_left, inner_right, memoryview(bytearray(CHUNK)))
    task = asyncio.create_task(splice.run())
    try:
        yield Bench(left, right, splice, task)
    finally:
        left.close()
        right.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert inner_left.fileno() == inner_right.fileno() == -1


async def read_all(connection: socket.socket) -> bytes:
    loop, parts = asyncio.get_running_loop(), []
    while part := await loop.sock_recv(connection, MIB):
        parts.append(part)
    return b"".join(parts)


async def send(connection: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, data)
    connection.shutdown(socket.SHUT_WR)


async def test_what_goes_in_comes_out_both_ways_at_once() -> None:
    there, back = os.urandom(9 * MIB + 7), os.urandom(5 * MIB + 1)
    async with spliced() as bench:
        arrived = await asyncio.gather(
            read_all(bench.right), read_all(bench.left), send(bench.left, there), send(bench.right, back)
        )
        assert [hashlib.sha256(data).digest() for data in arrived[:2] if data] == [
            hashlib.sha256(data).digest() for data in (there, back)
        ]
        await bench.task
        assert (bench.splice.rightward.moved, bench.splice.leftward.moved) == (len(there), len(back))
        assert bench.splice.moved == len(there) + len(back)


async def test_a_reader_that_stops_stops_the_writer() -> None:
    async with spliced() as bench:
        sent, still = 0, 0
        while still < 20:
            try:
                sent += bench.left.send(bytes(MIB))
                still = 0
            except BlockingIOError:
                still += 1
            await asyncio.sleep(0.005)
        # What is under way lies in the kernel's buffers, which are bounded, and in one chunk of ours.
        assert bench.splice.moved <= sent <= 64 * MIB
        bench.left.shutdown(socket.SHUT_WR)
        assert len(await read_all(bench.right)) == sent


async def test_one_direction_may_end_long_before_the_other() -> None:
    async with spliced() as bench:
        await send(bench.left, b"a question")
        assert await read_all(bench.right) == b"a question"
        assert not bench.task.done()
        await send(bench.right, bytes(3 * MIB))
        assert len(await read_all(bench.left)) == 3 * MIB
        await bench.task


async def test_a_break_on_one_side_is_a_break_on_the_other() -> None:
    async with spliced() as bench:
        await asyncio.get_running_loop().sock_sendall(bench.left, b"half a mess")
        assert await asyncio.get_running_loop().sock_recv(bench.right, 100) == b"half a mess"
        reset(bench.left)
        with pytest.raises(ConnectionResetError):
            await read_all(bench.right)
        await bench.task


@pytest.mark.parametrize("how", ["cut", "cancel"])
async def test_cutting_breaks_both_sides_at_once(how: str) -> None:
    async with spliced() as bench:
        await asyncio.sleep(0)
        if how == "cut":
            bench.splice.cut()
        else:
            bench.task.cancel()
        for end in (bench.left, bench.right):
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(read_all(end), 1.0)


async def test_a_writer_that_is_stopped_can_be_cut() -> None:
    async with spliced() as bench:
        with contextlib.suppress(BlockingIOError):
            while True:
                bench.left.send(bytes(MIB))
                await asyncio.sleep(0.001)
        reset(bench.right)
        await asyncio.wait_for(bench.task, 5.0)
        with pytest.raises(OSError, match=r"reset|pipe"):
            await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(bench.left, bytes(64 * MIB)), 5.0)


async def test_it_costs_nothing_while_nothing_moves() -> None:
    before = os.times()
    async with spliced():
        await asyncio.sleep(0.3)
    after = os.times()
    assert after.user + after.system - before.user - before.system < 0.1


async def test_a_vanished_peer_is_probed_for() -> None:
    ours, theirs = pair()
    with ours, theirs:
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if hasattr(socket, "TCP_KEEPIDLE"):
            idle = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            probes = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
            assert idle + probes * ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) <= 6
