import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest
from certificates import home
from doorway import Hands
from nngrep import listen, open_rep

from tetherd.drivers.rpc import nng, reaching
from tetherd.errors import BadConfig
from tetherd.types import Credentials


def test_every_socket_bounds_what_it_takes() -> None:
    with nng.closing(nng.open_req(1 << 20)) as found:
        assert found.recv_max_size >= 1 << 20
        assert found.recv_max_size < (1 << 20) + 4096


def test_a_host_that_vanished_is_noticed() -> None:
    with nng.closing(nng.open_req(1 << 20)) as found:
        assert found.tcp_keepalive


def test_a_request_is_never_sent_twice() -> None:
    with nng.closing(nng.open_req(1 << 20)) as found:
        assert found.resend_time == -1


def test_a_connection_whose_end_is_told_is_none_any_more() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    began: SimpleQueue[bool] = SimpleQueue()
    ended: SimpleQueue[bool] = SimpleQueue()
    with nng.closing(nng.open_req(1 << 20)) as found:
        found.add_post_pipe_connect_cb(lambda _: began.put(bool(nng.living(found))))
        found.add_post_pipe_remove_cb(lambda _: ended.put(bool(nng.living(found))))
        with nng.closing(open_rep(1 << 20)) as server:
            listen(server, address)
            nng.dial(found, address)
            assert began.get(timeout=5) is True
        assert ended.get(timeout=5) is False


@pytest.mark.parametrize("address", ["", "nonsense", "ipc", "tcp://nohost", "http://127.0.0.1:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with nng.closing(nng.open_req(1 << 20)) as found, pytest.raises(BadConfig):
        nng.dial(found, address)


async def test_connections_are_told_when_they_begin_and_end(tmp_path: Path) -> None:
    events: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    address = f"ipc://{tmp_path}/s"
    assert len(os.fsencode(address)) < 107
    with nng.closing(open_rep(1 << 20)) as server:
        begun, ended = (lambda pipe, sign=sign: events.put_nowait((sign, pipe)) for sign in "+-")
        nng.watch_pipes(server, loop, begun, ended)
        listen(server, address)
        with nng.closing(nng.open_req(1 << 20)) as client:
            nng.dial(client, address)
            async with asyncio.timeout(5):
                sign, pipe = await events.get()
                assert sign == "+"
                nng.close_pipe(server, pipe)
                assert await events.get() == ("-", pipe)
                assert (await events.get())[0] == "+"  # it dials again


# --- between hosts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


@contextlib.contextmanager
def open_door(port: int, credentials: Credentials) -> Iterator[tuple[Any, SimpleQueue[str]]]:
    """Listen over TLS; yield the socket, and the nodes that came: each twice, as nng asks twice."""
    came: SimpleQueue[str] = SimpleQueue()

    def welcome(_: int, node: str) -> bool:
        came.put(node)
        return True

    with nng.closing(open_rep(1 << 20)) as server:
        nng.guard(server, welcome)
        listen(server, f"{reaching.TLS}127.0.0.1:{port}", credentials)
        yield server, came


@contextlib.contextmanager
def dialling(port: int, credentials: Credentials, node: str) -> Iterator[threading.Event]:
    """Dial as ``credentials``, meaning ``node``; lend what is set once there is a connection."""
    with nng.closing(nng.open_req(1 << 20, node)) as client:
        connected = threading.Event()
        client.add_post_pipe_connect_cb(lambda _: connected.set())  # the socket lists those too that it refuses
        nng.dial(client, f"{reaching.TLS}127.0.0.1:{port}", reaching.Secret(credentials, node))
        yield connected


def test_a_node_is_known_by_its_certificate(port: int) -> None:
    server, client = home().node(), home().node()
    with open_door(port, server) as (_, came), dialling(port, client, server.node) as connected:
        assert connected.wait(5)
        assert came.get(timeout=5) == client.node


def test_who_dials_another_node_than_it_meant_gets_no_connection(port: int) -> None:
    server, client = home().node(), home().node()
    with open_door(port, server) as (_, came), dialling(port, client, home().node().node) as connected:
        assert not connected.wait(0.4)
        assert came.empty()


def test_a_node_that_passes_itself_off_as_another_is_not_taken_for_it(port: int) -> None:
    meant = home().node()
    spoof = home().node(san=f"{meant.node}.tether")
    with open_door(port, spoof), dialling(port, home().node(), meant.node) as connected:
        assert not connected.wait(0.4)


def test_one_socket_listens_to_its_host_and_to_others(port: int, tmp_path: Path) -> None:
    server, client = home().node(), home().node()
    with open_door(port, server) as (found, came):
        listen(found, f"ipc://{tmp_path}/s")
        with nng.closing(nng.open_req(1 << 20)) as local:
            nng.dial(local, f"ipc://{tmp_path}/s")
            assert came.get(timeout=5) == came.get(timeout=5) == ""
            with dialling(port, client, server.node):
                assert came.get(timeout=5) == client.node


def test_a_check_that_fails_admits_nobody(port: int) -> None:
    server = home().node()

    asked: SimpleQueue[int] = SimpleQueue()

    def fail(pipe: int, _: str) -> bool:
        asked.put(pipe)
        raise ValueError("a bug")

    with nng.closing(open_rep(1 << 20)) as found:
        nng.guard(found, fail)
        listen(found, f"{reaching.TLS}127.0.0.1:{port}", server)
        with dialling(port, home().node(), server.node):
            first = asked.get(timeout=5)
            while asked.get(timeout=5) == first:
                pass  # it was ended, and comes again
            assert first not in {pipe.id for pipe in found.pipes}


@pytest.mark.parametrize("kind", ["ipc:///x", "tcp://127.0.0.1:1"])
def test_credentials_are_for_tls_and_tls_is_with_credentials(kind: str) -> None:
    node = home().node()
    with nng.closing(nng.open_req(1 << 20)) as found, pytest.raises(BadConfig, match="between hosts"):
        nng.dial(found, kind, reaching.Secret(node, node.node))
    with nng.closing(nng.open_req(1 << 20)) as found, pytest.raises(BadConfig, match="between hosts"):
        nng.dial(found, f"{reaching.TLS}127.0.0.1:1")


def test_a_dial_says_whom_it_means() -> None:
    with nng.closing(nng.open_req(1 << 20)) as found, pytest.raises(BadConfig, match="which node"):
        nng.dial(found, f"{reaching.TLS}127.0.0.1:1", reaching.Secret(home().node(), ""))


@pytest.mark.parametrize("field", ["key_pem", "chain_pem", "roots_pem"])
def test_credentials_that_cannot_be_read_are_refused(field: str) -> None:
    good = home().node()
    spoilt = msgspec.structs.replace(good, **{field: "-----BEGIN NONSENSE-----"})
    with nng.closing(nng.open_req(1 << 20)) as found, pytest.raises(BadConfig, match="cannot be used"):
        nng.dial(found, f"{reaching.TLS}127.0.0.1:1", reaching.Secret(spoilt, good.node))


def test_connections_that_ended_as_they_began_are_found_by_one_thread(port: int) -> None:
    server, client = home().node(), home().node()
    before = set(threading.enumerate())
    with open_door(port, server) as (found, came):
        for _ in range(20):
            Hands(port, client).close()
            assert came.get(timeout=5) == client.node
        lookers = [each.name for each in set(threading.enumerate()) - before]
        assert lookers in (["second-look"], []), "this process may have it already"
        until = time.monotonic() + 10
        while found.pipes:
            assert time.monotonic() < until
            time.sleep(0.02)
