"""The document that lists a version's files; the SHA-256 of its bytes is the version's identity.

It is an OCI image manifest, so that registry tools can carry it. It has exactly one spelling: canonical JSON, files
sorted by path. It names its model, so that the same files under two names are two versions, which share their blobs.
A file of several chunks carries the chunks' digests as an annotation: whoever holds the version's digest can then judge
every 4 MiB by itself, whoever sent it. Manifests without these lists, as written before there were any, stay valid.
``parse`` must never return what ``build`` would not have written.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tetherd.errors import MALFORMED, ModelInvalid, UnsupportedMedia
from tetherd.types import Buffer, Digest, Signature, parse_digest, parse_model
from tetherd.wire.catalog import FileEntry
from tetherd.wire.chunks import Blob, blob, spell

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE: Final = "application/vnd.tether.model.v1"
CONFIG_TYPE: Final = "application/vnd.tether.model.config.v1+json"
FILE_TYPE: Final = "application/vnd.tether.model.file.v1"
TITLE: Final = "org.opencontainers.image.title"
NAME: Final = "org.opencontainers.image.ref.name"
CHUNKS: Final = "vnd.tether.chunks.sha256"

MAX_FILES: Final = 1_000
MAX_MANIFEST: Final = 1 << 20
MAX_PATH: Final = 4_096
MAX_NAME: Final = 255  # what one directory entry can hold on every file system we meet
MAX_SIZE: Final = 1 << 62

# Pickles run what they contain and archives hide what they contain: neither may ride along beside a model.
_REFUSED: Final = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".mar")
_REFUSED_ARCHIVES: Final = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


class Config(msgspec.Struct, frozen=True):
    """What the config blob holds: the files' format and what the model takes and gives."""

    format: str
    signature: Signature


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """One blob as OCI describes it."""

    digest: str
    media_type: str
    size: int
    annotations: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One version: its model's name, its config blob and its files."""

    annotations: dict[str, str]
    artifact_type: str
    config: Descriptor
    layers: list[Descriptor]
    media_type: str
    schema_version: int

    @property
    def model(self) -> str:
        """The name of the model that this is a version of."""
        return self.annotations[NAME]

    def files(self) -> list[FileEntry]:
        """Return the files, sorted by path."""
        return [FileEntry(item.annotations[TITLE], Digest(item.digest), item.size) for item in self.layers]

    def blobs(self) -> list[Blob]:
        """Return what has to be stored besides the manifest to hold this version: config and files, each once."""
        found = {item.digest: item for item in [self.config, *self.layers]}
        return [blob(Digest(item.digest), item.size, item.annotations.get(CHUNKS, "")) for item in found.values()]


