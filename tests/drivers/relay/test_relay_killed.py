"""A relay that is killed with fifty connections through it: everybody at both ends knows at once."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

from plain import Peer, peers, serving

from tetherd.drivers.relay.tunnels import SocketTunnels
from tetherd.ports import Guest
from tetherd.wire.relay import Way, preface

STREAMS = 50
AT_ONCE = 0.5  # on a busy machine; 0.02 s on an idle one

RELAY = """
import asyncio
from tetherd.drivers.relay.junction import SocketJunction
junction = SocketJunction("127.0.0.1:0")
claim = lambda ticket: int.from_bytes(ticket[1:])
asyncio.run(junction.run(claim, lambda *_: None, lambda: print(junction.port, flush=True)))
"""


@contextlib.contextmanager
def relay_process() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with subprocess.Popen([sys.executable, "-c", RELAY], stdout=subprocess.PIPE) as child:
        assert child.stdout
        try:
            yield child, int(child.stdout.readline())
        finally:
            child.kill()


def way(port: int, side: bytes, session: int) -> Way:
    return Way("127.0.0.1", port, preface(side + session.to_bytes(31)))


@contextlib.asynccontextmanager
async def streams(port: int, told: asyncio.Semaphore) -> AsyncIterator[list[Peer]]:
    """Yield the dialers' ends of connections through a relay to an echo that says when a connection ended."""

    async def echo(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            while data := await peer.read(4):
                await peer.send(data)
        told.release()

    tunnels, numbers, tasks = SocketTunnels(), iter(range(STREAMS)), []

    async def receive(guest: Guest) -> None:
        await guest.carry(way(port, b"d", next(numbers)))

    async with serving(echo) as listener, peers() as dial:
        door = tunnels.listen(receive)
        for number in range(STREAMS):
            guest = await tunnels.connect("127.0.0.1", listener)
            tasks.append(asyncio.create_task(guest.carry(way(port, b"n", number))))
        ends = [await dial(int(door.address.rpartition(":")[2])) for _ in range(STREAMS)]
        for end in ends:
            await end.send(b"ping")
            assert await end.read(4) == b"ping"
        yield ends
        door.close()
        await asyncio.gather(*tasks)


async def test_both_sides_notice_at_once() -> None:
    ended = asyncio.Semaphore(0)
    with relay_process() as (child, port):
        async with streams(port, ended) as ends:
            began = time.monotonic()
            child.send_signal(signal.SIGKILL)
            assert all(await asyncio.gather(*[end.closed() for end in ends]))
            for _ in range(STREAMS):
                await asyncio.wait_for(ended.acquire(), 5.0)
            took = time.monotonic() - began
    assert took < AT_ONCE
