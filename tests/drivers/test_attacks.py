"""What is thrown at the door to other hosts: each with its expected result, and the server well after it."""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Issuer, Network, home, named
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from doorway import MAX, Doorway, Hands, code, frame, is_well, open_files, soon, wait_closed

from tetherd.drivers import mutual, nng, tls
from tetherd.drivers.door import MAX_EXCESS
from tetherd.drivers.handshakes import Handshakes
from tetherd.drivers.rpc import MAX_BAD_FRAMES
from tetherd.errors import Unreachable
from tetherd.policy.admission import REJECTS
from tetherd.types import Credentials, Tensor
from tetherd.wire.frames import REPLY
from tetherd.wire.messages import GetBlob, GetFleet, PutBlob, Remove


@pytest.fixture
async def doorway(tmp_path: Path) -> AsyncIterator[Doorway]:
    async with Doorway(tmp_path).open() as made:
        yield made
        assert await is_well(made)


async def attack(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do something blocking beside the server."""
    async with asyncio.timeout(30):
        return await asyncio.to_thread(work, *arguments)


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
        for _ in range(150):
            throw(doorway.port, noise.randbytes(noise.randrange(1, 2000)))

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
        tls.ASKS + struct.pack(">QI", 12, 1) + b"12345678",  # as if it were plain tcp://
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
            return secure.recv(8) == tls.ANSWERS
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
    with nng.closing(nng.open_rep(MAX)) as server, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        nng.listen(server, f"{nng.TLS}127.0.0.1:{port}", evil)
        doorway.address = f"{nng.TLS}127.0.0.1:{port}"
        with doorway.calling(doorway.member(), node=evil.node) as caller, pytest.raises(Unreachable):
            await caller.call(GetFleet(), deadline=soon(0.5))
        doorway.address = f"{nng.TLS}127.0.0.1:{doorway.port}"


def twice(node: str) -> x509.Name:
    return named(node, "f" * 64)


def with_more(node: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, node), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "O")]
    )


NAMES: dict[str, Callable[[str], x509.Name]] = {
    "two": twice,
    "one and more": with_more,
    "upper case": lambda node: named(node.upper()),
    "short": lambda node: named(node[1:]),
    "with another after a comma": lambda node: named(node[:56] + ",CN=" + "ab"),
    "empty": lambda _: x509.Name([]),
    "no hexadecimal": lambda _: named("g" * 64),
    "not of this alphabet": lambda _: named("\u0660" * 32),
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
    doorway.door._handshakes = Handshakes({doorway.port}, patience=0.5, most=60)
    files = open_files()
    with doorway.calling(doorway.member()) as caller:
        await caller.call(GetFleet(), deadline=soon())
        silent = [await asyncio.open_connection("127.0.0.1", doorway.port) for _ in range(100)]
        for index, (_, writer) in enumerate(silent):
            writer.write([b"", b"\x16\x03\x01\x02\x00\x01\x00", b"\x16"][index % 3])
        async with asyncio.timeout(10):
            for reader, writer in silent:
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
        await caller.call(GetFleet(), deadline=soon())
        assert doorway.contexts[0].peer == doorway.contexts[1].peer  # who was there stayed
    await wait_closed(files + 6)


async def test_a_handshake_and_then_nothing_is_ended(doorway: Doorway) -> None:
    doorway.door._handshakes = Handshakes({doorway.port}, patience=0.5)

    def wait() -> bytes:
        plain = socket.create_connection(("127.0.0.1", doorway.port), 10)
        with mutual.dialling(doorway.member()).wrap_socket(plain) as secure:
            secure.recv(8)
            with contextlib.suppress(OSError):
                return secure.recv(8)
            return b""

    assert await attack(wait) == b""


# --- as a node of the network that is hostile ------------------------------------------------------------------------


@pytest.mark.parametrize("hello", [b"\0SP\0\0\x20\0\0", b"\0SP\1\0\x30\0\0", b"HTTP/1.1", b"\xff" * 8])
async def test_another_protocol_is_not_spoken(doorway: Doorway, hello: bytes) -> None:
    def speak() -> Any:
        hands = Hands(doorway.port, doorway.member(), hello)
        answer = hands.ask(frame(GetFleet()))
        hands.close()
        return answer

    assert await attack(speak) is None
    assert not doorway.contexts


@pytest.mark.parametrize("length", [MAX + 65, 2**31, 2**40, 2**63, 2**64 - 32, 2**64 - 1])
async def test_an_impossible_length_ends_that_connection_alone(doorway: Doorway, length: int) -> None:
    def speak() -> bytes:
        hands = Hands(doorway.port, doorway.member())
        with contextlib.suppress(OSError):
            hands.socket.sendall(struct.pack(">Q", length) + b"x" * 1000)
        rest = hands.read(1)
        hands.close()
        return rest

    assert await attack(speak) == b""


@pytest.mark.parametrize("length", [0, 1, 3])
async def test_a_message_without_room_for_its_number_ends_that_connection_alone(doorway: Doorway, length: int) -> None:
    def speak() -> bytes:
        hands = Hands(doorway.port, doorway.member())
        hands.socket.sendall(struct.pack(">Q", length) + b"x" * length)
        rest = hands.read(1)
        hands.close()
        return rest

    assert await attack(speak) == b""


async def test_a_message_of_the_largest_size_is_taken(doorway: Doorway) -> None:
    def speak() -> str:
        hands = Hands(doorway.port, doorway.member())
        answer = hands.ask(bytes(MAX))
        hands.close()
        return code(answer)

    assert await attack(speak) == "BAD_FRAME"


async def test_malformed_frames_are_counted_and_then_the_connection_ends(doorway: Doorway) -> None:
    node = doorway.member()

    def speak() -> int:
        hands, whole = Hands(doorway.port, node), frame(GetFleet())
        refused = 0
        for number in range(MAX_BAD_FRAMES + 5):
            answer = hands.ask(whole[: number % len(whole)])
            if answer is None:
                break
            refused += code(answer) == "BAD_FRAME"
        hands.close()
        return refused

    assert MAX_BAD_FRAMES - 1 <= await attack(speak) <= MAX_BAD_FRAMES
    assert not doorway.heard


async def test_who_sends_malformed_frames_again_and_again_is_not_heard_for_a_while(doorway: Doorway) -> None:
    node = doorway.member()

    def speak() -> str:
        hands = Hands(doorway.port, node)
        for _ in range(MAX_BAD_FRAMES + 1):
            if hands.ask(b"nonsense") is None:
                break
        hands.close()
        return ""

    for _ in range(REJECTS):
        await attack(speak)

    def ask() -> str:
        hands = Hands(doorway.port, node)
        answer = code(hands.ask(frame(GetFleet())))
        hands.close()
        return answer

    assert await attack(ask) == "PERMISSION_DENIED"


@pytest.mark.parametrize("spoil", [{"method": "no.such"}, {"method": ""}, {"kind": REPLY}])
async def test_what_nobody_answers_is_said_so_and_the_connection_kept(doorway: Doorway, spoil: dict[str, Any]) -> None:
    node = doorway.member()

    def speak() -> tuple[str, bool]:
        hands = Hands(doorway.port, node)
        first = code(hands.ask(frame(GetFleet(), **spoil)))
        kept = hands.ask(frame(GetFleet(), 2)) is not None
        hands.close()
        return first, kept

    expected = "BAD_FRAME" if "kind" in spoil else "UNIMPLEMENTED"
    assert await attack(speak) == (expected, True)


async def test_another_version_of_the_protocol_is_told_apart_and_the_connection_kept(doorway: Doorway) -> None:
    node, whole = doorway.member(), frame(GetFleet())

    def speak() -> tuple[str, bool]:
        hands = Hands(doorway.port, node)
        first = code(hands.ask(whole[:4] + b"\x09" + whole[5:]))
        kept = hands.ask(whole) is not None
        hands.close()
        return first, kept

    assert await attack(speak) == ("UNIMPLEMENTED", True)


async def test_a_node_is_what_its_certificate_says_whatever_it_sends(doorway: Doorway) -> None:
    node, victim = doorway.member("worker"), doorway.member("gateway")

    def speak() -> str:
        hands = Hands(doorway.port, node)
        answer = code(hands.ask(frame(Remove(victim.node))))
        hands.ask(frame(GetFleet(), 2))
        hands.close()
        return answer

    assert await attack(speak) == "PERMISSION_DENIED"
    assert doorway.heard == {node.node}


async def test_pickles_stay_bytes(doorway: Doorway, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    node = doorway.member("gateway")

    def speak() -> None:
        hands = Hands(doorway.port, node)
        hands.ask(pickle)
        hands.ask(frame(GetFleet(), method=pickle.decode()))
        hands.ask(frame(PutBlob(pickle.decode(), 0, 9, Tensor("data", "UINT8", (len(pickle),), pickle)), 3))  # type: ignore[arg-type]
        hands.close()

    await attack(speak)
    assert node.node in doorway.heard
    assert not canary.exists()


async def test_a_flood_is_held_to_its_share(tmp_path: Path) -> None:
    async with Doorway(tmp_path, rate=200.0, burst=300.0).open() as doorway:
        node = doorway.member()

        def flood() -> tuple[int, int]:
            hands, whole = Hands(doorway.port, node), frame(GetFleet())
            refused = asked = 0
            for _ in range(MAX_EXCESS * 3):
                answer = hands.ask(whole)
                if answer is None:
                    break
                asked += 1
                refused += answer.kind != REPLY
            hands.close()
            return asked, refused

        with doorway.calling(doorway.member()) as caller:
            await caller.call(GetFleet(), deadline=soon())
            flooding = asyncio.create_task(attack(flood))
            while not flooding.done():
                began = time.monotonic()
                await caller.call(GetFleet(), deadline=soon())
                assert time.monotonic() - began < 2
                await asyncio.sleep(0.02)
        asked, refused = await flooding
        assert MAX_EXCESS - 1 <= refused < 2 * MAX_EXCESS  # it ends a little after it is told to
        assert asked < MAX_EXCESS * 3
        assert sum(context.node == node.node for context in doorway.contexts) <= asked - refused


async def test_who_reads_nothing_is_dropped_in_the_end(doorway: Doorway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tetherd.drivers.contexts.MAX_UNREAD", 16 << 20)
    node = doorway.member()

    def gorge() -> None:
        hands = Hands(doorway.port, node)
        with contextlib.suppress(OSError, ssl.SSLError):
            for number in range(200):
                hands.say(frame(GetBlob("x", 0, 1 << 20), number), 0x80000000 + number)  # type: ignore[arg-type]
        until = time.monotonic() + 10
        while time.monotonic() < until and node.node in doorway.door._nodes.values():
            time.sleep(0.02)
        hands.close()

    with doorway.calling(doorway.member()) as caller:
        await caller.call(GetFleet(), deadline=soon())
        gorging = asyncio.create_task(attack(gorge))
        while not gorging.done():
            await caller.call(GetFleet(), deadline=soon())
            await asyncio.sleep(0.05)
        await gorging
    assert node.node not in doorway.door._nodes.values()


async def test_a_connection_that_ends_as_it_begins_leaves_nothing(doorway: Doorway) -> None:
    node, files = doorway.member(), open_files()

    def touch() -> None:
        for _ in range(30):
            Hands(doorway.port, node).close()

    await attack(touch)
    await asyncio.sleep(1.5)  # nng does not tell of all their ends: a second later they are looked for
    assert not doorway.door._nodes
    await wait_closed(files + 2)


# --- a hostile server ------------------------------------------------------------------------------------------------


async def test_answers_that_nobody_asked_for_are_dropped() -> None:
    server, client = home().node(), home().node()
    context = mutual.listening(server)

    def serve(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True) as secure:
            secure.sendall(tls.ANSWERS)
            secure.recv(8)
            asked = secure.recv(4096)
            while len(asked) < 12 or len(asked) < 8 + struct.unpack(">Q", asked[:8])[0]:
                asked += secure.recv(4096)
            asked = asked[8:]
            number = struct.unpack(">I", asked[:4])[0]
            wrong = frame(GetFleet(), kind=REPLY)
            for other in (number ^ 1, 0x80000000, 0xFFFFFFFF, number ^ 1):
                secure.sendall(struct.pack(">QI", len(wrong) + 4, other) + wrong)
            right = frame(GetBlob("right", 7, 8), kind=REPLY)  # type: ignore[arg-type]
            secure.sendall(struct.pack(">QI", len(right) + 4, number) + right)
            secure.sendall(struct.pack(">QI", len(wrong) + 4, number) + wrong)
            secure.settimeout(5)
            with contextlib.suppress(OSError):
                secure.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        address = f"{nng.TLS}127.0.0.1:{listener.getsockname()[1]}"

        def ask() -> Any:
            with nng.closing(nng.open_req(MAX, server.node)) as socket_:
                nng.dial(socket_, address, nng.Secret(client, server.node))
                socket_.send_timeout = socket_.recv_timeout = 5000
                socket_.send(frame(GetFleet()))
                return socket_.recv()

        answer = await attack(ask)
        assert b"right" in answer
        await serving