def digest_of(data: Buffer) -> Digest:
    """Return the digest that names ``data``."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def encode_config(config: Config) -> bytes:
    """Return the config blob."""
    return _canonical(config)


def decode_config(data: Buffer) -> Config:
    """Return what the config blob holds. Raises ModelInvalid."""
    try:
        return msgspec.json.decode(data, type=Config)
    except MALFORMED as error:
        raise ModelInvalid(f"the model's description is malformed: {error}", fix="push the model again") from error


def build(
    model: str, files: Iterable[FileEntry], config: bytes, chunks: Mapping[Digest, Sequence[bytes]] | None = None
) -> bytes:
    """Return the manifest of a model's version: these files, this config blob. The order of ``files`` does not matter.

    ``chunks`` has the chunks' digests of files that have several; they are left out where they would make the manifest
    too long, which takes some 95 GiB.

    Raises ModelInvalid for files that no version may have, InvalidInput for what is not a digest or a model's name.
    """
    parse_model(model)
    listed = sorted(files, key=lambda file: file.path)
    check_files(listed)
    lists = {digest: {CHUNKS: spell(each)} for digest, each in (chunks or {}).items()}
    described = Descriptor(digest_of(config), CONFIG_TYPE, len(config))
    layers = [Descriptor(f.digest, FILE_TYPE, f.size, {TITLE: f.path} | lists.get(f.digest, {})) for f in listed]
    data = _encode(model, described, layers)
    if len(data) > MAX_MANIFEST and lists:
        data = _encode(model, described, [Descriptor(f.digest, FILE_TYPE, f.size, {TITLE: f.path}) for f in listed])
    if len(data) > MAX_MANIFEST:
        raise _too_long()
    return data


def parse(data: Buffer) -> Manifest:
    """Return the manifest that ``build`` wrote as ``data``; raise ModelInvalid or InvalidInput for anything else."""
    if len(data) > MAX_MANIFEST:
        raise _too_long()
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except MALFORMED as error:
        raise ModelInvalid(f"this is not the manifest of a model: {error}", fix="push the model again") from error
    if NAME not in found.annotations:
        raise ModelInvalid("the manifest does not name its model", fix="push the model again")
    if any(TITLE not in layer.annotations for layer in found.layers):
        raise ModelInvalid("the manifest has a file without a name", fix="push the model again")
    parse_model(found.model)
    check_files(found.files())
    parse_digest(found.config.digest)
    found.blobs()  # raises where a list of chunks is not one
    if found.config.size < 0 or _encode(found.model, found.config, found.layers) != bytes(data):
        raise ModelInvalid("the manifest is not in canonical form", fix="push the model with tetherctl")
    return found


def check_files(files: Sequence[FileEntry]) -> None:
    """Raise ModelInvalid unless these files can be laid out in one directory on every host."""
    if not files:
        raise ModelInvalid("the version has no files", fix="push a directory that holds an ONNX model")
    if len(files) > MAX_FILES:
        raise ModelInvalid(
            f"the version has {len(files):,} files, {MAX_FILES:,} is the limit", fix="push fewer, larger files"
        )
    for file in files:
        _check_path(file.path)
        parse_digest(file.digest)
        if not 0 <= file.size <= MAX_SIZE:
            raise ModelInvalid(f"the size of {_shown(file.path)} is {file.size}", fix="send each file's size in bytes")
    _check_collisions([file.path for file in files])


def model_file(paths: Iterable[str]) -> str:
    """Return which of a version's files is the model.

    Raises UnsupportedMedia where there is no ONNX model or something else besides, ModelInvalid where there are
    several and none is called ``model.onnx``.
    """
    listed = sorted(paths)
    for path in listed:
        if path.lower().endswith(_REFUSED + _REFUSED_ARCHIVES):
            raise UnsupportedMedia(
                f"{_shown(path)} is a pickle or an archive, and only ONNX models are accepted",
                fix="export the model to ONNX and push a directory of plain files without this one",
            )
    found = [path for path in listed if "/" not in path and path.lower().endswith(".onnx")]
    if not found:
        names = ", ".join(_shown(path) for path in listed[:3]) + (" and more" if len(listed) > 3 else "")
        raise UnsupportedMedia(
            f"only ONNX models are accepted, and no .onnx file is at the top of the model's directory (found {names})",
            fix="export the model to ONNX and push the directory that holds the .onnx file",
        )
    if len(found) > 1 and "model.onnx" not in found:
        names = ", ".join(_shown(path) for path in found[:5])
        raise ModelInvalid(f"several files could be the model: {names}", fix="name one of them model.onnx")
    return found[0] if len(found) == 1 else "model.onnx"


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _encode(model: str, config: Descriptor, layers: Iterable[Descriptor]) -> bytes:
    """Spell a manifest from what may differ between two: the model's name, digests, sizes and paths."""
    files = sorted(layers, key=lambda item: item.annotations[TITLE])
    lists = {item.digest: {CHUNKS: item.annotations[CHUNKS]} for item in files if CHUNKS in item.annotations}
    titles = [{TITLE: item.annotations[TITLE]} | lists.get(item.digest, {}) for item in files]
    return _canonical(
        Manifest(
            annotations={NAME: model},
            artifact_type=ARTIFACT_TYPE,
            config=Descriptor(config.digest, CONFIG_TYPE, config.size),
            layers=[Descriptor(f.digest, FILE_TYPE, f.size, title) for f, title in zip(files, titles, strict=True)],
            media_type=MANIFEST_TYPE,
            schema_version=2,
        )
    )


def _too_long() -> ModelInvalid:
    return ModelInvalid(f"the manifest is longer than {MAX_MANIFEST:,} bytes", fix="push fewer files or shorter paths")


def _shown(path: str) -> str:
    return ascii(path if len(path) <= 80 else path[:77] + "...")


def _check_path(path: str) -> None:
    problem = _path_problem(path)
    if problem:
        raise ModelInvalid(
            f"the file path {_shown(path)} {problem}",
            fix="use relative paths with '/' between plain names, inside the model's directory",
        )


def _path_problem(path: str) -> str:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not Unicode text"
    names = path.split("/")
    problems = (
        (not path, "is empty"),
        (size > MAX_PATH, f"is longer than {MAX_PATH:,} bytes"),
        (path.startswith("/"), "is absolute"),
        ("\\" in path, "contains a backslash"),
        (any(ord(letter) < 32 or ord(letter) == 127 for letter in path), "contains a control character"),
        (any(name in {"", ".", ".."} for name in names), "leaves its directory or has an empty part"),
        (any(len(name.encode()) > MAX_NAME for name in names), f"has a part longer than {MAX_NAME} bytes"),
    )
    return next((text for wrong, text in problems if wrong), "")


def _check_collisions(paths: Sequence[str]) -> None:
    """Raise ModelInvalid where two paths are one file on some host: case and Unicode form do not always tell apart."""
    seen: dict[str, str] = {}
    for path in paths:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        if folded in seen:
            raise ModelInvalid(
                f"{_shown(path)} and {_shown(seen[folded])} are the same file on some hosts", fix="rename one of them"
            )
        seen[folded] = path
    for folded, path in seen.items():
        parts = folded.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in seen:
                raise ModelInvalid(
                    f"{_shown(path)} lies inside {_shown(seen['/'.join(parts[:depth])])}, which is a file",
                    fix="rename one of them",
                )
