"""What strangers throw at the door to other hosts: each with its expected result, and the server well after it.

Attacks have numbers. ``test_hostile_members`` beside this has those of nodes that are in, ``tests/discovery`` those on
the hash table, multicast and relays.

51  noise, 1,500 times: nobody is disturbed
        test_noise_disturbs_nobody
52  HTTP on the TLS port: no answer that helps
        test_what_is_no_tls_gets_no_answer_that_helps
53  TLS 1.0, 1.1 and 1.2: refused
        test_older_tls_is_refused
54  no certificate: refused
        test_no_certificate_is_refused
55  another authority: refused
        test_a_certificate_that_does_not_hold_is_refused
56  one of the same name: refused
        test_a_certificate_that_does_not_hold_is_refused
57  expired: refused
        test_a_certificate_that_does_not_hold_is_refused
58  not valid yet: refused
        test_a_certificate_that_does_not_hold_is_refused
59  signed by a node: refused, by servers and clients
        test_a_server_that_does_not_hold_is_not_spoken_to
60  for the wrong side of TLS: refused, by servers and clients
        test_a_server_that_does_not_hold_is_not_spoken_to
61  an unknown critical extension: refused
        test_a_certificate_that_does_not_hold_is_refused
62  revoked: not heard; cut off within 5 s
        tests/drivers/rpc/test_door.py::test_revocation_reaches_live_connections
63  a list of revoked that ran out: there is none to run out
        test_a_roster_of_years_ago_still_counts
64  300 half-open connections: ended; members are answered meanwhile, and stay
        test_handshakes_that_never_end_are_ended
65  all files taken: see there
        tests/drivers/host/test_descriptors.py::test_strangers_that_take_all_files_lock_nobody_out_for_long
90  games with names: refused
        test_a_name_that_is_no_nodes_is_refused
91  coming again and again: kept waiting, for a minute
        tests/drivers/rpc/test_door.py::test_who_comes_again_and_again_is_kept_waiting
"""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import time
import warnings
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from certificates import Issuer, Network, home, named
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from doorway import MAX, Doorway, Hands, attack, frame, is_well, open_files, soon, wait_closed
from nngrep import listen, open_rep

from tetherd.drivers.identity import certificates
from tetherd.drivers.rpc import nng, reaching, sp
from tetherd.drivers.tcp import mutual
from tetherd.errors import Unreachable
from tetherd.types import Credentials
from tetherd.wire import signing
from tetherd.wire.messages import GetFleet
from tetherd.wire.roster import Member, Roster


@pytest.fixture
async def doorway(tmp_path: Path) -> AsyncIterator[Doorway]:
    async with Doorway(tmp_path).open() as made:
        yield made
        assert await is_well(made)


# --- without a certificate of the network ----------------------------------------------------------------------------


def throw(port: int, data: bytes) -> bytes:
    """Send bytes and return what comes back until the end, or for a moment."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.3) as plain:
        plain.sendall(data)
        return plain.recv(4096)
    return b""


async def test_noise_disturbs_nobody(doorway: Doorway) -> None:
    noise, files = random.Random(51), open_files()

    def make_noise() -> None:
        with ThreadPoolExecutor(16) as pool:
            words = [noise.randbytes(noise.randrange(1, 2000)) for _ in range(1500)]
            list(pool.map(throw, [doorway.port] * len(words), words))

    with doorway.calling(doorway.member()) as caller:
        await caller.call(GetFleet(), deadline=soon())
        noisy = asyncio.create_task(attack(make_noise))
        slowest = 0.0
        while not noisy.done():
            began = time.monotonic()
            await caller.call(GetFleet(), deadline=soon())
            slowest = max(slowest, time.monotonic() - began)
        await noisy
    assert slowest < 2
    await wait_closed(files + 4)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        sp.ASKS + struct.pack(">QI", 12, 1) + b"12345678",  # as if it were plain tcp://
        b"\x16\x03\x01\xff\xff" + b"\1" * 100,
        b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff",
        b"",
    ],
)
async def test_what_is_no_tls_gets_no_answer_that_helps(doorway: Doorway, data: bytes) -> None:
    answer = await attack(throw, doorway.port, data)
    assert not answer.startswith((b"HTTP", b"\0SP\0"))
    assert not doorway.contexts


def enters(port: int, context: ssl.SSLContext) -> bool:
    """Tell whether a TLS client gets as far as the protocol above."""
    try:
        plain = socket.create_connection(("127.0.0.1", port), 5)
        with context.wrap_socket(plain) as secure:
            return secure.recv(8) == sp.ANSWERS
    except (OSError, ssl.SSLError):
        return False


def trusting(credentials: Credentials) -> ssl.SSLContext:
    """Return the context of a client that believes any server."""
    context = mutual.dialling(credentials)
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_older_tls_is_refused(doorway: Doorway, version: ssl.TLSVersion) -> None:
    context = trusting(doorway.member())
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    assert not await attack(enters, doorway.port, context)


async def test_no_certificate_is_refused(doorway: Doorway) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    assert not await attack(enters, doorway.port, context)


def leaf_as_authority() -> Credentials:
    """Return a certificate that another node's signed."""
    parent = home().node()
    leaf = x509.load_pem_x509_certificate(parent.chain_pem.encode())
    key: Any = serialization.load_pem_private_key(parent.key_pem.encode(), None)
    return home().node(issuer=Issuer(key, leaf))


