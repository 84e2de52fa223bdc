"""Brings a version's files from the manager into a directory of this host, each verified against its digest.

The directory is made by us, holds copies only, and appears under its final name complete or not at all. Models are
loaded from nowhere else: what ONNX Runtime may read beside a model is what lies beside it here.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from tetherd.errors import DigestMismatch, ModelInvalid, StorageFull
from tetherd.types import Digest, Signature, digest_hex
from tetherd.wire import manifest
from tetherd.wire.messages import Chunk, FileEntry, GetBlob, GetManifest, Request

R = TypeVar("R")
CHUNK: Final = 1024 * 1024

Call = Callable[[Request[Chunk]], Chunk]


class Unpacked(msgspec.Struct, frozen=True):
    """A version on this host's disk, ready to be loaded."""

    model: Path
    signature: Signature


def unpack(version: Digest, cache: Path, call: Call) -> Unpacked:
    """Return the version's directory, fetching what is missing. Verifies every byte, also of what was there before.

    Raises DigestMismatch, ModelInvalid, StorageFull and what the manager answers.
    """
    listing = bytes(call(GetManifest(version)).data.data)
    if manifest.digest_of(listing) != version:
        raise DigestMismatch("the manager sent another manifest than the version's", fix="push the model again")
    parsed = manifest.parse(listing)
    config = manifest.decode_config(_read(Digest(parsed.config.digest), parsed.config.size, call))
    home = cache / "versions" / digest_hex(version)
    files = parsed.files()
    try:
        with _alone(home):
            if not _intact(home, files):
                shutil.rmtree(home, ignore_errors=True)
                _fetch(home, files, call)
            os.utime(home)  # pruning goes by last use
    except OSError as error:
        raise StorageFull(f"cannot unpack the model: {error.strerror}", fix="make room in node.cache_dir") from None
    return Unpacked(home / manifest.model_file(file.path for file in files), config.signature)


def prune(cache: Path, keep: int) -> None:
    """Remove all but the ``keep`` versions that were loaded last. What runners hold is in their memory by then."""
    found = [path for path in (cache / "versions").glob("*") if not path.suffix]
    found.sort(key=_used, reverse=True)
    for home in found[keep:]:
        with _alone(home):
            shutil.rmtree(home, ignore_errors=True)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another runner pruned it
        return 0.0


def _intact(home: Path, files: list[FileEntry]) -> bool:
    return home.is_dir() and all(_is_file(home / file.path, file) for file in files)


def _is_file(path: Path, file: FileEntry) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    # A hard link could still be changed from elsewhere after it was verified.
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size != file.size:
        return False
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest() == file.digest


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Keep the other runners of a version out while it is verified and fetched: they find it there afterwards."""
    home.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with home.with_suffix(".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(home: Path, files: list[FileEntry], call: Call) -> None:
    draft = home.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)  # an interrupted fetch left it
    draft.mkdir(mode=0o700)
    try:
        for file in files:
            target = draft / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _download(file, target, call)
        draft.rename(home)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _download(file: FileEntry, target: Path, call: Call) -> None:
    hasher = hashlib.sha256()
    with target.open("xb") as stream:
        at = 0
        while at < file.size:
            data = call(GetBlob(file.digest, at, min(CHUNK, file.size - at))).data.data
            if not data:
                raise ModelInvalid(f"{file.path} ends after {at} of {file.size} bytes", fix="push the model again")
            hasher.update(data)
            stream.write(data)
            at += len(data)
    if "sha256:" + hasher.hexdigest() != file.digest:
        raise DigestMismatch(f"{file.path} is not what its digest promises", fix="push the model again")


def _read(digest: Digest, size: int, call: Call) -> bytes:
    data = bytes(call(GetBlob(digest, 0, size)).data.data)
    if manifest.digest_of(data) != digest:
        raise DigestMismatch("the model's description is not what its digest promises", fix="push the model again")
    return data
