import asyncio
import contextlib
import gc
import os
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pynng
import pytest
from doorway import open_files, wait_closed
from hypothesis import given
from hypothesis import strategies as st

from tetherd.drivers.rpc import arena, connections, ipc, sp
from tetherd.drivers.rpc.arena import HALF, WORTH, Arena
from tetherd.drivers.rpc.lane import Lane, beside
from tetherd.drivers.rpc.turns import Message, Turn
from tetherd.errors import BadConfig, InUse, TooLarge
from tetherd.types import Buffer

LIMIT = 8 << 20


class Echo:
    """A desk that answers every request with what it brought, or holds it."""

    def __init__(self) -> None:
        self.held: list[Turn] = []
        self.hold = False
        self.apart: list[int] = []  # sizes of payloads that came through shared memory
        self.events: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.took = asyncio.Semaphore(0)

    async def taken(self) -> None:
        """Wait for one more request to be held."""
        async with asyncio.timeout(5):
            await self.took.acquire()

    def greet(self, peer: int) -> None:
        self.events.put_nowait(("+", peer))

    def forget(self, peer: int) -> None:
        self.events.put_nowait(("-", peer))

    def begin(self, turn: Turn, data: Buffer, peer: int) -> None:
        if turn.apart is not None:
            self.apart.append(len(turn.apart))
        if self.hold:
            self.held.append(turn)
            self.took.release()
            return
        turn.answer([data] if turn.apart is None else [data, turn.apart])


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found = tmp_path_factory.mktemp("i") / "s"
    assert len(os.fsencode(found)) < ipc.PATH_MAX
    yield found
    assert not found.exists()


def whole(message: Message) -> tuple[bytes, bytes]:
    return bytes(message.frame), b"" if message.apart is None else bytes(message.apart)


async def ask(lane: Lane, *parts: Buffer) -> tuple[bytes, bytes]:
    """Ask from a thread, and copy the answer there."""
    async with asyncio.timeout(10):
        return await asyncio.to_thread(lambda: whole(lane.exchange(parts, lambda: None, 0.0)))


async def told(echo: Echo) -> tuple[str, int]:
    async with asyncio.timeout(5):
        return await echo.events.get()


@contextlib.contextmanager
def lane_to(path: Path, limit: int = LIMIT) -> Iterator[Lane]:
    lane = Lane(beside(path), 1.0, limit)
    try:
        yield lane
    finally:
        lane.close()


def connect(path: Path, hello: bytes = sp.ASKS, files: Iterable[int] = ()) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raw.settimeout(5)
    raw.connect(str(path))
    socket.send_fds(raw, [hello], list(files))
    return raw


async def ended(raw: socket.socket) -> bool:
    """Whether the other side hangs up, after whatever it has said."""

    def drain() -> bool:
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(65536):
                pass
        raw.close()
        return True

    return await asyncio.to_thread(drain)


