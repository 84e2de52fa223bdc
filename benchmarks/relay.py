"""What a relay costs: round trips and throughput of one connection, direct and relayed, in the same round.

Relayed means the whole way: the door on the dialer's host, the relay, and the node's own end, each in a process of its
own as on three hosts. Tickets are agreed on beforehand; what carries the bytes is what daemons use.
"""

import asyncio
import contextlib
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pynng

from benchmarks import report
from benchmarks.serving import free_port, say
from benchmarks.tether import NotReady
from tetherd.drivers.identity.certificates import (
    Authority,
    issue,
    key_pem,
    make_issuing,
    make_root,
    new_key,
    pem,
    spki_of,
)
from tetherd.drivers.relay.junction import SocketJunction
from tetherd.drivers.relay.tunnels import SocketTunnels
from tetherd.drivers.rpc import nng, reaching
from tetherd.ports import Guest
from tetherd.types import Credentials
from tetherd.wire.relay import Way, preface

MIB = 1 << 20
SMALL = bytes(64)
TRIPS = 1500
"""Round trips of 64 bytes that are timed in one visit."""

BULK = {"tcp": 512, "nng over TLS": 64}
"""MiB sent one way in one visit."""

STREAMS = 16
"""Connections that the two hosts open through the relay in all."""

ROUNDS = 3
START = 10.0


@dataclass(frozen=True)
class Visit:
    """One round's figures of one way: the median round trip in ms, and MB/s one way."""

    turn: int
    carrier: str
    way: str
    trip: float
    rate: float


def run(folder: Path) -> list[report.Figure]:
    """Measure, print the table and return the figures."""
    dialer, target = nodes()
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(_serving_plain())
        secure = stack.enter_context(_serving_nng(target))
        doors = {port: stack.enter_context(_relayed(port, folder / "relay.log")) for port in (plain, secure)}
        visits = []
        for turn in range(ROUNDS):
            for way in ("direct", "relayed") if turn % 2 else ("relayed", "direct"):
                ports = {port: port if way == "direct" else door for port, door in doors.items()}
                with _tcp(ports[plain]) as talk:
                    visits.append(_visit(turn, "tcp", way, talk))
                with _nng(ports[secure], dialer, target.node) as talk:
                    visits.append(_visit(turn, "nng over TLS", way, talk))
                say(f"round {turn + 1} of {ROUNDS}, {way}: done")
    return _show(visits)


def _visit(turn: int, carrier: str, way: str, talk: Callable[[bytes], Any]) -> Visit:
    """Time ``talk``, which sends a message and waits for a short answer."""
    for _ in range(100):
        talk(SMALL)
    trips = []
    for _ in range(TRIPS):
        began = time.perf_counter()
        talk(SMALL)
        trips.append(time.perf_counter() - began)
    chunk, began = bytes(MIB), time.perf_counter()
    for _ in range(BULK[carrier]):
        talk(chunk)
    return Visit(turn, carrier, way, 1000 * median(trips), BULK[carrier] * MIB / 1e6 / (time.perf_counter() - began))


def _show(visits: list[Visit]) -> list[report.Figure]:
    def ratio(carrier: str, field: str) -> float:
        def of(turn: int, way: str) -> float:
            found = next(item for item in visits if (item.turn, item.carrier, item.way) == (turn, carrier, way))
            value: float = getattr(found, field)
            return value

        return median(of(turn, "relayed") / of(turn, "direct") for turn in range(ROUNDS))

    rows = [["carrier", "way", "round trip ms", "MB/s", "round trip x direct", "MB/s x direct"]]
    for carrier in BULK:
        for way in ("direct", "relayed"):
            mine = [item for item in visits if (item.carrier, item.way) == (carrier, way)]
            ratios = [f"{ratio(carrier, field):.2f}" if way == "relayed" else "1.00" for field in ("trip", "rate")]
            trip, rate = report.middle(mine, "trip"), report.middle(mine, "rate")
            rows.append([carrier, way, f"{trip:.3f}", f"{rate:.0f}", *ratios])
    print(f"\n{report.table(rows)}")
    figures = [
        report.Figure("relayed nng over TLS: round trip x direct", 4.0, False, ratio("nng over TLS", "trip")),
        report.Figure("relayed nng over TLS: MB/s x direct", 0.6, True, ratio("nng over TLS", "rate")),
    ]
    print(f"\n{report.promises(figures)}")
    return figures


