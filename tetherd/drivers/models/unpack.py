"""Brings a version's files from where they are into a directory of this host, each verified against its digest.

The directory is made by us, holds copies only, and appears under its final name complete or not at all. Models are
loaded from nowhere else: what ONNX Runtime may read beside a model is what lies beside it here.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from tetherd.drivers.models.origins import Origin
from tetherd.errors import DigestMismatch, StorageFailed, StorageFull
from tetherd.types import Digest, Signature, digest_hex
from tetherd.wire import manifest
from tetherd.wire.catalog import FileEntry
from tetherd.wire.manifest import Manifest

_DRAFT: Final = ".draft"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Unpacked(msgspec.Struct, frozen=True):
    """A version on this host's disk, ready to be loaded."""

    model: Path
    signature: Signature


def unpack(version: Digest, cache: Path, origin: Origin) -> Unpacked:
    """Return the version's directory, fetching what is missing. Verifies every byte, also of what was there before.

    Raises DigestMismatch, ModelInvalid, StorageFull, StorageFailed and what the origin raises.
    """
    listing = origin.manifest(version)
    if manifest.digest_of(listing) != version:
        raise DigestMismatch("the manager sent another manifest than the version's", fix="push the model again")
    parsed = manifest.parse(listing)
    config = manifest.decode_config(_config(parsed, origin))
    home = cache / "versions" / digest_hex(version)
    files = parsed.files()
    try:
        with _alone(home):
            if not _intact(home, files):
                shutil.rmtree(home, ignore_errors=True)
                _fetch(home, parsed, origin)
            os.utime(home)  # pruning goes by last use
    except OSError as error:
        what = f"cannot unpack the model: {error.strerror or error}"
        if error.errno in _NO_ROOM:
            raise StorageFull(what, fix="make room in node.cache_dir") from None
        raise StorageFailed(what, fix="check the disk of node.cache_dir and its permissions") from None
    return Unpacked(home / manifest.model_file(file.path for file in files), config.signature)


def prune(cache: Path, keep: int) -> None:
    """Remove all but the ``keep`` versions that were loaded last. What runners hold is in their memory by then.

    A version that was fetched by half counts like any other.
    """
    found = [path for path in (cache / "versions").glob("*") if path.suffix in ("", _DRAFT)]
    found.sort(key=_used, reverse=True)
    for path in found[keep:]:
        with _alone(path.with_suffix("")):
            shutil.rmtree(path, ignore_errors=True)


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


def _fetch(home: Path, parsed: Manifest, origin: Origin) -> None:
    draft = home.with_suffix(_DRAFT)
    if not origin.resumes:
        shutil.rmtree(draft, ignore_errors=True)  # an interrupted fetch left it
    blobs = {blob.digest: blob for blob in parsed.blobs()}
    try:
        draft.mkdir(mode=0o700, exist_ok=origin.resumes)
        for file in parsed.files():
            target = draft / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            origin.bring(blobs[file.digest], target)
        draft.rename(home)
    except BaseException:
        if not origin.resumes:
            shutil.rmtree(draft, ignore_errors=True)
        raise


def _config(parsed: Manifest, origin: Origin) -> bytes:
    digest = Digest(parsed.config.digest)
    data = origin.document(digest, parsed.config.size)
    if manifest.digest_of(data) != digest:
        raise DigestMismatch("the model's description is not what its digest promises", fix="push the model again")
    return data
