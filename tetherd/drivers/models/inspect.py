"""Has each pushed model looked into by a child process, so that a hostile one can hurt only that.

This process must never parse a model or import an engine.
"""

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tetherd.errors import MALFORMED, Failure, ModelInvalid, revive
from tetherd.types import Digest, Seconds
from tetherd.wire.catalog import FileEntry
from tetherd.wire.manifest import Config, model_file

MAX_MODEL: Final = (2 << 30) - 1  # the limit of its encoding; larger weights lie in files beside the model
MAX_ANSWER: Final = 16 << 20

_PACKAGES: Final = Path(__file__).parents[3]
_GRACE: Final[Seconds] = 5


class ChildInspector:
    """Implements ports.Inspector in directories below ``scratch``, which is emptied first.

    One inspection may take ``timeout`` seconds and ``memory`` bytes plus three times the size of the files;
    ``parallel`` of them run at once, the others wait.
    """

    def __init__(self, scratch: Path, *, timeout: Seconds = 60, memory: int = 4 << 30, parallel: int = 2) -> None:
        self._scratch = scratch
        self._timeout = timeout
        self._memory = memory
        self._turn = asyncio.Semaphore(parallel)
        shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left behind
        scratch.mkdir(mode=0o700, parents=True)

    async def inspect(self, files: Sequence[FileEntry], copy: Callable[[Digest, Path], None]) -> Config:
        """Return the format and signature of the model in ``files``; see ports.Inspector."""
        name = model_file(file.path for file in files)
        size = next(file.size for file in files if file.path == name)
        if size > MAX_MODEL:
            raise ModelInvalid(
                f"{name!r} has {size:,} bytes, more than an ONNX file can hold",
                fix="save the weights as external data beside the model",
            )
        async with self._turn:
            unwanted = asyncio.Event()
            work = asyncio.create_task(self._look(files, copy, name, unwanted))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                unwanted.set()
                while not work.done():  # it removes what it made, however often this is cancelled meanwhile
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([work])
                raise

    async def _look(
        self,
        files: Sequence[FileEntry],
        copy: Callable[[Digest, Path], None],
        name: str,
        unwanted: asyncio.Event,
    ) -> Config:
        """Inspect in a task that nobody cancels: between two steps it may leave a child or files behind."""
        directory = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            await asyncio.to_thread(_lay_out, directory, files, copy)
            child = await self._start(directory, name, sum(file.size for file in files))
            try:
                return await self._ask(child, unwanted)
            finally:
                if child.returncode is None:
                    child.kill()
                await child.wait()
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _start(self, directory: Path, name: str, size: int) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-s", "-B", "-m", "tetherd.drivers.engines.onnx_inspect"),
            *(name, str(self._memory + 3 * size), str(int(self._timeout + _GRACE))),
            cwd=directory,
            env={"PYTHONPATH": str(_PACKAGES), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    async def _ask(self, child: Process, unwanted: asyncio.Event) -> Config:
        outcome, given_up = asyncio.create_task(_outcome(child)), asyncio.create_task(unwanted.wait())
        try:
            await asyncio.wait([outcome, given_up], timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
            if unwanted.is_set():
                raise asyncio.CancelledError
            if not outcome.done():
                raise ModelInvalid(
                    f"the model did not load within {self._timeout:g} s", fix="push a smaller or simpler model"
                )
            answer, code = await outcome
        finally:
            outcome.cancel()
            given_up.cancel()
        return _verdict(answer, code)


def _lay_out(directory: Path, files: Sequence[FileEntry], copy: Callable[[Digest, Path], None]) -> None:
    """Write the files under their own names: copies, because a link to a blob would let a model reach the store."""
    for file in files:
        target = directory / file.path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy(file.digest, target)


async def _outcome(child: Process) -> tuple[bytes, int]:
    """Return all that a child says, or as much of it as an answer may have, and its exit code."""
    assert child.stdout is not None
    parts = bytearray()
    while len(parts) <= MAX_ANSWER and (part := await child.stdout.read(1 << 16)):
        parts += part
    return bytes(parts), await child.wait()


def _verdict(answer: bytes, code: int) -> Config:
    if code < 0:
        reason = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        raise ModelInvalid(f"loading the model crashed ({reason})", fix="export the model again, or report this")
    try:
        if code == 0:
            return msgspec.json.decode(answer, type=Config)
        failure = msgspec.json.decode(answer, type=Failure)
    except MALFORMED as error:
        raise ModelInvalid(
            "loading the model ended without an answer", fix="export the model again, or report this"
        ) from error
    raise revive(failure)
