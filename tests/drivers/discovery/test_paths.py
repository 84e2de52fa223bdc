"""Probing over real sockets: every way an address can fail has its reason, and the best that answers wins."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from certificates import Network, home, named

from tetherd.discovery.addresses import MAX_DIALS
from tetherd.discovery.racing import Attempt, Missed, Reached
from tetherd.drivers.discovery.paths import TlsProber
from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.tcp.mutual import dialling, listening
from tetherd.types import Credentials

ME = home().node()


@pytest.fixture
def prober() -> TlsProber:
    return TlsProber(dialling(ME), SystemClock(), timeout=2.0)


@asynccontextmanager
async def node(credentials: Credentials, *, delay: float = 0.0) -> AsyncIterator[str]:
    """A peer's listener. With a ``delay`` its host takes the connection, and the handshake waits."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.transport.abort()

    async def begin() -> asyncio.Server:
        await asyncio.sleep(delay)
        return await asyncio.start_server(serve, sock=listener, ssl=listening(credentials))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        beginning = asyncio.create_task(begin())
        if not delay:
            await beginning
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        server = await beginning
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def speaker(act: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[str]:
    """Something that is no peer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        act(writer)
        with contextlib.suppress(OSError):
            await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def missed(prober: TlsProber, address: str, expected: str = "") -> Missed:
    return await missed_by(prober, Attempt(address, "lan"), expected)


async def missed_by(prober: TlsProber, attempt: Attempt, expected: str = "") -> Missed:
    result = await prober.probe(attempt, expected)
    assert isinstance(result, Missed)
    assert result.detail
    return result


async def test_a_peer_is_reached_and_known_by_its_key(prober: TlsProber) -> None:
    other = home().node()
    async with node(other) as address:
        result = await prober.probe(Attempt(address, "lan"), other.node)
        assert isinstance(result, Reached)
        assert (result.node, result.path, result.address) == (other.node, "lan", address)
        assert 0 < result.rtt < 1


async def test_a_name_is_looked_up(prober: TlsProber) -> None:
    async with node(home().node()) as address:
        result = await prober.probe(Attempt(address.replace("127.0.0.1", "localhost"), "direct"))
        assert isinstance(result, Reached)


async def test_another_nodes_key_is_told(prober: TlsProber) -> None:
    other = home().node()
    async with node(other) as address:
        result = await missed(prober, address, "f" * 64)
        assert (result.reason, result.found) == ("certificate", other.node)


@pytest.mark.parametrize(
    ("credentials", "reason", "word"),
    [
        (lambda: Network("other").node(), "other-network", "not of this network"),
        (lambda: home().node(life=(-9, -1)), "certificate", "expired"),
        (lambda: home().node(life=(1, 9)), "clock", "not valid yet"),
        (lambda: home().node(subject=lambda node: named("box")), "certificate", "does not name a node"),
    ],
)
async def test_a_wrong_certificate_has_its_reason(
    prober: TlsProber, credentials: Callable[[], Credentials], reason: str, word: str
) -> None:
    async with node(credentials()) as address:
        result = await missed(prober, address)
        assert result.reason == reason
        assert word in result.detail


@pytest.mark.parametrize(
    "act",
    [
        lambda writer: writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda writer: writer.close(),
        lambda writer: writer.transport.abort(),
    ],
)
async def test_what_speaks_no_tls_has_its_reason(
    prober: TlsProber, act: Callable[[asyncio.StreamWriter], None]
) -> None:
    async with speaker(act) as address:
        assert (await missed(prober, address)).reason == "certificate"


async def test_a_silent_one_is_given_up(prober: TlsProber) -> None:
    async with speaker(lambda writer: None) as address:
        prober = TlsProber(dialling(ME), SystemClock(), timeout=0.2)
        result = await missed(prober, address)
        assert (result.reason, "says nothing within 0.2 s" in result.detail) == ("silent", True)


@pytest.mark.parametrize(
    ("address", "word"),
    [
        (lambda: f"127.0.0.1:{free_port()}", "nothing listens"),
        (lambda: "no-such-name.invalid:7443", "not known"),
        (lambda: "nonsense", "HOST:PORT"),
        (lambda: "ipc:///nowhere/x.sock", "not running"),
    ],
)
async def test_nothing_there_has_its_reason(prober: TlsProber, address: Callable[[], str], word: str) -> None:
    assert word in (await missed(prober, address())).detail


async def test_a_daemon_of_this_host_is_reached_on_its_socket(prober: TlsProber, tmp_path: Path) -> None:
    path = tmp_path / "rpc.sock"
    server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), path)
    result = await prober.probe(Attempt(f"ipc://{path}", "local"), "a" * 64)
    assert isinstance(result, Reached)
    assert (result.path, result.node) == ("local", "a" * 64)
    server.close()
    await server.wait_closed()


async def test_the_best_that_answers_wins_and_the_others_have_reasons(prober: TlsProber) -> None:
    other = home().node()
    async with node(other) as address:
        attempts = [
            Attempt(f"127.0.0.1:{free_port()}", "lan"),
            Attempt(address, "direct"),
            Attempt(f"127.0.0.1:{free_port()}", "relay:r1"),
        ]
        outcome = await prober.race(attempts, other.node)
        assert outcome.best is not None
        assert (outcome.best.address, outcome.best.path) == (address, "direct")
        assert [one.address for one in outcome.missed] == [attempts[0].address]


async def test_a_slow_direct_path_beats_a_fast_relay(prober: TlsProber) -> None:
    other = home().node()
    async with node(other, delay=0.25) as slow, node(other) as fast:
        outcome = await prober.race([Attempt(slow, "direct"), Attempt(fast, "relay:r1")], other.node)
        assert outcome.best is not None
        assert outcome.best.path == "direct"


async def test_a_silent_direct_path_leaves_the_relay(prober: TlsProber) -> None:
    other = home().node()
    async with speaker(lambda writer: None) as dead, node(other) as fast:
        outcome = await prober.race([Attempt(dead, "direct"), Attempt(fast, "relay:r1")], other.node)
        assert outcome.best is not None
        assert outcome.best.path == "relay:r1"


async def test_nothing_to_try_is_nothing_found(prober: TlsProber) -> None:
    assert (await prober.race([])).best is None


async def test_an_impostor_loses_to_the_owner(prober: TlsProber) -> None:
    owner, thief = home().node(), home().node()
    async with node(thief) as wrong, node(owner) as right:
        outcome = await prober.race([Attempt(wrong, "lan"), Attempt(right, "lan")], owner.node)
        assert outcome.best is not None
        assert outcome.best.address == right
        assert [one.found for one in outcome.missed] == [thief.node]


async def test_probes_leave_nothing_open(prober: TlsProber) -> None:
    other = home().node()
    before = descriptors()
    async with node(other) as address, speaker(lambda writer: None) as dead:
        for _ in range(10):
            await prober.race(
                [Attempt(dead, "lan"), Attempt(address, "lan"), Attempt("127.0.0.1:1", "lan")], other.node
            )
    async with asyncio.timeout(5):
        while descriptors() > before + 2:  # noqa: ASYNC110  # descriptors make no events
            await asyncio.sleep(0.01)


async def test_unproven_addresses_are_tried_a_few_times_a_minute(prober: TlsProber) -> None:
    attempt = Attempt("127.0.0.1:1", "lan", free=False)
    reasons = [(await missed_by(prober, attempt)).reason for _ in range(MAX_DIALS + 5)]
    assert reasons == ["unreachable"] * MAX_DIALS + ["full"] * 5
    assert (await missed_by(prober, Attempt("127.0.0.1:1", "lan"))).reason == "unreachable"
