"""Who gets through a handshake of plain sockets, and as whom."""

import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from certificates import Network, home, named
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tetherd.drivers.tcp.mutual import dialling, listening, peer
from tetherd.errors import BadConfig, PermissionDenied
from tetherd.types import Credentials


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        mine.settimeout(10)
        theirs.settimeout(10)
        yield mine, theirs


def meet(pair, client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[str, str]:
    """Shake hands; return whom the client and the server each met. Raises what either of them raises."""
    seen: list[str | Exception] = []

    def serve() -> None:
        try:
            with server.wrap_socket(pair[1], server_side=True) as connection:
                seen.append(peer(connection))
                connection.sendall(b"welcome")
        except (OSError, PermissionDenied) as error:
            seen.append(error)
            pair[1].close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(pair[0]) as connection:
            met = peer(connection)
            connection.recv(10)  # a refused certificate shows only now
    finally:
        pair[0].close()
        thread.join(20)
    if isinstance(seen[0], Exception):
        raise seen[0]
    return met, str(seen[0])


def test_both_know_whom_they_met(pair) -> None:
    client, server = home().node(), home().node()
    assert meet(pair, dialling(client), listening(server)) == (server.node, client.node)


def spoilt(kind: str) -> Credentials:
    foreign = Network("home")
    return {
        "another network": foreign.node,
        "expired": lambda: home().node(life=(-3, -1)),
        "not yet valid": lambda: home().node(life=(1, 3)),
        "server only": lambda: home().node(usage=(ExtendedKeyUsageOID.SERVER_AUTH,)),
        "two names": lambda: home().node(subject=lambda node: named(node, node)),
        "no id": lambda: home().node(subject=lambda node: named(node.upper())),
        "more": lambda: home().node(
            subject=lambda node: x509.Name([*named(node), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o")])
        ),
    }[kind]()


KINDS = ["another network", "expired", "not yet valid", "two names", "no id", "more"]


@pytest.mark.parametrize("kind", [*KINDS, "server only"])
def test_a_spoilt_client_gets_nowhere(pair, kind: str) -> None:
    found = spoilt(kind)
    client = Credentials(found.node, found.key_pem, found.chain_pem, home().root.pem)
    with pytest.raises((OSError, PermissionDenied)):
        meet(pair, dialling(client), listening(home().node()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_server_hears_nothing(pair, kind: str) -> None:
    with pytest.raises((OSError, PermissionDenied)):
        meet(pair, dialling(home().node()), listening(spoilt(kind)))


def test_without_a_certificate_there_is_no_way_in(pair) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(cadata=home().root.pem)
    with pytest.raises(OSError, match=r"(?i)certificate|closed|EOF"):
        meet(pair, client, listening(home().node()))


def test_older_tls_is_not_spoken(pair) -> None:
    client = dialling(home().node())
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match=r"(?i)version|closed|EOF|reset"):
        meet(pair, client, listening(home().node()))


@pytest.mark.parametrize("field", ["key_pem", "chain_pem", "roots_pem"])
def test_damaged_credentials_are_a_clear_error(field: str) -> None:
    good = home().node()
    values = {name: getattr(good, name) for name in ("node", "key_pem", "chain_pem", "roots_pem")}
    with pytest.raises(BadConfig, match="certificate cannot be used"):
        listening(Credentials(**values | {field: "-----BEGIN NOTHING-----"}))
