"""What stands between a worker and a runner process, with small scripts in the runner's place."""

import asyncio
import sys
from asyncio.subprocess import PIPE

import pytest

from tetherd.drivers.host.processes import RunnerProcess
from tetherd.errors import Unavailable
from tetherd.types import Digest
from tetherd.wire.assignments import Assignment, Event, Site

ASSIGNMENT = Assignment("r", "w", "m", 1, Digest("sha256:0"), (Site("o"),), "c", "d", 1, 0, 0)


async def start(script: str) -> RunnerProcess:
    process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", script, stdin=PIPE, stdout=PIPE)
    return RunnerProcess(process)


async def test_it_is_told_what_it_is_and_its_events_are_heard() -> None:
    runner = await start(
        """
import json, sys
assignment = json.loads(sys.stdin.readline())
print(json.dumps({"kind": "failed", "reason": assignment["model"]}), flush=True)
"""
    )
    await runner.assign(ASSIGNMENT)
    assert await runner.event() == Event("failed", reason="m")
    assert await runner.event() is None
    await runner.stop(1)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise SystemExit(3)", "it ended with code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "it was killed by SIGKILL"),
    ],
)
async def test_it_says_how_it_ended(script: str, words: str) -> None:
    runner = await start(script)
    assert await runner.event() is None
    assert await runner.ending() == words
    await runner.stop(0)


async def test_what_is_no_event_is_skipped() -> None:
    runner = await start(
        r"""
import sys
out = sys.stdout.buffer
out.write(b"hello\n\xff\xfe\n{}\n" + b"x" * 300000 + b"\n" + b'{"kind":"\xff"}\n')
out.write(b'{"kind":"loaded","bytes":7}\n{"kind":"al')
"""
    )
    async with asyncio.timeout(10):
        assert await runner.event() == Event("loaded", bytes=7)
        assert await runner.event() is None
    await runner.stop(1)


async def test_the_dead_cannot_be_assigned() -> None:
    runner = await start("raise SystemExit")
    async with asyncio.timeout(10):
        assert await runner.event() is None
        await runner._process.wait()
        await asyncio.sleep(0.05)
        with pytest.raises(Unavailable, match="ended before it was assigned"):
            await runner.assign(ASSIGNMENT)
    await runner.stop(1)


@pytest.mark.parametrize(("patience", "code"), [(5.0, 3), (0.0, -9)])
async def test_it_is_asked_first_and_ended_then(patience: float, code: int) -> None:
    runner = await start("import sys; print('{}', flush=True); sys.stdin.read(); raise SystemExit(3)")
    assert runner.pid > 0
    async with asyncio.timeout(10):
        assert runner._process.stdout is not None
        await runner._process.stdout.readline()
        await runner.stop(patience)
        await runner.stop(0)
    assert runner._process.returncode in ((code, 3) if patience == 0 else (code,))


async def test_what_does_not_end_is_killed() -> None:
    runner = await start("import time; time.sleep(60)")
    async with asyncio.timeout(10):
        await runner.stop(0.1)
    assert runner._process.returncode == -9