# --- the two ends ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _tcp(port: int) -> Iterator[Callable[[bytes], Any]]:
    """A connection that sends a length and as many bytes, and reads one byte back."""
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def talk(data: bytes) -> None:
            link.sendall(len(data).to_bytes(4) + data)
            assert link.recv(1)

        yield talk


@contextlib.contextmanager
def _nng(port: int, dialer: Credentials, node: str) -> Iterator[Callable[[bytes], Any]]:
    with nng.closing(nng.open_req(4 * MIB, node)) as link:
        nng.dial(link, f"{reaching.TLS}127.0.0.1:{port}", reaching.Secret(dialer, node))

        def talk(data: bytes) -> None:
            link.send(data)
            assert link.recv()

        yield talk


@contextlib.contextmanager
def _serving_plain() -> Iterator[int]:
    def answer(link: socket.socket) -> None:
        with link, contextlib.suppress(OSError), link.makefile("rb") as stream:
            while head := stream.read(4):
                stream.read(int.from_bytes(head))
                link.sendall(b"!")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = listener.accept()
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=answer, args=(link,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _serving_nng(credentials: Credentials) -> Iterator[int]:
    def answer() -> None:
        with contextlib.suppress(Exception):  # nng has many ways to say that the socket was closed
            while rep.recv():
                rep.send(b"!")

    port = free_port()
    shown = pynng.TLSConfig(
        pynng.TLSConfig.MODE_SERVER,
        ca_string=credentials.roots_pem,
        own_key_string=credentials.key_pem,
        own_cert_string=credentials.chain_pem,
    )
    with pynng.Rep0(recv_max_size=8 * MIB, tls_config=shown) as rep:
        rep.listen(f"{reaching.TLS}127.0.0.1:{port}")
        threading.Thread(target=answer, daemon=True).start()
        yield port


def nodes() -> tuple[Credentials, Credentials]:
    """Return two nodes of one network."""
    now = time.time()
    root = make_root(now)
    issuing = make_issuing(root, now)
    return _node(root, issuing), _node(root, issuing)


def _node(root: Authority, issuing: Authority) -> Credentials:
    key = new_key()
    leaf = issue(issuing, spki_of(key.public_key()), time.time())
    node = leaf.subject.rfc4514_string().removeprefix("CN=")
    return Credentials(node, key_pem(key).decode(), pem(leaf, issuing.certificate), pem(root.certificate))


# --- the way between them --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _relayed(listener: int, log: Path) -> Iterator[int]:
    """Yield the port of a door that leads to ``listener``: three processes that end with the block."""
    with contextlib.ExitStack() as stack, log.open("ab") as out:

        def start(part: str, *ports: int) -> int:
            command = [sys.executable, "-m", "benchmarks.relay", part, *map(str, ports)]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out)
            stack.callback(child.wait)
            stack.callback(child.kill)
            assert child.stdout
            if not select.select([child.stdout], [], [], START)[0] or not (line := child.stdout.readline()):
                raise NotReady(f"the {part} is not ready: {log.read_text()[-1000:]}")
            return int(line)

        relay = start("relay")
        start("node", relay, listener)
        yield start("door", relay)


def _ticket(side: bytes, session: int) -> bytes:
    return side + session.to_bytes(31)


async def _be_relay() -> None:
    junction = SocketJunction("127.0.0.1:0")
    await junction.run(
        lambda ticket: int.from_bytes(ticket[1:]), lambda *_: None, lambda: print(junction.port, flush=True)
    )


async def _be_node(relay: int, listener: int) -> None:
    tunnels = SocketTunnels()

    async def wait(session: int) -> None:
        guest = await tunnels.connect("127.0.0.1", listener)
        await guest.carry(Way("127.0.0.1", relay, preface(_ticket(b"n", session))))

    print(listener, flush=True)
    await asyncio.gather(*[wait(session) for session in range(STREAMS)])


async def _be_door(relay: int) -> None:
    sessions = iter(range(STREAMS))

    async def receive(guest: Guest) -> None:
        await guest.carry(Way("127.0.0.1", relay, preface(_ticket(b"d", next(sessions)))))

    print(SocketTunnels().listen(receive).address.rpartition(":")[2], flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    import uvloop

    parts = {"relay": _be_relay, "node": _be_node, "door": _be_door}
    uvloop.run(parts[sys.argv[1]](*map(int, sys.argv[2:])))
