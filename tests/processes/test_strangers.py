"""A network of real daemons among strangers at every port, and with a member that is hostile: it serves, and grows."""

import secrets
import socket
import struct
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import pytest
from crowd import Crowd
from doorway import Hands
from harness import DIGITS, EXAMPLE, Daemon, Host, free_port, is_right, new_host, until
from members import member, ports, workers

from tetherd.drivers.identity import keys
from tetherd.types import Credentials
from tetherd.wire import catalog, membership, messages, peering, relay, replication
from tetherd.wire.frames import FAILURE, Codec

LEAVE: Final = ("roster.resign", "model.remove", "model.unload", "model.serving")
"""What a member may do, and would end the test."""


class Home:
    """A founder with every port that there is, and a host whose worker serves."""

    def __init__(self, host: Host) -> None:
        self.host = host
        cluster, relayed = ports(), f"127.0.0.1:{free_port()}"
        roles = ("gateway", "orchestrator", "manager", "relay")
        settings: dict[str, Any] = {"cluster": {**cluster, "mdns": False, "dht": True}, "relay": {"listen": relayed}}
        a = host.daemon(*roles, name="a", worker={"spare": False}, **settings)
        self.a = a.start()
        self.rpc = int(cluster["listen"].rpartition(":")[2])
        listeners = (cluster["listen"], cluster["enrol"], cluster["bulk"], relayed)
        self.ports = [int(each.rpartition(":")[2]) for each in listeners]
        self.a.ctl("cluster", "init", "--name", "home")
        self.a.ctl("models", "push", str(DIGITS))
        self.join("b", "worker")
        until(lambda: workers(self.a) == {"b"}, "the worker of b is known to a")
        self.infer()

    def join(self, name: str, role: str) -> Daemon:
        made = member(self.host, name, role).start()
        made.ctl("cluster", "join", stdin=self.a.ctl("cluster", "token", "--role", role).stdout)
        return made

    def infer(self) -> None:
        assert is_right(self.a.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])

    def stolen(self, role: str) -> Credentials:
        """Return what makes a host with this role a node; the host is gone."""
        host = self.join(f"e{len(self.host.daemons)}", role)
        until(lambda: list(Path(self.host.folder).glob(f"{host.name}/**/{keys.NETWORK}")), "it is a node")
        place = next(Path(self.host.folder).glob(f"{host.name}/**/{keys.NETWORK}")).parent
        host.kill()
        node = msgspec.json.decode((place / keys.NETWORK).read_bytes())["node"]
        texts = [(place / name).read_text() for name in (keys.KEY, keys.CERTIFICATE, keys.ROOTS)]
        return Credentials(node, *texts)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with new_host() as host:
        yield Home(host)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("size", [400, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_crowd_at_every_port_keeps_nobody_out(home: Home, size: int) -> None:
    files, noise = home.a.files(), Random(size)
    with Crowd(home.ports, size).pressing() as crowd, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        until(lambda: crowd.came > size, "all of them have come")
        for _ in range(100):
            datagrams.sendto(noise.randbytes(noise.randrange(1400)), ("127.0.0.1", home.rpc))
            home.infer()
        home.join(f"c{size}", "worker")
        home.infer()
    until(lambda: home.a.files() <= files + 6, "the files of strangers are given back", patience=30)


TEXTS: Final = ("", "../../etc/passwd", "x" * 50_000, "digits", "latest", "sha256:" + "a" * 64, "b", "a\0b", "é" * 50)
NUMBERS: Final = (-1, 0, 1, 2**31, 2**63 - 1, -(2**63))
KINDS: Final = [
    kind
    for module in (catalog, membership, messages, peering, relay, replication)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, messages.Request) and kind.METHOD and kind.METHOD not in LEAVE
]


def made_up(random: Random, kind: Any) -> Any:
    """Return what a field of this type may hold, or now and then something else."""
    text = str(kind)
    if random.random() < 0.003:
        return random.choice([None, {}, [[]], b"\x80\x04.", 1.5, float("nan")])
    if kind is int:
        return random.choice(NUMBERS)
    if kind is bool or kind is float:
        return random.choice([kind(0), kind(1)])
    if text.startswith("list"):
        return ["x"] * random.choice([0, 1, 500]) if "[str]" in text else []
    if "Tensor" in text:
        return ["x", "UINT8", [3], 3]
    return random.choice(["rpc", "bulk"]) if "Literal" in text else random.choice(TEXTS)


def call(random: Random, number: int, kind: Any) -> bytes:
    fields = [made_up(random, field.type) for field in msgspec.structs.fields(kind)]
    message = msgspec.msgpack.encode(fields)
    patience = random.choice([1, 20, 100])
    head = b"\x95" + b"".join(map(msgspec.msgpack.encode, (number, kind.METHOD, patience, ""))) + message
    return struct.pack("<4sBBHI", b"TTHR", 1, 1, 0, len(head)) + head + (b"abc" if b"UINT8" in message else b"")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("role", ["worker", "gateway", "orchestrator", "manager"])
def test_a_hostile_member_breaks_nothing(home: Home, role: str) -> None:
    seed = secrets.randbits(32)
    random, codec, evil = Random(seed), Codec(), home.stolen(role)
    allowed = [kind for kind in KINDS if role in kind.ROLES]
    memory, answered, end = home.a.rss(), 0, time.monotonic() + 4
    hands, numbers = Hands(home.rpc, evil), count(1)
    while time.monotonic() < end:
        kind = random.choice(allowed if random.random() < 0.995 else KINDS)
        answer = hands.ask(call(random, next(numbers), kind))
        if answer is None:  # it was hung up on, for what it sent
            hands.close()
            hands = Hands(home.rpc, evil)
            continue
        answered += 1
        if answer.kind == FAILURE:
            assert codec.failure(answer).code != "INTERNAL", (seed, kind)
    hands.close()
    assert answered > 50
    home.infer()
    assert home.a.rss() - memory < 64 * 2**20