@pytest.mark.parametrize("size", [0, 1, WORTH - 1, WORTH, HALF, HALF + 1, 5 << 20])
async def test_what_is_asked_comes_back_whatever_way_it_travels(path: Path, size: int) -> None:
    echo, payload = Echo(), os.urandom(size)
    with ipc.listening(path, echo, LIMIT), lane_to(path) as lane:
        for _ in range(3):
            head, apart = await ask(lane, b"head", payload[: size // 3], payload[size // 3 :])
            assert head + apart == b"head" + payload
        assert echo.apart == ([size] * 3 if WORTH <= size <= HALF else [])


async def test_sockets_of_nng_can_ask(path: Path) -> None:
    def converse() -> list[bytes]:
        with pynng.Req0(recv_timeout=5000, send_timeout=5000) as nng:
            nng.dial(f"ipc://{path}", block=True)
            answers = []
            for size in (1, 5, 100_000, 3 << 20):
                nng.send(b"x" * size)
                answers.append(bytes(nng.recv()))
            return answers

    with ipc.listening(path, Echo(), LIMIT):
        assert [len(answer) for answer in await asyncio.to_thread(converse)] == [1, 5, 100_000, 3 << 20]


async def test_without_shared_memory_everything_goes_through_the_socket(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena, "AVAILABLE", False)
    echo, payload = Echo(), os.urandom(600_000)
    with ipc.listening(path, echo, LIMIT), lane_to(path) as lane:
        assert await ask(lane, b"", payload) == (payload, b"")
        assert echo.apart == []


async def test_a_message_too_large_is_refused_before_it_is_sent(path: Path) -> None:
    with ipc.listening(path, Echo(), LIMIT), lane_to(path) as lane:
        with pytest.raises(TooLarge, match="9000001 bytes"):
            await ask(lane, b"h", bytes(9_000_000))
        assert await ask(lane, b"still here") == (b"still here", b"")


async def test_a_connection_that_ends_is_told_and_its_thread_woken(path: Path) -> None:
    echo = Echo()
    echo.hold = True
    with ipc.listening(path, echo, LIMIT), lane_to(path) as lane:
        waiting = asyncio.create_task(ask(lane, b"parked"))
        sign, peer = await told(echo)
        assert sign == "+"
        await echo.taken()
        lane.end()
        with pytest.raises(ConnectionError):
            await waiting
        assert await told(echo) == ("-", peer)
        echo.held[0].answer([b"to nobody"])
        echo.hold = False
        assert await ask(lane, b"anew") == (b"anew", b"")


async def test_what_a_connection_had_goes_with_it(path: Path) -> None:
    echo = Echo()
    with ipc.listening(path, echo, LIMIT):
        before = open_files()
        gc.disable()  # what only a collection finds stays for long: the memory that both share is a file, too
        try:
            for _ in range(3):
                with lane_to(path) as lane:
                    assert await ask(lane, b"x") == (b"x", b"")
                del lane
                while (await told(echo))[0] != "-":
                    pass
            await wait_closed(before)
        finally:
            gc.enable()


async def test_a_listener_that_ends_wakes_who_waits(path: Path) -> None:
    echo = Echo()
    echo.hold = True
    with lane_to(path) as lane:
        with ipc.listening(path, echo, LIMIT):
            waiting = asyncio.create_task(ask(lane, b"parked"))
            await told(echo)
            await echo.taken()
        with pytest.raises(ConnectionError):
            await waiting
        with pytest.raises(TimeoutError):
            await ask(lane, b"nobody there")


HEAD = struct.Struct(">BQI")
LAST = 0x80000000


@pytest.mark.parametrize(
    "bad",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        HEAD.pack(3, 10, LAST | 1) + b"unknown kind",
        HEAD.pack(1, 3, LAST | 1),  # shorter than its own id
        HEAD.pack(1, LIMIT + 100, LAST | 1),
        HEAD.pack(1, 2**64 - 1, LAST | 1),
        HEAD.pack(1, 10, 1) + b"through a device",
        HEAD.pack(2, 4 + 8, LAST | 1) + struct.pack(">Q", 100),  # nothing was shared
        HEAD.pack(2, 4, LAST | 1),
    ],
)
async def test_what_is_no_message_ends_that_connection_alone(path: Path, bad: bytes) -> None:
    with ipc.listening(path, Echo(), LIMIT), lane_to(path) as lane:
        assert await ask(lane, b"good") == (b"good", b"")
        raw = await asyncio.to_thread(connect, path)
        raw.sendall(bad)
        assert await ended(raw)
        assert await ask(lane, b"good") == (b"good", b"")


@pytest.mark.parametrize("hello", [b"\0SP\0\0\x31\0\0", b"\0SP\1\0\x30\0\0", b"SSH-2.0-", b"\0SP"])
async def test_who_does_not_greet_as_one_who_asks_is_sent_away(path: Path, hello: bytes) -> None:
    echo = Echo()
    with ipc.listening(path, echo, LIMIT):
        assert await ended(await asyncio.to_thread(connect, path, hello))
        assert echo.events.empty()


async def test_who_never_greets_is_sent_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "_HELLO_TIMEOUT", 0.1)
    with ipc.listening(path, Echo(), LIMIT), socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(path))
        assert await ended(raw)


def unsealed() -> int:
    file = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(file, 2 * HALF)
    return file


def small() -> int:
    return os.memfd_create("x", os.MFD_ALLOW_SEALING)


def plain() -> int:
    return os.open("/dev/null", os.O_RDWR)


