"""Joining and renewing over HTTPS: who is believed, what is sent to whom, and what garbage achieves."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.identity import authority as authorities
from tetherd.drivers.identity import certificates, enrolment, joining
from tetherd.drivers.identity.authority import NetworkAuthority
from tetherd.drivers.identity.enrolment import EnrolmentServer, Failures
from tetherd.drivers.identity.joining import Applicant
from tetherd.drivers.tcp import mutual
from tetherd.errors import (
    BadRoster,
    ClockSkew,
    InUse,
    PinMismatch,
    QueueFull,
    Revoked,
    TokenExpired,
    TokenUsed,
    Unreachable,
    WrongNetwork,
    WrongToken,
)
from tetherd.types import Credentials
from tetherd.wire.enrolment import Admission
from tetherd.wire.roster import Member
from tetherd.wire.signing import certificates as parse
from tetherd.wire.signing import key_digest
from tetherd.wire.tokens import JoinToken

CLOCK = SystemClock()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


class Network:
    """A founder's authority and its listener."""

    def __init__(self, folder: Path, *, now: float | None = None) -> None:
        now = CLOCK.wall() if now is None else now
        self.address = f"127.0.0.1:{free_port()}"
        authorities.found(folder, "home", now)
        self.authority = NetworkAuthority(folder, (self.address,))
        key = certificates.new_key()
        node = key_digest(key.public_key()).hex()
        founder = Member(node=node, name="founder", roles=("orchestrator",), joined=now)
        admission = self.authority.enlist(certificates.spki_of(key.public_key()), founder, now)
        self.roots = "".join(self.authority.roots)
        self.credentials = Credentials(node, certificates.key_pem(key).decode(), admission.chain, self.roots)
        self.admitted = 0
        self.server = EnrolmentServer(self.address, self.authority, self.credentials, clock=CLOCK, admitted=self._count)

    def _count(self) -> None:
        self.admitted += 1

    async def renew(self) -> str:
        """Have the listener show a new certificate of the founder, which is returned."""
        before = self.credentials
        public = certificates.spki_of(serialization.load_pem_private_key(before.key_pem.encode(), None).public_key())  # type: ignore[arg-type]
        founder = Member(node=before.node, name="founder", roles=("orchestrator",))
        chain = self.authority.enlist(public, founder, CLOCK.wall()).chain
        self.server.show(Credentials(before.node, before.key_pem, chain, before.roots_pem))
        for _ in range(10):
            await asyncio.sleep(0)  # the listener takes its turn
        return chain

    def invite(self, ttl: float = 60.0) -> JoinToken:
        return self.authority.invite(("worker",), ttl, "", CLOCK.wall())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Network"]:
        ready = asyncio.Event()
        task = asyncio.create_task(self.server.run(ready.set))
        await asyncio.wait({task, asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if task.done():
                await task
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.authority.close()


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with Network(tmp_path / "a").running() as found:
        yield found


class Host:
    """A host that wants to join."""

    def __init__(self, *, skew: float = 0.0, patience: float = joining.TIMEOUT) -> None:
        self.key = certificates.new_key()
        self.node = key_digest(self.key.public_key()).hex()
        self.applicant = Applicant(self.key, "w-1", ("192.0.2.7:7443",), lambda: CLOCK.wall() + skew, patience)

    async def join(self, token: JoinToken) -> tuple[Admission, str]:
        return await asyncio.to_thread(self.applicant.join, token)

    async def renew(self, network: str, addresses: Sequence[str], roots: str) -> tuple[Admission, str]:
        return await asyncio.to_thread(self.applicant.renew, network, addresses, roots)


REFUSAL = b'HTTP/1.1 403 Forbidden\r\nContent-Length: 34\r\n\r\n{"code": "revoked", "error": "no"}'


@contextlib.asynccontextmanager
async def answering(shown: Network, parts: list[bytes], *, pause: float) -> AsyncIterator[str]:
    """Answer every request with ``parts``, ``pause`` seconds apart, showing the certificate of a network's founder."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
        writer.close()

    context = mutual.listening(shown.credentials)
    context.verify_mode = ssl.CERT_NONE
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_a_host_joins_and_renews(network: Network) -> None:
    host, token = Host(), network.invite()
    admission, root = await host.join(token)
    roster = joining.check(admission, host.node, token.network, root)
    member = roster.member(host.node)
    assert member is not None
    assert (member.name, member.roles, member.addresses) == ("w-1", ("worker",), ())  # nobody dials a worker
    again, _ = await host.join(token)
    joining.check(again, host.node, token.network, root)
    renewed, trusted = await host.renew(token.network, roster.enrol, network.roots)
    assert trusted == network.roots
    joining.check(renewed, host.node, token.network, root)
    assert len({admission.chain, again.chain, renewed.chain}) == 3
    assert network.admitted == 3


async def test_hosts_still_join_after_the_listener_got_its_next_certificate(network: Network) -> None:
    before = network.credentials.chain_pem
    chain = await network.renew()
    await Host().join(network.invite())
    host, _, port = network.address.rpartition(":")
    shown = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    assert enrolment.leaf_digest(shown) == enrolment.leaf_digest(chain) != enrolment.leaf_digest(before)


async def test_join_tokens_of_before_lead_in_while_the_root_changes_and_after_it(network: Network) -> None:
    tokens = [network.invite() for _ in range(6)]
    (first,) = network.authority.roots
    for step in range(6):
        network.authority.rotate([], CLOCK.wall(), force=True)
        await network.renew()
        host = Host()
        admission, roots = await host.join(tokens[step])
        roster = joining.check(admission, host.node, tokens[step].network, roots)
        assert {each.subject for each in parse([roots])} <= {each.subject for each in parse(roster.roots)}
    assert first not in network.authority.roots


async def test_a_member_that_was_away_while_the_root_changed_renews(network: Network) -> None:
    host, token = Host(), network.invite()
    await host.join(token)
    for _ in range(3):
        network.authority.rotate(["w-1"], CLOCK.wall(), force=True)
    await network.renew()
    renewed, roots = await host.renew(token.network, token.addresses, network.roots)
    assert roots == "".join(network.authority.roots) != network.roots
    joining.check(renewed, host.node, token.network, roots)


async def test_a_root_that_no_former_one_vouches_for_leads_nowhere(network: Network, tmp_path: Path) -> None:
    async with Network(tmp_path / "b").running() as other:
        other.authority.lineage = network.authority.roots
        with pytest.raises(PinMismatch):
            await Host().join(msgspec.structs.replace(network.invite(), addresses=(other.address,)))


async def test_what_the_authority_refuses_is_said(network: Network) -> None:
    token, late = network.invite(), network.invite(ttl=-1)
    host = Host()
    await host.join(token)
    with pytest.raises(TokenUsed, match="another host"):
        await Host().join(token)
    with pytest.raises(TokenExpired, match="expired"):
        await Host().join(late)
    with pytest.raises(WrongToken):
        await Host().join(msgspec.structs.replace(token, secret=b"\0" * 16))
    network.authority.change(host.node, CLOCK.wall(), revoked=CLOCK.wall())
    with pytest.raises(Revoked):
        await host.renew(token.network, token.addresses, network.roots)


async def test_who_fails_too_often_waits(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    token = msgspec.structs.replace(network.invite(), secret=b"\0" * 16)
    for _ in range(enrolment.FAILURES):
        with pytest.raises(WrongToken):
            await Host().join(token)
    for _ in range(enrolment.FAILURES):
        with pytest.raises(QueueFull, match="attempts"):
            await Host().join(network.invite())
    assert caplog.text.count("refused") == enrolment.FAILURES, "a stranger fills no log"


async def test_another_root_is_noticed_before_anything_is_said(network: Network, tmp_path: Path) -> None:
    async with Network(tmp_path / "b").running() as other:
        token = msgspec.structs.replace(network.invite(), addresses=(other.address,))
        seen: list[str] = []
        real = other.server._answer

        async def watched(method: str, path: str, body: bytes, leaf: bytes) -> Any:
            seen.append(f"{method} {path} {len(body)}")
            return await real(method, path, body, leaf)

        other.server._answer = watched  # type: ignore[method-assign]
        with pytest.raises(PinMismatch, match="root key"):
            await Host().join(token)
        assert seen == ["GET /v1/network 0"]
        with pytest.raises(PinMismatch):
            await Host().renew(token.network, [other.address], network.roots)
        assert seen == ["GET /v1/network 0"] * 2


async def test_one_who_shows_the_right_root_without_its_certificates_gets_nothing(
    network: Network, tmp_path: Path
) -> None:
    async with Network(tmp_path / "b").running() as liar:
        liar.server._authority = network.authority  # tells of the right root, and shows its own certificate
        with pytest.raises(PinMismatch, match="certificate"):
            await Host().join(msgspec.structs.replace(network.invite(), addresses=(liar.address,)))
        assert liar.admitted == 0


async def test_a_token_of_another_network_with_the_same_root(network: Network) -> None:
    with pytest.raises(WrongNetwork):
        await Host().join(msgspec.structs.replace(network.invite(), network="f" * 16))


@pytest.mark.parametrize(("skew", "words"), [(3600.0, "3600 s ahead of"), (-3600.0, "3600 s behind")])
async def test_a_wrong_clock_is_said_in_words(network: Network, skew: float, words: str) -> None:
    with pytest.raises(ClockSkew, match=words):
        await Host(skew=skew).join(network.invite())


async def test_an_authority_whose_own_certificate_ran_out(tmp_path: Path) -> None:
    network = Network(tmp_path / "a", now=CLOCK.wall() - 8 * certificates.DAY)
    async with network.running():
        with pytest.raises(ClockSkew, match="expired"):
            await Host().join(network.invite())


async def test_the_next_address_is_tried(network: Network) -> None:
    token = network.invite()
    nobody = f"127.0.0.1:{free_port()}"
    await Host().join(msgspec.structs.replace(token, addresses=(nobody, *token.addresses)))
    with pytest.raises(Unreachable, match=nobody):
        await Host().join(msgspec.structs.replace(token, addresses=(nobody,)))


async def test_who_answers_falsely_at_one_address_does_not_keep_a_host_from_the_next(
    network: Network, tmp_path: Path
) -> None:
    async with Network(tmp_path / "b").running() as other, answering(other, [REFUSAL], pause=0.0) as refusing:
        token, host = network.invite(), Host()
        false = (other.address, refusing)
        await host.join(msgspec.structs.replace(token, addresses=(*false, network.address)))
        await host.renew(token.network, [*false, network.address], network.roots)
        assert other.admitted == 0
        nobody = f"127.0.0.1:{free_port()}"
        with pytest.raises(PinMismatch, match="root key"):
            await host.join(msgspec.structs.replace(token, addresses=(nobody, other.address, refusing, nobody)))
        with pytest.raises(Unreachable, match="of which network"):
            await host.join(msgspec.structs.replace(token, addresses=(refusing,)))


async def test_what_is_refused_at_one_address_is_not_asked_at_the_next(network: Network) -> None:
    token = msgspec.structs.replace(network.invite(), secret=b"\0" * 16)
    for _ in range(enrolment.FAILURES):
        with pytest.raises(WrongToken):
            await Host().join(msgspec.structs.replace(token, addresses=token.addresses * 3))


@pytest.mark.parametrize(
    ("parts", "pause", "words"),
    [([b"H"] * 100, 0.1, "timed out|too long to answer"), ([b"x" * 65536] * 1000, 0.0, "is too long")],
)
async def test_an_answer_that_does_not_end_is_not_waited_for(
    network: Network, parts: list[bytes], pause: float, words: str
) -> None:
    head = [b"HTTP/1.1 200 OK\r\n\r\n"] if not pause else []
    host = Host(patience=10.0 if not pause else 0.5)
    async with answering(network, head + parts, pause=pause) as address:
        with pytest.raises(Unreachable, match=words):
            await host.join(msgspec.structs.replace(network.invite(), addresses=(address,)))


@pytest.mark.usefixtures("deaf_names")
async def test_a_name_that_nobody_answers_for_makes_way_for_the_next_address(network: Network) -> None:
    token = network.invite()
    async with asyncio.timeout(20):
        await Host(patience=2.0).join(msgspec.structs.replace(token, addresses=("host.deaf:7444", *token.addresses)))
        with pytest.raises(Unreachable, match="no name server answered"):
            await Host(patience=0.5).join(msgspec.structs.replace(token, addresses=("host.deaf:7444",)))


async def test_an_answer_for_another_host_is_not_believed(network: Network) -> None:
    host, token = Host(), network.invite()
    admission, root = await host.join(token)
    other, _ = await Host().join(network.invite())
    for false in (
        msgspec.structs.replace(admission, chain=other.chain),
        msgspec.structs.replace(admission, chain=admission.chain[: len(admission.chain) // 2]),
        msgspec.structs.replace(admission, chain=""),
    ):
        with pytest.raises(BadRoster):
            joining.check(false, host.node, token.network, root)


async def test_garbage_achieves_nothing(network: Network) -> None:
    async def say(data: bytes) -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        host, _, port = network.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.write(data)
        with contextlib.suppress(NotImplementedError):
            writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    network.server._failures = Failures(allowed=1000)
    for data, status in (
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /v1/join HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST /v1/join HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"POST /v1/join HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", b"400"),
        (b"x" * (enrolment.MAX_HEAD + 1000) + b"\r\n\r\n", b"413"),
    ):
        assert (await say(data)).startswith(b"HTTP/1.1 " + status), data[:80]
    await Host().join(network.invite())


async def test_a_taken_address_is_said(network: Network) -> None:
    with pytest.raises(InUse, match="cannot listen"):
        await EnrolmentServer(
            network.address, network.authority, network.credentials, clock=CLOCK, admitted=lambda: None
        ).run(lambda: None)


def test_failures_are_counted_by_address_and_forgotten() -> None:
    failures = Failures(allowed=2, window=60.0)
    failures.add("a", 0.0)
    assert failures.wait("a", 1.0) == 0
    failures.add("a", 10.0)
    assert failures.wait("a", 20.0) == 40.0
    assert failures.wait("b", 20.0) == 0
    assert failures.wait("a", 60.0) == 0
    failures.add("a", 61.0)
    assert failures.wait("a", 61.0) == 9.0
