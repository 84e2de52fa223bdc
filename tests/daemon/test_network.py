"""The connections of a node to the others: one to each that can be dialled, none to those that are gone."""

import asyncio
import contextlib
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
from certificates import home

from tetherd.config.load import load_text
from tetherd.daemon.network import Network
from tetherd.drivers.host.clock import SystemClock
from tetherd.policy.membership import Standing
from tetherd.types import RoleName
from tetherd.wire.roster import Member, Roster, SignedRoster

PEER: Final = "7" * 64


class Club:
    """Stands for the membership: the test says who belongs to it."""

    def __init__(self, *members: Member) -> None:
        self.roles: tuple[RoleName, ...] = ("worker",)
        self.renewed: list[Any] = []
        self._credentials = home().node()
        self._changed = asyncio.Event()
        self.set(*members)

    def set(self, *members: Member) -> None:
        self.standing = Standing(
            network="0" * 16,
            node=self._credentials.node,
            roster=Roster(network="0" * 16, name="home", epoch=1, issued=0.0, members=members, roots=()),
            signed=SignedRoster(b"", b"", b""),
            credentials=self._credentials,
            issued=0.0,
            expires=1.0,
        )
        self._changed.set()
        self._changed = asyncio.Event()

    async def changes(self) -> None:
        await self._changed.wait()

    async def run(self, ready: Any) -> None:
        ready()

    async def follow(self, node: str, peer: Any) -> None:
        await asyncio.get_running_loop().create_future()


async def test_nodes_that_are_gone_are_dialled_no_more(tmp_path: Path) -> None:
    text = f'[node]\nstate_dir = "{tmp_path}"\n[cluster]\nlisten = "127.0.0.1:7443"\nmdns = false\ndht = false\n'
    config = load_text(text.encode(), "test.toml").config
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        peer = Member(node=PEER, name="peer", roles=("orchestrator",), addresses=(address,))
        club = Club(peer)
        papers = cast("Any", SimpleNamespace(authority=None))
        network = Network(config, SystemClock(), cast("Any", club), papers)
        following = asyncio.create_task(network._follow(lambda: None))
        async with asyncio.timeout(5.0):
            while PEER not in network._callers:  # noqa: ASYNC110  # what it dials has no events
                await asyncio.sleep(0.01)
            first = network._callers[PEER]
            club.set(msgspec.structs.replace(peer, revoked=1.0))
            while network._callers:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert first._closed
            club.set(peer)
            while PEER not in network._callers:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert network._callers[PEER] is not first
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        network.close()