@pytest.mark.parametrize("make", [unsealed, small, plain])
async def test_memory_that_its_owner_could_take_away_is_refused(path: Path, make: Callable[[], int]) -> None:
    with ipc.listening(path, Echo(), LIMIT):
        before = open_files()
        for _ in range(3):
            file = make()
            raw = await asyncio.to_thread(connect, path, sp.ASKS, [file])
            os.close(file)
            assert await ended(raw)
        assert open_files() <= before


async def test_payloads_beyond_the_shared_memory_are_refused(path: Path) -> None:
    with ipc.listening(path, Echo(), LIMIT):
        file = arena.make()
        raw = await asyncio.to_thread(connect, path, sp.ASKS, [file])
        os.close(file)
        raw.sendall(HEAD.pack(2, 4 + 8, LAST | 1) + struct.pack(">Q", HALF + 1))
        assert await ended(raw)


async def test_a_peer_that_reads_nothing_is_bounded_and_then_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALLED", 0.2)
    echo = Echo()
    with ipc.listening(path, echo, LIMIT), lane_to(path) as lane:
        raw = await asyncio.to_thread(connect, path)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while True:
                    await loop.sock_sendall(raw, HEAD.pack(1, 4 + 100_000, LAST | 1) + bytes(100_000))
        raw.close()
        assert await ask(lane, b"good") == (b"good", b"")


async def test_who_takes_almost_nothing_is_dropped_like_who_takes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALLED", 0.5)
    monkeypatch.setattr(connections, "_LEAST", 2_000_000)
    echo, over = Echo(), threading.Event()
    with ipc.listening(path, echo, LIMIT):
        raw = await asyncio.to_thread(connect, path)

        def trickle() -> None:
            raw.sendall(HEAD.pack(1, 4 + 3_000_000, LAST | 1) + bytes(3_000_000))
            while not over.wait(0.02):
                raw.recv(20_000)

        trickling = asyncio.create_task(asyncio.to_thread(trickle))
        assert (await told(echo))[0] == "+"
        assert (await told(echo))[0] == "-"
        over.set()
        await trickling
        raw.close()


async def test_a_slow_reader_gets_everything_in_order(path: Path) -> None:
    with ipc.listening(path, Echo(), LIMIT):
        raw = await asyncio.to_thread(connect, path)
        requests = b"".join(
            HEAD.pack(1, 4 + 50_000, LAST | number) + bytes([number % 256]) * 50_000 for number in range(100)
        )

        def converse() -> bytes:
            raw.sendall(requests[: 20 * 50_013])
            answers = bytearray(raw.recv(8, socket.MSG_WAITALL))
            for at in range(20, 100):
                answers += raw.recv(1000)
                raw.sendall(requests[at * 50_013 : (at + 1) * 50_013])
            while len(answers) < 8 + len(requests):
                answers += raw.recv(7777)
            return bytes(answers[8:])

        assert await asyncio.to_thread(converse) == requests
        raw.close()


