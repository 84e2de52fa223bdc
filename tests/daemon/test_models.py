"""Which manager a host has: alone, the primary of its network, or a follower; and the door for its blobs."""

import asyncio
import contextlib
import os
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tetherd.config.load import load_text
from tetherd.config.schema import Config
from tetherd.daemon.models import Models, admit
from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.identity import certificates
from tetherd.drivers.models.replicas import FileCatalog
from tetherd.drivers.models.spared import followed
from tetherd.errors import Conflict, PermissionDenied
from tetherd.ports import Context
from tetherd.types import Credentials, Signature
from tetherd.wire.assignments import Site
from tetherd.wire.catalog import Catalog, Commit, FileEntry, Version, WatchCatalog
from tetherd.wire.manifest import digest_of
from tetherd.wire.replication import GetHoldings, HandOver, ReportHoldings
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

    term = 3

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
        return {"friend": ("gateway", "worker"), "passer": ("gateway", "orchestrator", "relay")}.get(node)

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


@pytest.mark.parametrize("node", ["stranger", "passer"])
def test_only_who_runs_or_keeps_models_reads_their_files(node: str) -> None:
    network = cast("Any", Network(""))
    admit("friend", network)
    with pytest.raises(PermissionDenied):
        admit(node, network)


async def test_what_it_followed_is_its_own_when_its_manager_becomes_primary(tmp_path: Path) -> None:
    state = tmp_path / "state"
    models = made(tmp_path, Network(""))
    files = {digest_of(data): data for data in (b"of the primary before", b"abandoned")}
    for digest, data in files.items():
        models._blobs.append(digest, 0, len(data), data)
    kept, abandoned = [state / "blobs" / "sha256" / digest.removeprefix("sha256:") for digest in files]
    models.close()
    for path in (kept, abandoned):
        os.utime(path, (1, 1))
    entry = FileEntry("m.onnx", digest_of(b"of the primary before"), 1)
    version = Version("m", 1, digest_of(b"manifest"), digest_of(b"config"), "onnx", Signature((), ()), 1, 0.0, [entry])
    copy = followed(state, "f" * 64)
    FileCatalog(copy).save(Catalog(5, [version], [], origin="founder"))

    models = made(tmp_path, Network(""))
    taken = await models.routes()[WatchCatalog](WatchCatalog(), Context(time.monotonic() + 5))
    assert (taken.versions, taken.epoch >> 32, taken.heritage["founder"]) == ([version], 3, 5)
    assert HandOver in models.routes()
    assert not copy.exists()
    running = asyncio.create_task(models.run(lambda: None))
    async with asyncio.timeout(10):
        while abandoned.exists():  # noqa: ASYNC110 - nobody tells that a file went
            await asyncio.sleep(0.01)
    assert kept.exists()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    models.close()
