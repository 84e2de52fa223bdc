"""Files are held back from strangers: by arithmetic, on a listener, and with a server that may open few."""

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from certificates import home
from crowd import Crowd
from doorway import open_files, soon

import tetherd
from tetherd.drivers.host import descriptors
from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.host.descriptors import HELD, MOST, Guard, Share
from tetherd.drivers.rpc import reaching
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.errors import TetherError
from tetherd.types import Credentials
from tetherd.wire.messages import GetFleet

LIMIT = 1024


def test_a_part_is_held_back() -> None:
    found = descriptors.share()
    assert 0 < found.held <= HELD
    assert found.limit <= MOST
    assert found.held <= found.limit // 4


@pytest.mark.parametrize(
    ("opened", "already", "short"),
    [(100, False, False), (319, False, False), (320, False, True), (256, True, True), (255, True, False)],
)
def test_nobody_is_let_in_until_there_is_clearly_room_again(opened: int, already: bool, short: bool) -> None:
    assert Share(512, 128).short(opened, already=already) == short


def test_open_files_are_counted() -> None:
    before = descriptors.opened()
    with Path("/dev/null").open() as one, Path("/dev/null").open():
        assert descriptors.opened() == before + 2
        assert not one.closed
    assert abs(before - open_files()) <= 2


def test_when_none_is_left_to_count_them_with_all_are_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fd").touch()  # a size of 0, as older kernels give
    monkeypatch.setattr(descriptors, "_COUNTED", tmp_path / "fd")
    assert abs(descriptors.opened() - open_files()) <= 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path("/dev/null").open() as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, hard))
        try:
            assert descriptors.opened() == last.fileno() + 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def hears(port: int, patience: float) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), patience).close()
    except TimeoutError:
        return False
    return True


def fill(stack: contextlib.ExitStack, count: int) -> None:
    for _ in range(count):
        stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))


@pytest.fixture
def _restored() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("_restored")
async def test_listeners_go_deaf_while_files_are_short_and_hear_again(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard()
    guard._share = Share(open_files() + 800, 200)
    watching = asyncio.create_task(guard.run())
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        port = listener.getsockname()[1]
        assert await asyncio.to_thread(hears, port, 5.0)
        fill(stack, 560)
        await until(lambda: guard.deaf)
        assert not await asyncio.to_thread(hears, port, 0.3)
        with socket.create_server(("127.0.0.1", 0)) as later:
            async with asyncio.timeout(20):
                while await asyncio.to_thread(hears, later.getsockname()[1], 0.3):
                    later.accept()[0].close()
        fill(stack, 100)  # more than was allowed before
        stack.close()
        await until(lambda: not guard.deaf)
        assert await asyncio.to_thread(hears, port, 5.0)
        fill(stack, 560)
        await until(lambda: guard.deaf)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert await asyncio.to_thread(hears, port, 5.0), "it leaves no listener deaf behind"
        stack.close()
    assert "nobody is let in" in caplog.text


@pytest.mark.usefixtures("_restored")
async def test_to_go_deaf_takes_no_file(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(socket.socket()) for _ in range(2)]
        fill(stack, 20)
        guard = Guard()
        guard._share = Share(open_files() - 10, 0)  # whatever is allowed is taken
        watching = asyncio.create_task(guard.run())
        async with asyncio.timeout(20):
            while not guard.deaf:  # noqa: ASYNC110 - what is waited for sets no event
                await asyncio.sleep(0.01)
        strangers[0].settimeout(0.3)
        with pytest.raises(TimeoutError):
            strangers[0].connect(listener.getsockname())
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        strangers[1].settimeout(5)
        strangers[1].connect(listener.getsockname())


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.01)


# --- 65: a server that may open few files ----------------------------------------------------------------------------

CHILD = """
import asyncio, pathlib, resource, sys, msgspec
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
from doorway import Doorway
from tetherd.drivers.host.descriptors import Guard
from tetherd.types import Credentials

async def main():
    place = pathlib.Path(sys.argv[1])
    doorway = Doorway(place)
    told = msgspec.json.decode(sys.stdin.buffer.readline(), type=tuple[Credentials, list[str]])
    doorway.credentials, members = told
    doorway.roster.update(dict.fromkeys([doorway.credentials.node, *members], ("gateway",)))
    doorway.door._credentials = doorway.credentials
    async with doorway.open(), asyncio.TaskGroup() as group:
        group.create_task(Guard().run())
        print(doorway.port, flush=True)
        while True:
            try:
                (place / "written").write_text("x")
                print("opened", flush=True)
            except OSError as error:
                print(error, flush=True)
            await asyncio.sleep(0.05)

asyncio.run(main())
"""


class Small:
    """A server with few files, in a process of its own, that writes one all the time and says whether it could."""

    def __init__(self, place: Path) -> None:
        self.credentials = home().node()
        self.members = [home().node() for _ in range(2)]
        self.said: list[tuple[float, str]] = []
        here = Path(__file__).parents[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(place), str(LIMIT)],
            env={"PYTHONPATH": f"{Path(tetherd.__file__).parents[1]}:{here}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin
        assert self.process.stdout
        told = (self.credentials, [member.node for member in self.members])
        self.process.stdin.write(msgspec.json.encode(told) + b"\n")
        self.process.stdin.flush()
        self.port = int(self.process.stdout.readline())
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append((time.monotonic(), line.decode().strip()))

    def caller(self, member: Credentials) -> RemoteCaller:
        secret = reaching.Secret(member, self.credentials.node)
        return RemoteCaller(
            f"{reaching.TLS}127.0.0.1:{self.port}", clock=SystemClock(), max_message=1 << 20, secret=secret
        )

    def close(self) -> None:
        self.process.kill()
        self._reader.join()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()


async def test_strangers_that_take_all_files_lock_nobody_out_for_long(tmp_path: Path) -> None:
    small = await asyncio.to_thread(Small, tmp_path)
    try:
        there = small.caller(small.members[0])
        await there.call(GetFleet(), deadline=soon())
        with Crowd([small.port], 3 * LIMIT).pressing() as crowd:
            began = time.monotonic()
            while time.monotonic() < began + 6:
                await there.call(GetFleet(), deadline=soon(5.0))  # on the connection that it has
                await asyncio.sleep(0.02)
            assert crowd.came > 3 * LIMIT
        left = time.monotonic()
        late = small.caller(small.members[1])
        while True:
            with contextlib.suppress(TetherError):
                await late.call(GetFleet(), deadline=soon(2.0))
                break
        assert time.monotonic() - left < 10
        failed = [line != "opened" for at, line in small.said if at > began + 1]
        assert len(failed) > 50
        assert sum(failed) < 0.1 * len(failed), "files were short for a look at most"
        assert not any(map(all, zip(failed, failed[1:], failed[2:], failed[3:], strict=False)))
        late.close()
        there.close()
    finally:
        await asyncio.to_thread(small.close)
