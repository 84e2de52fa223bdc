"""Some nodes of Tether's distributed hash table in one process, told what to do by lines of JSON on standard input.

``python tether_nodes.py COUNT [PORT]``: PORT is that of a node to join by.
"""

import asyncio
import gc
import hashlib
import json
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from tetherd.discovery.exchange import Rules
from tetherd.drivers.discovery.udp import Dht
from tetherd.wire.datagrams import Keyring
from tetherd.wire.signatures import KeySigner

HOST = "127.0.0.1"
VALUE = b"v" * 100


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Nodes:
    """The nodes of this process. Whoever announces and whoever looks up differ, and change with every turn."""

    def __init__(self, nodes: list[Dht], spread: int) -> None:
        self.nodes = nodes
        self.spread = spread
        self.turn = 0
        self.prepared: list[bytes] = []

    def pick(self, factor: int) -> Dht:
        """Return a node, another one each turn."""
        return self.nodes[(self.turn * factor + self.spread) % len(self.nodes)]

    async def announce(self) -> tuple[bytes, float]:
        """Announce a new topic; return it and how many milliseconds that took."""
        self.turn += 1
        topic = hashlib.sha256(b"%d|%d" % (id(self), self.turn)).digest()
        begin = time.perf_counter()
        await self.pick(7).announce(topic, VALUE, 600)
        return topic, 1000 * (time.perf_counter() - begin)

    async def lookup(self, topic: bytes) -> tuple[float, float, bool]:
        """Look a topic up to the end; return milliseconds to the first hit and in all, and whether it was missed."""
        self.turn += 1
        begin, first = time.perf_counter(), 0.0
        async for _ in self.pick(13).lookup(topic):
            first = first or time.perf_counter() - begin
        return 1000 * first, 1000 * (time.perf_counter() - begin), not first

    async def do(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order."""
        count = order.get("count", 0)
        announced: list[float] = []
        topics = []
        for _ in range(count if order["do"] in ("cycle", "prepare") else 0):
            topic, took = await self.announce()
            topics.append(topic)
            announced.append(took)
        if order["do"] == "prepare":
            self.prepared = topics
            return {"announce": announced}
        if order["do"] == "find":
            topics = [self.prepared[turn % len(self.prepared)] for turn in range(count)]
        found = [await self.lookup(topic) for topic in topics]
        return {
            "announce": announced,
            "first": [first for first, _, missed in found if not missed],
            "lookup": [took for _, took, _ in found],
            "misses": sum(missed for _, _, missed in found),
            "resident": resident(),
        }


async def main() -> None:
    """Bring the nodes up, say where the first one is, and take orders until standard input ends."""
    count, seed = int(sys.argv[1]), [(HOST, int(sys.argv[2]))] if len(sys.argv) > 2 else []
    keyring = Keyring("benchmark", {1: b"k" * 32})
    rules = Rules(serves=True, member=lambda _: True, allow=lambda _: True)
    before = resident()
    async with AsyncExitStack() as stack:
        nodes: list[Dht] = []
        for _ in range(count):
            signer = KeySigner(ec.generate_private_key(ec.SECP256R1()))
            node = await stack.enter_async_context(Dht(signer, keyring, rules, [(HOST, 0)]))
            node.join(seed or [each.addresses[0] for each in nodes[:1]])
            nodes.append(node)
        mine = Nodes(nodes, spread=5)
        print(json.dumps({"port": nodes[0].addresses[0][1], "resident": before}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await mine.do(json.loads(line))), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