SPOILT: dict[str, Callable[[], Credentials]] = {
    "another network": lambda: Network("other").node(),
    "another network of the same name": lambda: Network("home").node(),
    "expired": lambda: home().node(life=(-9, -0.01)),
    "not valid yet": lambda: home().node(life=(0.1, 7)),
    "signed by a node": leaf_as_authority,
    "for servers only": lambda: home().node(usage=(ExtendedKeyUsageOID.SERVER_AUTH,)),
    "something critical that nobody knows": lambda: home().node(
        extra=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0")
    ),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_a_certificate_that_does_not_hold_is_refused(doorway: Doorway, how: str) -> None:
    spoilt = SPOILT[how]()
    doorway.roster[spoilt.node] = ("gateway",)
    assert not await attack(enters, doorway.port, trusting(spoilt))
    assert spoilt.node not in doorway.heard


async def test_a_good_certificate_gets_in(doorway: Doorway) -> None:
    assert await attack(enters, doorway.port, trusting(doorway.member()))


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda: Network("other").node(),
        lambda: home().node(life=(-9, -1)),
        lambda: home().node(usage=(ExtendedKeyUsageOID.CLIENT_AUTH,)),
        leaf_as_authority,
    ],
    ids=["another network", "expired", "for clients only", "signed by a node"],
)
async def test_a_server_that_does_not_hold_is_not_spoken_to(
    doorway: Doorway, spoilt: Callable[[], Credentials]
) -> None:
    evil = spoilt()
    with nng.closing(open_rep(MAX)) as server, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        listen(server, f"{reaching.TLS}127.0.0.1:{port}", evil)
        doorway.address = f"{reaching.TLS}127.0.0.1:{port}"
        with doorway.calling(doorway.member(), node=evil.node) as caller, pytest.raises(Unreachable):
            await caller.call(GetFleet(), deadline=soon(0.5))
        doorway.address = f"{reaching.TLS}127.0.0.1:{doorway.port}"


def twice(node: str) -> x509.Name:
    return named(node, "f" * 64)


def with_more(node: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, node), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "O")]
    )


def too_long(node: str) -> x509.Name:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node, _validate=False)])


NAMES: dict[str, Callable[[str], x509.Name]] = {
    "two": twice,
    "one and more": with_more,
    "upper case": lambda node: named(node.upper()),
    "short": lambda node: named(node[1:]),
    "with another after a comma": lambda node: named(node[:56] + ",CN=" + "ab"),
    "empty": lambda _: x509.Name([]),
    "no hexadecimal": lambda _: named("g" * 64),
    "not of this alphabet": lambda _: named("\u0660" * 32),
    "65 characters": lambda node: too_long(node + "0"),
    "an end in the middle": lambda node: named(node[:32] + "\0" + node[33:]),
    "spaces": lambda node: named(f" {node[1:-1]} "),
}


@pytest.mark.parametrize("how", NAMES)
async def test_a_name_that_is_no_nodes_is_refused(doorway: Doorway, how: str) -> None:
    odd = home().node(subject=NAMES[how])
    doorway.roster |= dict.fromkeys((odd.node, "f" * 64, odd.node.upper(), odd.node[1:]), ("gateway",))

    def speak() -> Any:
        with contextlib.suppress(OSError, ssl.SSLError):
            hands = Hands(doorway.port, odd)
            answer = hands.ask(frame(GetFleet()))
            hands.close()
            return answer
        return None

    answer = await attack(speak)
    assert answer is None
    assert not doorway.heard & {odd.node, "f" * 64}


async def test_handshakes_that_never_end_are_ended(doorway: Doorway) -> None:
    files = open_files()
    with doorway.calling(doorway.member()) as caller:
        await caller.call(GetFleet(), deadline=soon())
        silent = [await asyncio.open_connection("127.0.0.1", doorway.port) for _ in range(300)]
        for index, (_, writer) in enumerate(silent):
            writer.write([b"", b"\x16\x03\x01\x02\x00\x01\x00", b"\x16"][index % 3])
        began = time.monotonic()
        await caller.call(GetFleet(), deadline=soon())
        assert time.monotonic() - began < 2
        assert not all(reader.at_eof() for reader, _ in silent), "it was answered while they were there"
        async with asyncio.timeout(10):
            for reader, writer in silent:
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
        await caller.call(GetFleet(), deadline=soon())
        assert len({context.peer for context in doorway.contexts}) == 1  # who was there stayed
    await wait_closed(files + 6)


def test_a_roster_of_years_ago_still_counts() -> None:
    """Lists of revoked certificates lock everybody out when they run out: what says who is revoked never does."""
    now = time.time()
    root = certificates.make_root(now - 5 * 365 * certificates.DAY)
    issuing = certificates.make_issuing(root, now - 2 * 365 * certificates.DAY)
    gone = Member(node="a" * 64, name="gone", roles=("worker",), revoked=now - 365 * certificates.DAY)
    old = Roster(network="0" * 16, name="home", epoch=7, issued=now - 550 * certificates.DAY, members=(gone,), roots=())
    signed = signing.sign(old, issuing.key, issuing.certificate)
    found = signing.verify(signed, [root.certificate], "0" * 16)
    assert found.member("a" * 64) is None
