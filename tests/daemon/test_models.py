"""Which manager a host has: alone, the primary of its network, or a follower; and the door for its blobs."""

import asyncio
import contextlib
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tetherd.config.load import load_text
from tetherd.config.schema import Config
from tetherd.daemon.models import Models
from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.identity import certificates
from tetherd.errors import Conflict
from tetherd.ports import Context
from tetherd.types import Credentials
from tetherd.wire.assignments import Site
from tetherd.wire.messages import Commit, WatchCatalog
from tetherd.wire.replication import GetHoldings, ReportHoldings
from tetherd.wire.roster import Member


def config(root: Path) -> Config:
    text = f'[node]\nname = "h"\nstate_dir = "{root}/state"\n[cluster]\nbulk = "127.0.0.1:45999"\n'
    return load_text(text.encode(), "test.toml").config


def credentials() -> Credentials:
    """Return those of the only node of a network."""
    now = time.time()
    root = certificates.make_root(now)
    issuing = certificates.make_issuing(root, now)
    key = certificates.new_key()
    spki = certificates.spki_of(key.public_key())
    chain = certificates.pem(certificates.issue(issuing, spki, now), issuing.certificate)
    node = sha256(spki).hexdigest()
    return Credentials(node, certificates.key_pem(key).decode(), chain, certificates.pem(root.certificate))


class Network:
    """Stands for the network: ``primary`` is the node whose manager writes the catalog."""

    def __init__(self, primary: str) -> None:
        self.mine = credentials()
        self.node = self.mine.node
        self._primary = primary or self.node

    def primary(self) -> Member:
        return Member(node=self._primary, name="founder", roles=("manager",))

    def reachable(self, port: int) -> str:
        return f"10.0.0.1:{port}"

    def credentials(self) -> Any:
        return self.mine

    def roles_of(self, node: str) -> Any:
        return ("worker",) if node == "friend" else None

    def sites(self, role: str) -> list[Site]:
        return [Site(f"tls+tcp://{role}", self._primary)]

    def caller(self, site: Site) -> Any:
        return SimpleNamespace(site=site)


def made(root: Path, network: Network | None) -> Models:
    return Models(config(root), SystemClock(), cast("Any", network))


async def test_alone_it_holds_everything_and_serves_nobody(tmp_path: Path) -> None:
    models = made(tmp_path, None)
    assert models.listeners == []
    found = await models.routes()[GetHoldings](GetHoldings(), Context(0.0))
    assert (found.wanted, len(found.holders)) == (1, 1)
    models.close()


async def test_the_primary_tells_followers_where_its_blobs_are(tmp_path: Path) -> None:
    network = Network("")
    models = made(tmp_path, network)
    assert {Commit, WatchCatalog, ReportHoldings, GetHoldings} <= models.routes().keys()
    (primary,) = (await models.routes()[GetHoldings](GetHoldings(), Context(0.0))).holders
    assert (primary.node, primary.address, primary.name) == (network.node, "10.0.0.1:45999", "h")
    models.close()


async def test_a_follower_changes_nothing_and_takes_no_reports(tmp_path: Path) -> None:
    models = made(tmp_path, Network("another"))
    assert ReportHoldings not in models.routes()
    with pytest.raises(Conflict, match="founder"):
        await models.routes()[Commit](Commit("m", []), Context(0.0))
    assert not (tmp_path / "state" / "ledger.db").exists()
    models.close()


async def test_blobs_are_served_in_a_network(tmp_path: Path) -> None:
    models = made(tmp_path, Network(""))
    ready = asyncio.Event()
    (duty,) = models.listeners
    running = asyncio.create_task(duty(ready.set))
    await asyncio.wait_for(ready.wait(), 10)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    models.close()
