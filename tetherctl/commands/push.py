"""``tetherctl models push``: hash, check, upload, commit. Resumes where it stopped; publishes all or nothing."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

from msgspec import Struct
from typer import Argument, Context, Option

from tetherctl.client import CHUNK, Answer
from tetherctl.commands.models import short, spread, tensor
from tetherctl.errors import Usage
from tetherctl.human import clean, size, stamped
from tetherctl.patience import Patience
from tetherctl.progress import Progress
from tetherctl.session import Session
from tetherctl.source import Source, find_files
from tetherd.errors import DigestMismatch, InvalidInput, OffsetConflict, Unavailable
from tetherd.types import LATEST, parse_alias, parse_model

PART: Final = 4 * 1024 * 1024
PUBLISHING: Final = 120.0
"""How long the daemon may take to check the model's graph and record the version."""


class Blob(Struct):
    """One file to push; ``sent`` counts the bytes the daemon has of it, as far as ``sure``; ``stored``: all."""

    path: str
    file: Path
    digest: str
    size: int
    sent: int = 0
    sure: bool = False
    stored: bool = False


def push(
    ctx: Context,
    path: Annotated[Path, Argument(metavar="PATH", help="Directory of the model, or its .onnx file.")],
    name: Annotated[str, Option("--name", metavar="NAME", help="Name of the model; default: the folder's.")] = "",
    alias: Annotated[str, Option("--alias", metavar="ALIAS", help="Alias that is to mean the new version.")] = LATEST,
) -> None:
    """Upload a model and make it a new version.

    Pushed are the .onnx file at the top of the directory, the external data files it names, and labels.txt; -v lists
    what is left out. Stopped half-way, the same command goes on from there.
    """
    session: Session = ctx.obj
    parse_alias(alias)
    source = find_files(path)
    model = name_for(path, name)
    for skipped in source.skipped:
        session.out.detail(f"  skipped  {clean(skipped)}")
    progress = Progress(session.out, session.settings.progress, model)
    upload = Upload(session, progress)
    try:
        upload.send(source)
        progress.phase("commit")
        answer = upload.commit(model, alias)
        progress.finish()
    except KeyboardInterrupt:
        upload.explain_stop(model)
        raise
    _report(session, source, answer, model, alias)


def name_for(path: Path, name: str) -> str:
    """Return the model's name: ``name``, else that of the folder or the file's stem. Raises InvalidInput."""
    if name:
        return parse_model(name)
    resolved = path.resolve()
    own = resolved.stem if resolved.is_file() else resolved.name
    try:
        return parse_model(own)
    except InvalidInput as error:
        raise Usage(f"the name of {path} cannot name a model: {error.message}", fix="choose one with --name") from None


