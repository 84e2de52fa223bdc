"""End to end through a relay: TLS passes untouched, and a relay that does anything but carry it gains nothing."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from nngrep import listen, open_rep
from plain import Peer, free_port, peers, serving
from pynng import Rep0, Req0, Timeout
from relaying import Relayed, relayed

from tetherd.drivers.rpc import nng, reaching
from tetherd.drivers.tcp import mutual
from tetherd.policy.relaying import Limits
from tetherd.types import Credentials

MIB = 1 << 20
MARK = b"what only the two of them may know"


class Elsewhere(Exception):
    """The peer is another node than the one that was meant."""


@contextlib.asynccontextmanager
async def echoing(credentials: Credentials, port: int) -> AsyncIterator[None]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", port, ssl=mutual.listening(credentials)):
        yield


@contextlib.asynccontextmanager
async def talking(world: Relayed, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a TLS connection of the dialer to the target, by way of ``port``. Raises Elsewhere."""
    async with asyncio.timeout(10.0):
        context = mutual.dialling(world.dialer)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
        try:
            if mutual.peer(writer.get_extra_info("ssl_object")) != world.target.node:
                raise Elsewhere
            yield reader, writer
        finally:
            writer.transport.abort()


async def test_tls_of_the_standard_library_passes() -> None:
    listener = free_port()
    async with relayed(listener) as world, echoing(world.target, listener), talking(world, world.port) as (reader, out):
        data = os.urandom(4 * MIB)
        out.write(data)
        assert await reader.readexactly(len(data)) == data


@contextlib.contextmanager
def nng_pair(world: Relayed, listener: int) -> Iterator[tuple[Rep0, Req0]]:
    with nng.closing(open_rep(8 * MIB)) as rep, nng.closing(nng.open_req(8 * MIB, world.target.node)) as req:
        listen(rep, f"tls+tcp://127.0.0.1:{listener}", world.target)
        nng.dial(req, f"tls+tcp://{world.address}", reaching.Secret(world.dialer, world.target.node))
        yield rep, req


async def test_nng_passes_and_comes_back_after_the_relay_was_away() -> None:
    listener = free_port()
    async with relayed(listener) as world:
        with nng_pair(world, listener) as (rep, req):
            await ask(rep, req, b"one")
            await ask(rep, req, os.urandom(4 * MIB))
            for session in list(world.junction.moved()):
                world.junction.end(session)
            await ask(rep, req, b"two")


async def ask(rep: Rep0, req: Req0, question: bytes) -> None:
    async with asyncio.timeout(10.0):
        while True:
            answering = asyncio.create_task(rep.arecv())
            with contextlib.suppress(Exception):  # what met the break is lost: ask again
                await req.asend(question)
                assert await asyncio.wait_for(answering, 1.0) == question
                await rep.asend(question[::-1])
                assert await req.arecv() == question[::-1]
                return
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


async def test_fifty_connections_at_once() -> None:
    listener = free_port()
    async with relayed(listener) as world, echoing(world.target, listener):

        async def one(number: int) -> None:
            async with talking(world, world.port) as (reader, out):
                out.write(MARK * number)
                assert await reader.readexactly(len(MARK) * number) == MARK * number

        await asyncio.gather(*[one(number) for number in range(1, 51)])


# --- a hostile relay -------------------------------------------------------------------------------------------------

Change = Callable[[list[bytes]], list[bytes]]
"""What is done to some TLS records, three or more, of one direction."""


def flip(records: list[bytes]) -> list[bytes]:
    return [*records[:-1], records[-1][:-1] + bytes([records[-1][-1] ^ 1])]


CHANGES: dict[str, Change] = {
    "tampered": flip,
    "replayed": lambda records: [*records, records[-1]],
    "reordered": lambda records: records[:-2] + records[:-3:-1],
    "dropped": lambda records: [*records[:-2], records[-1]],
    "cut short": lambda records: [*records[:-2], records[-2][:-3], records[-1]],
    "another's": lambda records: [*records[:-1], b"\x17\x03\x03\x00\x20" + os.urandom(32), records[-1]],
}


def split(stream: bytes) -> list[bytes]:
    """Return the TLS records that a stream starts with; what is incomplete comes last."""
    records = []
    while stream:
        end = 5 + int.from_bytes(stream[3:5])
        records.append(stream[:end])
        stream = stream[end:]
    return records


class Hostile:
    """A relay that carries all it is given, keeps a copy, and at a word changes what goes to the target."""

    def __init__(self, listener: int) -> None:
        self._listener = listener
        self.seen = b""
        self.outward = b""
        self.change: Change | None = None

    async def carry(self, peer: Peer) -> None:
        async with peers() as dial:
            target = await dial(self._listener)
            ways = [asyncio.create_task(self._pump(*way)) for way in ((target, peer, False), (peer, target, True))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, source: Peer, sink: Peer, outward: bool) -> None:
        loop = asyncio.get_running_loop()
        held = b""
        while data := await loop.sock_recv(source.socket, MIB):
            self.seen += data
            if outward:
                self.outward += data
                if self.change:
                    held += data
                    if len(records := split(held)) < 3 or len(records[-1]) < 5 + int.from_bytes(records[-1][3:5]):
                        continue
                    data, held = b"".join(self.change(records)), b""
            await sink.send(data)


