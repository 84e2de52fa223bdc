"""What clients notice when one of two runners is killed under load."""

import asyncio
import itertools
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import report, tether
from benchmarks.contenders import open_inference
from benchmarks.load import Requests, check
from benchmarks.processes import server
from benchmarks.serving import free_port, say
from benchmarks.workloads import build

CONNECTIONS = 32
BEFORE, AFTER = 2.0, 6.0
"""Seconds of load before and after the kill."""

PATIENCE = 10.0
"""Seconds a client waits for one answer before it counts as failed."""


@dataclass
class Tally:
    """When requests succeeded, on the monotonic clock, and how the others failed."""

    successes: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def run(folder: Path) -> list[report.Figure]:
    """Kill one of two runners at 32 connections, print what happened and return the figures."""
    work, port, log = build("tiny", folder / "models"), free_port(), folder / "tether.log"
    tether.prepare(folder, port, [work], log)
    with server() as running:
        tether.start(running, folder, port, {"runners": 2, "preload": [work.name]})
        tether.wait(running, lambda: tether.call(port, "GET", "/health/ready")[0] == 200, log)
        requests = open_inference(work, "json", port)
        check(requests, work.answers)
        tether.wait(running, lambda: len(tether.runners(port)) == 2, log)
        say(f"two runners ready; {CONNECTIONS} connections, kill -9 after {BEFORE:g} s")
        tally, killed, back = asyncio.run(_strike(requests, port))
    return _show(tally, killed, back)


def longest_gap(successes: list[float], begin: float, end: float) -> float:
    """Return the longest time within ``begin`` and ``end`` in which nothing succeeded."""
    moments = [begin, *sorted(moment for moment in successes if begin < moment < end), end]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))


async def _strike(requests: Requests, port: int) -> tuple[Tally, float, float]:
    """Load, kill, go on loading; return the tally, when the runner was killed and when there were two again."""
    tally, end = Tally(), time.monotonic() + BEFORE + AFTER
    clients = [asyncio.create_task(_client(requests, index, end, tally)) for index in range(CONNECTIONS)]
    await asyncio.sleep(BEFORE)
    victim = (await asyncio.to_thread(tether.runners, port))[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    killed, back = time.monotonic(), float("nan")
    while time.monotonic() < end - 0.5:
        await asyncio.sleep(0.05)
        alive = {runner["pid"] for runner in await asyncio.to_thread(tether.runners, port)} - {victim}
        if len(alive) == 2:
            back = time.monotonic()
            break
    await asyncio.gather(*clients)
    return tally, killed, back


async def _client(requests: Requests, index: int, end: float, tally: Tally) -> None:
    """One keep-alive connection in a closed loop. It reconnects after a failure, as a real client does."""
    head = "".join(f"{name}: {value}\r\n" for name, value in requests.headers.items())
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", requests.port)
        except OSError as error:
            tally.failures.append(repr(error))
            await asyncio.sleep(0.01)
            continue
        try:
            while time.monotonic() < end:
                body = requests.bodies[index % len(requests.bodies)]
                index += 1
                start = f"POST {requests.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}Content-Length: {len(body)}\r\n\r\n"
                writer.write(start.encode() + body)
                status = await asyncio.wait_for(_status(reader), PATIENCE)
                if status == 200:
                    tally.successes.append(time.monotonic())
                else:
                    tally.failures.append(f"status {status}")
        except (OSError, EOFError, ValueError) as error:  # TimeoutError is an OSError
            tally.failures.append(repr(error))
        finally:
            writer.close()


async def _status(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end and return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


def _show(tally: Tally, killed: float, back: float) -> list[report.Figure]:
    before = sum(1 for moment in tally.successes if moment < killed) / BEFORE
    gap = longest_gap(tally.successes, killed, killed + AFTER - 0.5)
    print(f"\n{len(tally.successes)} requests succeeded ({before:.0f}/s before the kill), {len(tally.failures)} failed")
    print(f"longest time without a success after the kill: {1000 * gap:.0f} ms")
    print(f"two runners again after {back - killed:.2f} s")
    for kind in dict.fromkeys(tally.failures):
        print(f"  failed {tally.failures.count(kind)} x: {kind}")
    figures = [
        report.Figure("kill -9 of one of two runners: failed requests", 0, False, len(tally.failures)),
        report.Figure("kill -9 of one of two runners: longest gap, seconds", 1.0, False, gap),
    ]
    print(f"\n{report.promises(figures)}")
    return figures