class Upload:
    """Brings files to the daemon, waiting out its restarts."""

    def __init__(self, session: Session, progress: Progress) -> None:
        self.session = session
        self.progress = progress
        self.blobs: list[Blob] = []
        self.publishing = False
        self.moved = 0
        self.patience = Patience(progress, lambda: self.moved)

    def send(self, source: Source) -> None:
        """Hash the files, ask what is there already, and upload the rest."""
        self._hash(source)
        self.progress.phase("check")
        self.session.client.json("GET", "/health/live")  # a daemon that does not run is told at once
        for blob in self.blobs:
            self.patience.run(partial(self._check, blob))
        self.progress.finish()
        total = sum(blob.size for blob in self.blobs)
        self.progress.phase("upload", total, self._sent())
        for blob in self.blobs:
            self.patience.run(partial(self._upload, blob))
        self.progress.finish()

    def commit(self, model: str, alias: str) -> Answer:
        """Make the uploaded files a version; again gives the same version."""
        import msgspec

        files = [{"path": blob.path, "digest": blob.digest, "size": blob.size} for blob in self.blobs]
        body = msgspec.json.encode({"files": files, "alias": alias})
        headers = {"Content-Type": "application/json"}
        path = f"/api/v1/models/{model}/versions"
        self.publishing = True
        return self.patience.run(lambda: self.session.client.request("POST", path, body, headers, PUBLISHING))

    def explain_stop(self, model: str) -> None:
        """Say what an interrupt leaves behind."""
        if self.publishing:
            self.session.out.note(f"stopped while publishing; see tetherctl models versions {model}")
            return
        total = sum(blob.size for blob in self.blobs)
        percent = self._sent() * 100 // total if total else 0
        self.session.out.note(f"stopped at {percent}%; nothing was published. Run the same command to resume")

    def _sent(self) -> int:
        return sum(blob.sent for blob in self.blobs)

    def _hash(self, source: Source) -> None:
        sizes = {path: file.stat().st_size for path, file in source.files.items()}
        self.progress.phase("hash", sum(sizes.values()))
        done = 0
        for path, file in source.files.items():
            state = hashlib.sha256()
            count = 0
            with file.open("rb") as stream:
                while piece := stream.read(CHUNK):
                    state.update(piece)
                    count += len(piece)
                    self.progress.reach(done + count)
            done += count
            self.blobs.append(Blob(path, file, f"sha256:{state.hexdigest()}", count))
        self.progress.finish()

    def _check(self, blob: Blob) -> None:
        """Ask how many bytes of the blob the daemon has."""
        path = f"/api/v1/blobs/{blob.digest}"
        answer = self.session.client.exchange("HEAD", path)
        offset = answer.headers.get("upload-offset", "0")
        if answer.status == 200:
            blob.sent, blob.sure, blob.stored = blob.size, True, True
        elif answer.status == 404 and offset.isdigit():
            blob.sent, blob.sure = min(int(offset), blob.size), True
        else:
            self.session.client.request("GET", path, None, {"Range": "bytes=0-0"})  # HEAD gives no reason, this does
            raise Unavailable(f"the daemon answered {answer.status} about {blob.path}", fix="see its log")

    def _upload(self, blob: Blob) -> None:
        """Send what is missing of a blob."""
        if not blob.sure:
            self._check(blob)
        if blob.stored:
            return
        blob.sure = False  # until it is through: after a break only the daemon knows where it stands
        with blob.file.open("rb") as stream:
            while not self._part(blob, stream):
                pass

    def _part(self, blob: Blob, stream: BinaryIO) -> bool:
        """Send the next part; return whether the daemon has the whole blob now."""
        stream.seek(blob.sent)
        data = stream.read(min(PART, blob.size - blob.sent))
        if len(data) < min(PART, blob.size - blob.sent):
            raise DigestMismatch(f"{blob.file} became shorter while it was pushed", fix="run the command again")
        headers = {
            "Upload-Offset": str(blob.sent),
            "Upload-Length": str(blob.size),
            "Content-Type": "application/octet-stream",
        }
        answer = self.session.client.exchange("PATCH", f"/api/v1/blobs/{blob.digest}", data, headers, PUBLISHING)
        try:
            self.session.client.check(answer)
        except OffsetConflict as error:
            if error.details.get("offset") in {None, blob.sent}:
                raise
            blob.sent = int(error.details["offset"])
            return False
        answer.read()
        self.moved += len(data)
        blob.sent += len(data)
        self.progress.reach(self._sent())
        return answer.status == 201


def _report(session: Session, source: Source, answer: Answer, model: str, alias: str) -> None:
    import msgspec

    document: dict[str, Any] = stamped(msgspec.json.decode(answer.read()))
    number = document["number"]
    new = answer.status == 201
    total = sum(file.stat().st_size for file in source.files.values())
    verb = "pushed" if new else "already there:"
    lines = [
        f"{verb} {clean(model)}@{number}  {short(document['digest'])}  {size(total)}  {clean(alias)} -> {number}",
    ]
    copies = document.get("copies")
    if copies and copies["wanted"] > 1:
        lines.append(f"{spread(copies)}   see tetherctl models show {model} --where")
    document |= {"name": model, "alias": alias, "new": new}
    session.out.record("tether.models.push/v1", document, lines, f"{model}@{number}")
    reference = model if alias == LATEST else f"{model}@{alias}"
    example = clean(source.root / source.example) if source.example else "input.json"
    goes_in = "" if source.example or not document["inputs"] else f"   (goes in: {tensor(document['inputs'][0])})"
    session.out.note(f"next: tetherctl infer {reference} < {example}{goes_in}")
