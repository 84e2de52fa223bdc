"""Two hosts behind symmetric routers that only a relay connects, and what happens to them when something breaks."""

import contextlib
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from lab import Host, Lab, Site

sys.path.append(str(Path(__file__).parents[1] / "drivers"))

from certificates import Network
from threesome import Setting, attempts, talk

NOTICED = 10.0
SCRIPT = Path(__file__).with_name("threesome.py")


class World:
    """The three hosts; ``works`` is the site of the node that waits, ``office`` that of the one that dials."""

    def __init__(self, lab: Lab, place: Path) -> None:
        network = Network()
        self.public = lab.host("relay")
        self.works, self.office = lab.site("works", "symmetric"), lab.site("office", "symmetric")
        self.node, self.dialer = self.works.host("node"), self.office.host("dialer")
        self.setting = Setting(self.public.address, network.node(), network.node(), network.node())
        self.file = place / "setting.json"
        self.file.write_bytes(msgspec.json.encode(self.setting))
        self.place = place
        self.processes: list[subprocess.Popen[bytes]] = []
        self.relay, _ = self.start(self.public, "relay")
        self.start(self.node, "node")
        _, said = self.start(self.dialer, "door")
        self.port = int(said.rpartition(":")[2])

    def start(self, host: Host, part: str) -> tuple[subprocess.Popen[bytes], str]:
        words = ["ip", "netns", "exec", host.space.name, sys.executable, SCRIPT, part, self.file, self.place]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout
        assert select.select([process.stdout], [], [], 15.0)[0], f"the {part} says nothing"
        return process, process.stdout.readline().decode().strip()

    def dial(self) -> socket.socket:
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(self.dialer.space.socket())
            link.settimeout(5.0)
            link.connect(("127.0.0.1", self.port))
            stack.pop_all()
        return link

    def again(self) -> None:
        """Have a new connection work, within the time that a client would wait."""
        began = time.monotonic()
        attempts(self.dial, b"and again")
        assert time.monotonic() - began < NOTICED

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def world(lab: Lab) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="tr") as name:
        made = World(lab, Path(name))
        yield made
        made.end()


def notices(link: socket.socket) -> float:
    """Say something into a connection that is broken somewhere; return after how many seconds that shows."""
    began = time.monotonic()
    assert talk(link, b"anybody there?", 2 * NOTICED) == b""
    return time.monotonic() - began


def test_hosts_behind_two_symmetric_routers_reach_each_other(world: World) -> None:
    with world.dial() as link:
        words = bytes(range(256)) * 4096
        assert talk(link, words, 10.0) == words


@pytest.mark.slow
@pytest.mark.parametrize("which", ["works", "office"])
def test_a_router_that_forgets_costs_one_connection(world: World, which: str) -> None:
    site: Site = getattr(world, which)
    with world.dial() as link:
        assert talk(link, b"one", 5.0) == b"one"
        site.rebind()
        assert notices(link) < NOTICED
    world.again()


def test_a_node_that_vanishes_is_missed(world: World, lab: Lab) -> None:
    with world.dial() as link:
        assert talk(link, b"one", 5.0) == b"one"
        with lab.unplug(world.node):
            assert notices(link) < NOTICED
    world.again()


def test_a_relay_that_dies_is_missed_at_once_and_comes_back(world: World) -> None:
    with world.dial() as link:
        assert talk(link, b"one", 5.0) == b"one"
        world.relay.kill()
        assert notices(link) < 1.0
    world.relay.wait()
    world.start(world.public, "relay")
    world.again()
