"""``tetherctl models pull``: the manifest first, then each file, checked against its digest before it gets its name."""

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from typer import Argument, Context, Option

from tetherctl.client import CHUNK, Client
from tetherctl.commands.models import short
from tetherctl.errors import ConnectionLost, LocalConflict
from tetherctl.human import clean, size
from tetherctl.patience import Patience
from tetherctl.progress import Progress
from tetherctl.session import Session
from tetherd.errors import DigestMismatch
from tetherd.types import parse_reference
from tetherd.wire import manifest
from tetherd.wire.catalog import FileEntry


def pull(
    ctx: Context,
    model: Annotated[str, Argument(metavar="MODEL", help="Model, MODEL@VERSION or MODEL@ALIAS.")],
    directory: Annotated[
        Path | None, Option("--directory", "-d", metavar="DIR", help="Where to put the files; default: ./MODEL.")
    ] = None,
) -> None:
    """Download a version's files.

    Every file is checked against its digest. Stopped half-way, the same command goes on from there.
    """
    session: Session = ctx.obj
    reference = parse_reference(model)
    number, digest = _resolve(session, model)
    raw = session.client.request("GET", f"/api/v1/models/{reference.model}@{number}/manifest").read()
    if manifest.digest_of(raw) != digest:
        raise DigestMismatch(f"the manifest of {model} is not what its digest says", fix="check the daemon's storage")
    parsed = manifest.parse(raw)
    if parsed.model != reference.model:
        raise DigestMismatch(f"the manifest of {model} is one of {parsed.model}", fix="check the daemon's storage")
    files = parsed.files()
    root = directory or Path(reference.model)
    progress = Progress(session.out, session.settings.progress, reference.model)
    try:
        Download(session.client, progress, root, files).run()
    except KeyboardInterrupt:
        session.out.note(f"stopped at {progress.percent}%. Run the same command to resume")
        raise
    total = sum(file.size for file in files)
    name = f"{reference.model}@{number}"
    document = {"name": reference.model, "number": number, "digest": digest, "directory": str(root), "size": total}
    document["files"] = [{"path": file.path, "digest": file.digest, "size": file.size} for file in files]
    line = f"pulled {name}  {short(digest)}  {size(total)}  {len(files)} files in {clean(root)}"
    session.out.record("tether.models.pull/v1", document, [line], name)


def _resolve(session: Session, model: str) -> tuple[int, str]:
    """Return the number and digest of the version that a reference means."""
    document: dict[str, Any] = session.client.json("GET", f"/api/v1/models/{model}")
    number = int(document["version"])
    return number, next(item["digest"] for item in document["versions"] if item["number"] == number)


class Download:
    """Brings the files of one version into ``root``."""

    def __init__(self, client: Client, progress: Progress, root: Path, files: list[FileEntry]) -> None:
        self.client = client
        self.progress = progress
        self.root = root
        self.files = files
        self.before = 0
        self.moved = 0
        self.patience = Patience(progress, lambda: self.moved)

    def run(self) -> None:
        """Fetch what is missing. Raises LocalConflict, DigestMismatch, OSError and what the daemon says."""
        self.progress.phase("check")
        missing = [file for file in self.files if not self._is_here(file)]
        self.progress.finish()
        self.progress.phase("download", sum(file.size for file in missing))
        for file in missing:
            self._fetch(file)
            self.before += file.size
        self.progress.finish()

    def _is_here(self, file: FileEntry) -> bool:
        place = self._place(file)
        if not os.path.lexists(place):
            return False
        if place.is_symlink() or not place.is_file() or _digest(place) != file.digest:
            raise LocalConflict(
                f"{place} exists and is not the file to pull", fix="move it away, or choose a directory with -d"
            )
        return True

    def _place(self, file: FileEntry) -> Path:
        """Return where a file goes. Raises LocalConflict where a link would lead out of the directory."""
        place = self.root / file.path
        if not place.parent.resolve().is_relative_to(self.root.resolve()):
            raise LocalConflict(
                f"{place.parent} is a link out of {self.root}", fix="pull into an empty directory with -d"
            )
        return place

    def _fetch(self, file: FileEntry) -> None:
        place = self._place(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(place.name + ".part")
        self.patience.run(partial(self._try, file, part))
        part.rename(place)
        _sync_directory(place.parent)

    def _try(self, file: FileEntry, part: Path) -> None:
        """Bring ``part`` to the file's full size, from where it stands, and check it."""
        # A link there would make us write elsewhere: refuse to follow one.
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "r+b") as stream:
            state = hashlib.sha256()
            have = 0
            while have < file.size and (piece := stream.read(min(CHUNK, file.size - have))):
                state.update(piece)
                have += len(piece)
            stream.truncate(have)
            if have < file.size:
                state = self._receive(file, stream, state, have)
            stream.flush()
            os.fsync(stream.fileno())
        if f"sha256:{state.hexdigest()}" != file.digest:
            part.unlink()
            raise DigestMismatch(
                f"{file.path} arrived damaged and was thrown away",
                fix="run the command again; check the daemon's storage",
            )

    def _receive(self, file: FileEntry, stream: BinaryIO, state: Any, have: int) -> Any:
        """Fetch the rest from ``have`` on; return the hash over the whole file."""
        headers = {"Range": f"bytes={have}-"} if have else {}
        answer = self.client.exchange("GET", f"/api/v1/blobs/{file.digest}", None, headers, stream=True)
        self.client.check(answer)
        if have and answer.status != 206:  # the daemon sends it from its start
            stream.seek(0)
            stream.truncate()
            state, have = hashlib.sha256(), 0
        for piece in answer.pieces:
            have += len(piece)
            if have > file.size:
                raise DigestMismatch(f"{file.path} is longer than its manifest says", fix="check the daemon's storage")
            stream.write(piece)
            state.update(piece)
            self.moved += len(piece)
            self.progress.reach(self.before + have)
        if have < file.size:
            raise ConnectionLost(f"{file.path} ended early", fix="run the same command to resume")
        return state


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
