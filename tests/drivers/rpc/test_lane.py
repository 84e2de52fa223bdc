"""How a thread opens a line to another node."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pynng
import pytest
from certificates import Network, home
from doorway import MAX, Doorway
from nngrep import listen, open_rep

from tetherd.drivers.rpc import lane, nng, reaching, silence, sp
from tetherd.drivers.rpc.lines import Line
from tetherd.drivers.tcp import mutual
from tetherd.types import Credentials


def ask(line: Line, frame: bytes) -> bytes:
    """Return the answer to a frame."""
    reader = sp.Framing(MAX, between=True)
    line.send(reader.compose(sp.LAST | 1, [frame]))
    while not (message := reader.next()):
        size = line.receive(reader.room())
        assert size
        reader.received(size)
    assert message.request == sp.LAST | 1
    return bytes(message.frame)


@contextlib.contextmanager
def echoing(credentials: Credentials) -> Iterator[str]:
    """Yield the address of an nng socket that answers with what it was asked, until an empty message."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"{reaching.TLS}127.0.0.1:{probe.getsockname()[1]}"

    def echo() -> None:
        with contextlib.suppress(pynng.Closed):
            while True:
                rep.send(rep.recv())

    with nng.closing(open_rep(MAX)) as rep:
        listen(rep, address, credentials)
        thread = threading.Thread(target=echo)
        thread.start()
        yield address
    thread.join()


@pytest.mark.parametrize("size", [1, 100_000, MAX - 100])
def test_it_asks_sockets_of_nng(size: int) -> None:
    there, here = home().node(), home().node()
    with echoing(there) as address:
        line = lane.to_node(address, reaching.Secret(here, there.node), 5.0)
        sending = bytes([7]) * size
        assert ask(line, sending) == sending
        line.close()


async def test_sockets_of_nng_ask_our_listeners(tmp_path: Path) -> None:
    async with Doorway(tmp_path).open() as doorway:
        secret = reaching.Secret(doorway.member(), doorway.credentials.node)

        def converse() -> bytes:
            with nng.closing(nng.open_req(MAX, secret.node)) as req:
                req.send_timeout = req.recv_timeout = 5000
                nng.dial(req, doorway.address, secret)
                req.send(b"no frame")
                return bytes(req.recv())

        assert b"BAD_FRAME" in await asyncio.to_thread(converse)


async def test_a_line_is_bounded_and_belongs_to_the_node_that_is_meant(tmp_path: Path) -> None:
    async with Doorway(tmp_path).open() as doorway:
        me = doorway.member()
        line = await asyncio.to_thread(
            lane.to_node, doorway.address, reaching.Secret(me, doorway.credentials.node), 5.0
        )
        with socket.socket(fileno=line.fileno()) as found:
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == silence.BOUND * 1000
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            found.detach()
        line.close()
        with pytest.raises(ConnectionRefusedError, match="another node"):
            await asyncio.to_thread(lane.to_node, doorway.address, reaching.Secret(me, home().node().node), 5.0)


@pytest.mark.parametrize("words", [b"", sp.ASKS, b"\0SP\0"])
def test_what_speaks_another_protocol_is_left(words: bytes) -> None:
    there, here = home().node(), home().node()

    def answer() -> None:
        with mutual.listening(there).wrap_socket(listener.accept()[0], server_side=True) as found:
            found.sendall(words)
            found.recv(8)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        address = f"{reaching.TLS}127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConnectionResetError):
            lane.to_node(address, reaching.Secret(here, there.node), 5.0)
        thread.join()


def test_silence_and_strangers_are_left_in_time() -> None:
    here = home().node()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"{reaching.TLS}127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(TimeoutError):
            lane.to_node(address, reaching.Secret(here, home().node().node), 0.2)
    stranger = Network("other").node()
    with echoing(stranger) as address, pytest.raises(OSError, match="certificate"):
        lane.to_node(address, reaching.Secret(here, stranger.node), 5.0)
