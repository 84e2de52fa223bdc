"""A manager that is killed, or whose disk fails, at any system call of a push loses nothing it acknowledged."""

import asyncio
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tetherd
from tetherd.drivers.models.blobs import DiskBlobs
from tetherd.drivers.models.ledger import SqliteLedger
from tetherd.errors import OffsetConflict
from tetherd.ports import Context
from tetherd.roles.manager import Manager
from tetherd.types import Signature, Tensor, TensorSpec
from tetherd.wire.catalog import Commit, FileEntry, PutBlob, StatBlob
from tetherd.wire.manifest import Config, digest_of, parse

FILES = {"labels.txt": b"zero\none\n", "model.onnx": bytes(range(256)) * 16}
CHUNK = 2048
PACKAGES = Path(tetherd.__file__).parents[1]


class Clock:
    """Time that stands still."""

    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0


class Inspector:
    """Accepts every model."""

    async def inspect(self, files, copy):
        return Config("onnx", Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),)))


def manager(root: Path) -> tuple[Manager, SqliteLedger]:
    ledger = SqliteLedger(root / "ledger.sqlite")
    blobs = DiskBlobs(root / "blobs", reserve=0)
    return Manager(blobs=blobs, ledger=ledger, inspector=Inspector(), clock=Clock()), ledger


async def push(role: Manager, model: str, acknowledge) -> None:
    """Push as a client does: resume where the manager says, commit when all is there."""

    async def ask(request):
        return await role.routes()[type(request)](request, Context(60))

    entries = [FileEntry(path, digest_of(data), len(data)) for path, data in FILES.items()]
    for entry in entries:
        data = FILES[entry.path]
        state = await ask(StatBlob(entry.digest))
        while not state.complete:
            part = data[state.offset : state.offset + CHUNK]
            tensor = Tensor("data", "UINT8", (len(part),), part)
            try:
                state = await ask(PutBlob(entry.digest, state.offset, entry.size, tensor))
            except OffsetConflict:
                state = await ask(StatBlob(entry.digest))
            acknowledge("blob", entry.digest, state.offset)
    version = await ask(Commit(model, entries))
    acknowledge("version", version.version, version.number)


def main(root: str) -> None:
    """Be the process that is killed: acknowledge on standard output, as a manager does on its socket."""
    one = ThreadPoolExecutor(1)  # strace counts the calls of each thread on its own
    role, _ = one.submit(manager, Path(root)).result()
    role._reads._disk = role._books = one
    asyncio.run(push(role, "digits", lambda *what: print(*what, flush=True)))


def run(root: Path, *strace: str) -> tuple[int, list[list[str]]]:
    """Run a push under strace; return its exit code and what it acknowledged."""
    program = f"import importlib.util as u; s = u.spec_from_file_location('push', {__file__!r})\n"
    program += "m = u.module_from_spec(s); s.loader.exec_module(m); m.main(__import__('sys').argv[1])"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", *strace, sys.executable, "-B", "-c", program, root],
        capture_output=True,
        timeout=30,
        check=False,
        env={"PYTHONPATH": str(PACKAGES)},
        text=True,
    )
    return done.returncode, [line.split() for line in done.stdout.splitlines()]


def check(root: Path, acknowledged: list[list[str]]) -> None:
    """Everything acknowledged is there, nothing is there by half, and the push can be finished."""
    role, ledger = manager(root)
    blobs = DiskBlobs(root / "blobs", reserve=0)
    versions = ledger.catalog().versions
    for kind, digest, count in acknowledged:
        if kind == "version":
            assert [version.number for version in versions if version.version == digest] == [int(count)]
        else:
            assert blobs.stat(digest).offset >= int(count)
    for version in versions:
        manifest, _ = blobs.read(version.version, 0, 1 << 20)
        assert digest_of(manifest) == version.version
        for digest in [parse(manifest).config.digest, *(file.digest for file in version.files)]:
            assert digest_of(blobs.read(digest, 0, 1 << 20)[0]) == digest
        assert {alias.number for alias in ledger.catalog().aliases} == {version.number}
    finished: list[tuple] = []
    asyncio.run(push(role, "digits", lambda *what: finished.append(what)))
    assert finished[-1][0] == "version"
    assert finished[-1][2] == 1
    ledger.close()


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the faults")


FINER = [pytest.param(*each, marks=pytest.mark.slow) for each in [("pwrite64", 5), ("fdatasync", 1), ("fsync", 1)]]
"""The same with fewer calls left out in between."""


@needs_strace
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("call", "step"), [("pwrite64", 15), ("fdatasync", 2), ("fsync", 2), ("rename", 1), *FINER])
def test_killed_at_any_call(tmp_path, call, step):
    kills = 0
    for count in range(1, 100, step):
        root = tmp_path / str(count)
        root.mkdir()
        code, acknowledged = run(root, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={count}")
        check(root, acknowledged)
        if code == 0:
            assert acknowledged[-1][0] == "version"
            break
        assert code in {-9, 137}
        kills += 1
    assert kills >= 2


@needs_strace
@pytest.mark.parametrize(
    ("call", "error"),
    [("pwrite64", "ENOSPC"), ("fdatasync", "EIO"), ("fsync", "EIO"), ("fsync", "ENOSPC"), ("rename", "EIO")],
)
def test_an_error_of_the_disk_is_never_acknowledged(tmp_path, call, error):
    """From some call on, all fail: what was acknowledged before is there, and works when the disk does again."""
    ended = set()
    for count in (1, 2, 3, 5, 8):
        root = tmp_path / str(count)
        root.mkdir()
        code, acknowledged = run(root, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={count}+")
        check(root, acknowledged)
        ended.add((code == 0, any(kind == "version" for kind, *_ in acknowledged)))
    assert ended <= {(False, False), (True, True)}
    assert (False, False) in ended
