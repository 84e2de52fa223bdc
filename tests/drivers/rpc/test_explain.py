"""What is said about nodes that cannot be reached, each against a real socket that is wrong in one way."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from certificates import Network, home
from nngrep import listen, open_rep

from tetherd.drivers.rpc import nng, reaching, sp, tls
from tetherd.drivers.rpc.explain import explain
from tetherd.drivers.tcp import mutual
from tetherd.types import Credentials
from tetherd.wire.frames import REPLY, Codec, Header
from tetherd.wire.peering import Pong


@contextlib.contextmanager
def place(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Have every connection to an address served by a thread; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopped = threading.Event()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while not stopped.is_set():
                    connection, _ = listener.accept()
                    threading.Thread(target=attend, args=(connection,), daemon=True).start()

        def attend(connection: socket.socket) -> None:
            with contextlib.suppress(OSError, ValueError), connection:
                serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        yield f"{reaching.TLS}127.0.0.1:{port}"
        stopped.set()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
        thread.join(5)


@contextlib.contextmanager
def listener(credentials: Credentials) -> Iterator[str]:
    """Yield the address of an nng listener that answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"{reaching.TLS}127.0.0.1:{probe.getsockname()[1]}"
    with nng.closing(open_rep(1 << 20)) as found:
        listen(found, address, credentials)
        yield address


def answering(credentials: Credentials, largest: int = 1 << 20, version: int = 1) -> Callable[[socket.socket], None]:
    """Return what answers pings as a node does; of those in packets as usual, none longer than ``largest``."""
    context = mutual.listening(credentials)

    def read(secure: ssl.SSLSocket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (part := secure.recv(size - len(data))):
                raise ConnectionResetError
            data += part
        return data

    def serve(connection: socket.socket) -> None:
        usual = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > 600
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.sendall(sp.ANSWERS)
            assert read(secure, len(sp.ASKS)) == sp.ASKS
            while True:
                length, number = struct.unpack(">QI", read(secure, 12))
                read(secure, length - 4)
                if length > largest and usual:
                    read(secure, 1)
                frame = b"".join(bytes(part) for part in Codec().encode(REPLY, Header(1), Pong(0.0, "9.9")))
                frame = frame[:4] + bytes([version]) + frame[5:]
                secure.sendall(struct.pack(">QI", len(frame) + 4, number) + frame)

    return serve


def test_a_node_that_answers() -> None:
    server = home().node()
    with place(answering(server)) as address:
        found = explain(address, home().node(), server.node, roster=lambda _: ("worker",))
    assert (found.cause, found.node) == ("none", server.node)


def test_large_packets_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "PATIENCE", 0.3)
    server = home().node()
    with place(answering(server, largest=1400)) as address:
        found = explain(address, home().node())
    assert (found.cause, found.node) == ("mtu", server.node)
    assert "small packets reach" in found.message
    assert "tcp_mtu_probing" in found.fix


def test_it_answers_in_another_version() -> None:
    with place(answering(home().node(), version=9)) as address:
        found = explain(address, home().node())
    assert (found.cause, "version 9 is not spoken" in found.message) == ("version", True)


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"{reaching.TLS}127.0.0.1:{probe.getsockname()[1]}"
    found = explain(address, home().node())
    assert found.cause == "refused"
    assert "nothing listens" in found.message


@pytest.mark.parametrize("address", ["tls+tcp://nosuchhost.invalid:7443", "tcp://127.0.0.1:7443", "tls+tcp://h:0", "x"])
def test_what_is_no_address(address: str) -> None:
    found = explain(address, home().node())
    assert found.cause == "address"
    assert found.fix


def test_it_speaks_ssh() -> None:
    with place(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")) as address:
        found = explain(address, home().node())
    assert (found.cause, "speaks SSH" in found.message) == ("no-tls", True)


def test_it_speaks_plain_http() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with place(serve) as address:
        found = explain(address, home().node())
    assert (found.cause, "speaks plain HTTP" in found.message) == ("no-tls", True)


def test_it_hangs_up() -> None:
    with place(lambda connection: connection.close()) as address:
        assert explain(address, home().node()).cause == "no-tls"


def test_it_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "PATIENCE", 0.2)
    with place(lambda connection: [connection.recv(4096) for _ in range(9)] and None) as address:
        found = explain(address, home().node())
    assert (found.cause, "says nothing" in found.message) == ("silent", True)


def test_it_speaks_an_older_tls() -> None:
    context = mutual.listening(home().node())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with place(lambda connection: context.wrap_socket(connection, server_side=True).close()) as address:
        assert explain(address, home().node()).cause == "old-tls"


def test_it_is_of_another_network() -> None:
    with listener(Network("other").node()) as address:
        found = explain(address, home().node())
    assert (found.cause, "another network" in found.message) == ("other-network", True)


def test_an_expired_certificate_of_another_network_is_of_another_network() -> None:
    with listener(Network("other").node(life=(-9, -3))) as address:
        assert explain(address, home().node()).cause == "other-network"


def test_its_certificate_has_expired() -> None:
    server = home().node(life=(-9, -3))
    with listener(server) as address:
        found = explain(address, home().node())
    assert (found.cause, found.node) == ("expired", server.node)
    assert "expired 3 days ago" in found.message


def test_its_certificate_is_not_valid_yet() -> None:
    with listener(home().node(life=(2.1, 9))) as address:
        found = explain(address, home().node())
    assert found.cause == "not-yet-valid"
    assert "2 days" in found.fix
    assert "behind" in found.fix


def test_this_nodes_own_certificate_has_expired() -> None:
    found = explain("tls+tcp://127.0.0.1:1", home().node(life=(-9, -1.5)))
    assert (found.cause, "expired 1 day ago" in found.message) == ("own-certificate", True)


def test_this_nodes_own_certificate_is_not_valid_yet() -> None:
    found = explain("tls+tcp://127.0.0.1:1", home().node(life=(0.2, 9)))
    assert (found.cause, "behind by 4 hours" in found.fix) == ("own-certificate", True)


def test_another_node_is_there() -> None:
    server, meant = home().node(), home().node().node
    with listener(server) as address:
        found = explain(address, home().node(), meant)
    assert (found.cause, found.node) == ("wrong-node", server.node)
    assert meant in found.message


def test_a_revoked_node_is_there() -> None:
    server = home().node()
    with listener(server) as address:
        found = explain(address, home().node(), server.node, roster=lambda _: None)
    assert (found.cause, found.node) == ("not-a-member", server.node)


def test_it_does_not_know_this_nodes_network() -> None:
    # It shows what this node trusts, and itself trusts another root: a rotation of roots that it has missed.
    server, other = home().node(), Network("other")
    half = Credentials(server.node, server.key_pem, server.chain_pem, other.root.pem)
    with listener(half) as address:
        found = explain(address, home().node())
    assert (found.cause, found.node) == ("turned-away", server.node)
    assert "does not accept" in found.message


def test_it_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "PATIENCE", 0.2)
    with listener(home().node()) as address:
        assert explain(address, home().node()).cause == "silent"
