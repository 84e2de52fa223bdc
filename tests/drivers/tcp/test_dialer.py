"""Which of a source's addresses a connection is made to, and what is said where none leads to it."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from certificates import Network, home
from sources import Hosts, shelf

from tetherd.drivers.tcp.dialer import Dialer, Refused
from tetherd.drivers.tcp.mutual import dialling, listening
from tetherd.types import Credentials
from tetherd.wire.chunks import BlobSource, Ways

DEAD = "127.0.0.1:1"


@pytest.fixture
def source(hosts: Hosts) -> BlobSource:
    return hosts.fair(shelf())


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """Take connections and say nothing, as a host does that has lost its mind."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def connect(source: BlobSource, ways: Ways, patience: float = 1.0) -> str:
    """Dial a source; return where the connection leads."""
    dialer = Dialer(dialling(home().node()), lambda _: ways, patience)
    with dialer.connect(source, lambda: False) as connection:
        host, port = connection.getpeername()
        return f"{host}:{port}"


def test_an_address_that_refuses_costs_nothing(source: BlobSource) -> None:
    assert connect(source, Ways((DEAD, source.address))) == source.address


def test_an_address_that_says_nothing_is_not_waited_for(source: BlobSource) -> None:
    with silent() as address:
        began = time.monotonic()
        assert connect(source, Ways((address, source.address)), patience=20.0) == source.address
        assert time.monotonic() - began < 10


@pytest.mark.usefixtures("deaf_names")
def test_a_name_that_nobody_answers_for_is_not_waited_for(source: BlobSource) -> None:
    began = time.monotonic()
    assert connect(source, Ways(("host.deaf:7443", source.address)), patience=20.0) == source.address
    assert time.monotonic() - began < 10
    with pytest.raises(OSError, match="no name server answered"):
        connect(source, Ways(("host.deaf:7443",)), patience=0.1)


def test_a_name_leads_there_too(source: BlobSource) -> None:
    _, _, port = source.address.rpartition(":")
    assert connect(source, Ways((f"localhost:{port}",))) == source.address


def test_an_address_that_leads_to_another_node_leads_nowhere(hosts: Hosts, source: BlobSource) -> None:
    other = hosts.fair(shelf())
    assert connect(source, Ways((other.address, source.address))) == source.address
    with pytest.raises(Refused, match="another node"):
        connect(source, Ways((other.address,)))


def test_what_is_no_address_leads_nowhere(source: BlobSource) -> None:
    assert connect(source, Ways(("nonsense:x", "", "a" * 64 + ".x:1", source.address))) == source.address


def test_a_relay_is_for_when_nothing_else_leads_there(hosts: Hosts, source: BlobSource) -> None:
    assert connect(source, Ways((DEAD,), (source.address,))) == source.address
    with silent() as address:
        assert connect(source, Ways((source.address,), (address,))) == source.address


def test_a_relay_that_answers_first_waits_a_moment_for_the_node_itself(hosts: Hosts) -> None:
    """Directly it takes longer than until the relay is tried, but not much longer."""
    mine = home().node()
    with late(mine, 0.3) as direct, late(mine, 0.0) as relayed:
        assert connect(BlobSource(mine.node, direct), Ways((direct,), (relayed,)), 5.0) == direct


@contextlib.contextmanager
def late(credentials: Credentials, pause: float) -> Iterator[str]:
    """Shake hands with everybody, after a pause."""
    context = listening(credentials)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    time.sleep(pause)
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                        secure.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_where_nobody_is_every_address_is_named(source: BlobSource) -> None:
    with silent() as address, pytest.raises(OSError, match="refused") as caught:
        connect(source, Ways((DEAD, address)), patience=0.3)
    assert f"{address}: no answer within 0.3 s" in str(caught.value)
    with pytest.raises(OSError, match="no address"):
        connect(source, Ways())


def test_a_node_of_another_network_is_final(hosts: Hosts) -> None:
    foreign = Network("other").node()
    theirs = Credentials(foreign.node, foreign.key_pem, foreign.chain_pem, home().root.pem)
    with pytest.raises(Refused, match="certificate verify failed") as caught:
        connect(BlobSource(foreign.node, ""), Ways((hosts.fair(shelf(), credentials=theirs).address,)))
    assert caught.value.final


def test_whoever_wants_it_no_more_does_not_wait(source: BlobSource) -> None:
    dialer = Dialer(dialling(home().node()), lambda _: Ways((address,)), 60.0)
    with silent() as address:
        over = threading.Event()
        threading.Timer(0.2, over.set).start()
        with pytest.raises(OSError, match="over"):
            dialer.connect(source, over.is_set)
