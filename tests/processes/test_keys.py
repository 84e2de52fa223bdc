"""The key that members share turns: nodes go on finding each other in the DHT, and who was sent away hears nothing."""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from harness import PATIENCE, Daemon, Host, until
from members import answers, member, ports

from tetherd.discovery.exchange import Rules
from tetherd.drivers.discovery.udp import Dht
from tetherd.drivers.identity.keys import read_home
from tetherd.wire.datagrams import Keyring
from tetherd.wire.signatures import KeySigner


def found(host: Host, **joining: str) -> list[Daemon]:
    """Return the founder of a network, and hosts that joined it, each with a role, that find each other by the DHT."""
    a = member(host, "a", "gateway", "orchestrator", "manager", dht=True).start()
    others = [member(host, name, role, dht=True).start() for name, role in joining.items()]
    a.ctl("cluster", "init", "--name", "home")
    for other in others:
        token = a.ctl("cluster", "token", "--role", joining[other.name]).stdout
        other.ctl("cluster", "join", stdin=token)
    return [a, *others]


def epochs(daemon: Daemon) -> list[int]:
    shown = json.loads(daemon.ctl("cluster", "keys", "show", "-o", "json").stdout)
    return [key["epoch"] for key in shown["keys"] if key["held"]]


def netcheck(daemon: Daemon) -> Any:
    return json.loads(daemon.ctl("netcheck", "-o", "json").stdout)


def heard_of(daemon: Daemon, name: str, address: str) -> bool:
    """Tell whether a daemon is connected to a node at an address, of which the DHT told it."""
    (peer,) = (each for each in netcheck(daemon)["peers"] if each["name"] == name)
    places = [each for each in peer["addresses"] if each["address"] == address and each["proven"]]
    return bool(peer["path"]) and any("dht" in each["sources"] for each in places)


def connected(daemon: Daemon, *names: str) -> bool:
    return {each["name"] for each in netcheck(daemon)["peers"] if each["path"]} >= set(names)


def move(host: Host, old: Daemon) -> str:
    """Kill a daemon and start it again somewhere else; return where."""
    places = ports()
    old.kill()
    moved = member(host, old.name, *old.roles, **places, dht=True).start(wait=False)
    until(lambda: answers(moved), f"{moved.name} answers again")
    return places["listen"]


def test_nodes_find_each_other_while_the_key_turns_and_after_it(host: Host) -> None:
    a, b, c, d = found(host, b="worker", c="relay", d="manager")
    until(lambda: connected(b, "a", "c", "d") and connected(c, "d"), "all are connected")
    d.signal(signal.SIGSTOP)  # it is not told, and so the first key is still needed
    a.ctl("cluster", "keys", "rotate", "-y")
    until(lambda: epochs(b) == [2, 1], "b has both keys")
    d.signal(signal.SIGCONT)
    until(lambda: all(epochs(each) == [2] for each in (a, b, c, d)), "nobody has the first key any more")
    a.kill()  # which would tell b where c is now
    place = move(host, c)
    until(lambda: heard_of(b, "c", place), "b finds c by the second key")


async def answered(identity: Path, entrance: str, enough: Callable[[], bool]) -> int:
    """Return how many datagrams come back to who asks with what lies in a node's folder, until that is ``enough``."""
    home, key = read_home(identity), load_pem_private_key((identity / "key.pem").read_bytes(), None)
    assert home is not None
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    rules = Rules(serves=False, member=lambda _: True, allow=lambda _: True)
    address, _, port = entrance.rpartition(":")
    async with Dht(KeySigner(key), Keyring(home.network, home.keys), rules, [("127.0.0.1", 0)]) as dht:
        dht.join([(address, int(port))])
        async with asyncio.timeout(PATIENCE):
            while not (dht.peers() or await asyncio.to_thread(enough)):  # noqa: ASYNC110 - nobody signals it
                await asyncio.sleep(0.05)
        return dht.counters().get("heard", 0)


def test_who_was_sent_away_gets_no_answer_any_more(host: Host) -> None:
    a, b = found(host, b="worker")
    entrance = next(iter(netcheck(b)["peers"]))["addresses"][0]["address"]
    identity = host.folder / "b" / "state" / "identity"
    b.kill()
    assert asyncio.run(answered(identity, entrance, lambda: False)), "as long as it is a member it is heard"
    a.ctl("nodes", "revoke", "b", "-y")
    until(lambda: epochs(a) == [2], "the key that b knows is dropped", patience=5)

    def refused() -> bool:
        (udp,) = (each for each in netcheck(a)["mechanisms"] if each["name"] == "udp")
        return bool(udp["dropped"].get("dropped.epoch", 0) >= 3)

    assert not asyncio.run(answered(identity, entrance, refused))