async def test_a_peer_may_only_park_so_much(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MAX_PARKED", 3)
    echo = Echo()
    echo.hold = True
    with ipc.listening(path, echo, LIMIT):
        raw = await asyncio.to_thread(connect, path)
        raw.sendall(b"".join(HEAD.pack(1, 5, LAST | number) + b"x" for number in range(10)))
        for _ in range(3):
            await echo.taken()
        for _ in range(7):
            assert len(echo.held) == 3
            assert echo.took.locked()
            echo.held.pop(0).answer([b"y"])
            await echo.taken()
        for turn in echo.held:
            turn.answer([b"y"])
        expected = 8 + 10 * (HEAD.size + 1)
        assert len(await asyncio.to_thread(raw.recv, expected, socket.MSG_WAITALL)) == expected
        raw.close()


async def test_a_turn_can_end_its_connection(path: Path) -> None:
    echo = Echo()
    echo.hold = True
    with ipc.listening(path, echo, LIMIT):
        raw = await asyncio.to_thread(connect, path)
        raw.sendall(HEAD.pack(1, 5, LAST) + b"x")
        await echo.taken()
        raw.sendall(HEAD.pack(1, 5, LAST) + b"y")
        echo.held[0].hang_up()
        assert await ended(raw)
        assert len(echo.held) == 1  # what came after is not taken any more


async def test_a_file_is_not_deleted_by_listening_there(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    data.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(data)
    for path in (data, link):
        with pytest.raises(BadConfig, match="not a socket"), ipc.listening(path, Echo(), LIMIT):
            pass
    assert data.read_text() == "precious"


async def test_a_stale_socket_is_taken_over_and_a_live_one_is_not(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    with ipc.listening(path, Echo(), LIMIT), lane_to(path) as lane:
        with pytest.raises(InUse, match="another process"), ipc.listening(path, Echo(), LIMIT):
            pass
        assert await ask(lane, b"mine") == (b"mine", b"")


async def test_a_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="longer than 107"), ipc.listening(tmp_path / ("x" * 107), Echo(), LIMIT):
        pass
    with pytest.raises(BadConfig, match="No such file"), ipc.listening(Path("/nowhere/s"), Echo(), LIMIT):
        pass


# --- the reader ------------------------------------------------------------------------------------------------------


def messages() -> st.SearchStrategy[list[tuple[int, bytes]]]:
    frame = st.one_of(st.binary(max_size=50), st.integers(0, 200_000).map(lambda size: b"z" * size))
    return st.lists(st.tuples(st.integers(LAST, 2**32 - 1), frame), max_size=6)


@given(messages(), st.lists(st.integers(1, 100_000), min_size=1, max_size=20))
def test_messages_are_cut_the_same_however_they_arrive(sent: list[tuple[int, bytes]], pieces: list[int]) -> None:
    stream = b"".join(HEAD.pack(1, 4 + len(frame), number) + frame for number, frame in sent)
    reader, at, turn, got = sp.Framing(LIMIT), 0, 0, []
    least = len(stream) // 1000  # a long one in single bytes would show no more, and take seconds
    while at < len(stream):
        room = reader.room()
        size = min(max(least, pieces[turn % len(pieces)]), len(room), len(stream) - at)
        room[:size] = stream[at : at + size]
        reader.received(size)
        at, turn = at + size, turn + 1
        while message := reader.next():
            got.append((message.request, bytes(message.frame)))
    assert got == sent


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_do_anything_but_wait_or_refuse(data: bytes) -> None:
    reader = sp.Framing(LIMIT)
    reader.room()[: len(data)] = data
    reader.received(len(data))
    with contextlib.suppress(sp.Broken):
        while reader.next():
            pass
        assert len(reader.room()) > 0


def test_each_side_writes_what_the_other_reads() -> None:
    file = arena.make()
    other = os.dup(file)
    one, two = Arena(file, arena.OFFERING), Arena(other, arena.ACCEPTING)
    one.put([memoryview(b"ab"), memoryview(b"cd")])
    two.put([memoryview(b"xyz")])
    assert (bytes(two.got(4)), bytes(one.got(3))) == (b"abcd", b"xyz")
    reading: Any = two.got(4)
    with pytest.raises(TypeError):
        reading[0] = 0


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_to_say_a_length_takes_no_memory() -> None:
    size, before = 64 << 20, resident()
    readers = [sp.Framing(size, between=True) for _ in range(16)]
    for reader in readers:
        reader.room()[:12] = struct.pack(">QI", size, sp.LAST | 1)
        reader.received(12)
        assert reader.next() is None
        assert len(reader.room()) == size + 8 - 12
    assert resident() - before < size


@pytest.mark.parametrize("size", [0, 1, 20_000, 100_000, 1 << 20])
def test_what_comes_from_another_host_is_cut_into_messages(size: int) -> None:
    limit = 1 << 20
    sending = sp.Framing(limit, between=True)
    whole = b"".join(b"".join(sending.compose(sp.LAST | n, [bytes([n]) * size])) for n in range(5))
    reader, at, got = sp.Framing(limit, between=True), 0, []
    while at < len(whole):
        room = reader.room()
        part = whole[at : at + min(len(room), 16_384)]
        room[: len(part)] = part
        reader.received(len(part))
        at += len(part)
        while message := reader.next():
            got.append((message.request, bytes(message.frame)))
    assert got == [(sp.LAST | n, bytes([n]) * size) for n in range(5)]


@pytest.mark.parametrize("length", [0, 3, (1 << 20) + 5, 2**64 - 1])
def test_an_impossible_length_from_another_host_is_refused(length: int) -> None:
    reader = sp.Framing(1 << 20, between=True)
    reader.room()[:12] = struct.pack(">QI", length, sp.LAST)
    reader.received(12)
    with pytest.raises(sp.Broken):
        reader.next()
