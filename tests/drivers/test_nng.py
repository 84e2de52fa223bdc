import asyncio
import os
import socket
from pathlib import Path

import pytest

from tetherd.drivers import nng
from tetherd.errors import BadConfig, TetherError, TooLarge


def test_every_socket_bounds_what_it_takes() -> None:
    for open_socket in (nng.open_rep, nng.open_req):
        with nng.closing(open_socket(1 << 20)) as found:
            assert found.recv_max_size >= 1 << 20
            assert found.recv_max_size < (1 << 20) + 4096


def test_a_host_that_vanished_is_noticed() -> None:
    for open_socket in (nng.open_rep, nng.open_req):
        with nng.closing(open_socket(1 << 20)) as found:
            assert found.tcp_keepalive


def test_a_request_is_never_sent_twice() -> None:
    with nng.closing(nng.open_req(1 << 20)) as found:
        assert found.resend_time == -1


def test_an_address_in_use_is_refused() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with nng.closing(nng.open_rep(1 << 20)) as one, nng.closing(nng.open_rep(1 << 20)) as other:
        nng.listen(one, address)
        with pytest.raises(TetherError, match="in use"):
            nng.listen(other, address)


@pytest.mark.parametrize("address", ["", "nonsense", "ipc", "tcp://nohost", "http://127.0.0.1:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with nng.closing(nng.open_rep(1 << 20)) as found, pytest.raises(BadConfig):
        nng.listen(found, address)
    with nng.closing(nng.open_req(1 << 20)) as found, pytest.raises(BadConfig):
        nng.dial(found, address)


def test_a_message_is_its_parts_one_after_the_other() -> None:
    message = nng.pack([b"ab", bytearray(b"cd"), memoryview(b"efgh")[::1], b""], 8)
    assert nng.unpack(message)[0] == b"abcdefgh"
    with pytest.raises(TooLarge, match="9 bytes"):
        nng.pack([b"abcdefgh", b"i"], 8)


async def test_connections_are_told_when_they_begin_and_end(tmp_path: Path) -> None:
    events: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    address = f"ipc://{tmp_path}/s"
    assert len(os.fsencode(address)) < 107
    with nng.closing(nng.open_rep(1 << 20)) as server:
        begun, ended = (lambda pipe, sign=sign: events.put_nowait((sign, pipe)) for sign in "+-")
        nng.watch_pipes(server, loop, begun, ended)
        nng.listen(server, address)
        with nng.closing(nng.open_req(1 << 20)) as client:
            nng.dial(client, address)
            async with asyncio.timeout(5):
                sign, pipe = await events.get()
                assert sign == "+"
                nng.close_pipe(server, pipe)
                assert await events.get() == ("-", pipe)
                assert (await events.get())[0] == "+"  # it dials again