async def until_it_ends(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """Return what comes before the end of a connection, and whether it ended within five seconds."""
    came = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while more := await reader.read(65536):
                    came += more
            return came, True
    return came, False


@pytest.mark.parametrize("how", CHANGES)
async def test_a_relay_that_changes_anything_breaks_the_connection(how: str) -> None:
    listener = free_port()
    async with relayed(listener) as world, echoing(world.target, listener):
        hostile = Hostile(listener)
        async with serving(hostile.carry) as port, talking(world, port) as (reader, out):
            out.write(MARK)
            assert await reader.readexactly(len(MARK)) == MARK
            hostile.change = CHANGES[how]
            wanted = os.urandom(60_000)  # four records
            out.write(wanted)
            came, ended = await until_it_ends(reader)
            assert ended, "what was changed is found out at once, and not waited for"
            assert wanted.startswith(came), "never anything that was not sent, nor in another order"
            assert how == "replayed" or came != wanted
            assert MARK not in hostile.seen


async def test_a_conversation_that_was_recorded_is_worth_nothing() -> None:
    listener = free_port()
    async with relayed(listener) as world, echoing(world.target, listener):
        hostile = Hostile(listener)
        async with serving(hostile.carry) as port, talking(world, port) as (reader, out):
            out.write(MARK)
            assert await reader.readexactly(len(MARK)) == MARK
        async with peers() as dial:
            again = await dial(listener)
            await again.send(hostile.outward)
            answer = b""
            with contextlib.suppress(OSError):
                while more := await again.read(1):
                    answer += more
            # A server that spoke application data to this would answer with at least what it was asked.
            assert sum(len(record) for record in split(answer) if record[0] == 23 and len(record) > 2000) == 0
            assert MARK not in answer


async def test_a_relay_that_leads_elsewhere_is_found_out() -> None:
    listener = free_port()
    async with (
        relayed(listener) as world,
        echoing(world.dialer, listener),
    ):  # a member, but not the one that was asked for
        with pytest.raises(Elsewhere):
            async with talking(world, world.port):
                pass


async def test_nng_finds_it_out_too() -> None:
    listener = free_port()
    async with relayed(listener) as world:
        with nng.closing(open_rep(MIB)) as rep, nng.closing(nng.open_req(MIB, world.target.node)) as req:
            listen(rep, f"tls+tcp://127.0.0.1:{listener}", world.dialer)
            nng.dial(req, f"tls+tcp://{world.address}", reaching.Secret(world.dialer, world.target.node))
            req.send_timeout = 1000
            with pytest.raises(Timeout):
                await req.asend(b"anybody there?")
            assert not req.pipes


async def test_nng_never_takes_what_a_relay_made_up() -> None:
    for how in ("tampered", "replayed", "reordered", "cut short", "another's"):
        listener = free_port()
        async with relayed(listener) as world:
            hostile = Hostile(listener)
            async with serving(hostile.carry) as port:
                with nng.closing(open_rep(MIB)) as rep, nng.closing(nng.open_req(MIB, world.target.node)) as req:
                    listen(rep, f"tls+tcp://127.0.0.1:{listener}", world.target)
                    nng.dial(req, f"tls+tcp://127.0.0.1:{port}", reaching.Secret(world.dialer, world.target.node))
                    await ask(rep, req, b"fine")
                    hostile.change = CHANGES[how]
                    rep.recv_timeout = 500
                    got = []
                    with contextlib.suppress(Exception):
                        await req.asend(MARK * 1000)
                        got.append(await rep.arecv())
                    assert got in ([], [MARK * 1000])
                    assert how == "replayed" or not got or how == "reordered"


# --- what a relay is not for -----------------------------------------------------------------------------------------


async def test_garbage_through_the_door_harms_nobody() -> None:
    listener = free_port()
    async with relayed(listener) as world, echoing(world.target, listener), peers() as dial:
        for data in (b"", b"GET / HTTP/1.0\r\n\r\n", os.urandom(5000), b"\x16\x03\x01"):
            for _ in range(5):
                peer = await dial(world.port)
                await peer.send(data)
                peer.close()
        async with talking(world, world.port) as (reader, out):
            out.write(MARK)
            assert await reader.readexactly(len(MARK)) == MARK


async def test_quota_cuts_a_connection_and_a_new_one_is_counted_anew() -> None:
    listener = free_port()
    async with relayed(listener, Limits(session_bytes=MIB)) as world, echoing(world.target, listener):
        carried = 0
        with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            async with talking(world, world.port) as (reader, out):
                while True:
                    out.write(bytes(100_000))
                    carried += len(await reader.readexactly(100_000))
        assert carried >= MIB // 2 - 100_000
        async with talking(world, world.port) as (reader, out):
            out.write(MARK)
            assert await reader.readexactly(len(MARK)) == MARK


async def test_silence_cuts_a_connection() -> None:
    listener = free_port()
    async with (
        relayed(listener, Limits(idle=0.5)) as world,
        echoing(world.target, listener),
        talking(world, world.port) as (reader, out),
    ):
        out.write(MARK)
        await reader.readexactly(len(MARK))
        with contextlib.suppress(ConnectionError):
            assert not await reader.read(1)


async def test_revocation_reaches_what_is_under_way() -> None:
    listener = free_port()
    async with (
        relayed(listener) as world,
        echoing(world.target, listener),
        talking(world, world.port) as (reader, out),
    ):
        out.write(MARK)
        await reader.readexactly(len(MARK))
        world.members.discard(world.dialer.node)
        with contextlib.suppress(ConnectionError):
            assert not await asyncio.wait_for(reader.read(1), 2.0)


async def test_a_target_that_is_no_member_any_more_is_not_reached() -> None:
    async with relayed(free_port()) as world, peers() as dial:
        world.members.discard(world.target.node)
        peer = await dial(world.port)
        assert await peer.closed()
