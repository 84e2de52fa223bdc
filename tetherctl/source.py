"""Which files of a directory are the model: the .onnx files, what they name as external data, and labels.txt."""

import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from tetherctl.errors import Usage
from tetherd.wire.manifest import model_file

LABELS: Final = "labels.txt"
MAX_ENTRIES: Final = 10_000
# How an ONNX file (a protobuf) spells the name of an external data file: key 1 "location", then value 2.
_LOCATION: Final = b"\x0a\x08location\x12"


class Source(Struct, frozen=True):
    """What is pushed: ``files`` by the path they get, and ``skipped`` for the operator to see."""

    root: Path
    files: dict[str, Path]
    skipped: list[str]
    example: str = ""


def find_files(path: Path) -> Source:
    """Choose the files of ``path``, a directory or one .onnx file. Raises Usage and what ``model_file`` raises."""
    if not path.exists():
        raise Usage(f"{path} does not exist", fix="name a directory with an .onnx file in it, or the file itself")
    if path.is_file():
        found = _with_data(path.resolve().parent, [path.name])
        return Source(path.parent, {name: path.parent / name for name in found}, [])
    entries = list(_walk(path))
    models = [name for name in entries if "/" not in name and name.lower().endswith(".onnx")]
    for name in models:
        _refuse_special(path, name)
    chosen = _with_data(path, models) if models else []
    if LABELS in entries:
        chosen.append(LABELS)
    for name in chosen:
        _refuse_special(path, name)
    model_file(chosen or entries)
    skipped = sorted(set(entries) - set(chosen))
    examples = [name for name in skipped if name.startswith("example") and name.endswith(".json")]
    return Source(path, {name: path / name for name in sorted(set(chosen))}, skipped, examples[0] if examples else "")


def _with_data(root: Path, models: list[str]) -> list[str]:
    beside = [name for name in _walk(root) if name not in models] if models else []
    return models + sorted({name for model in models for name in _named_in(root / model, beside)})


def _named_in(model: Path, names: Iterable[str]) -> Iterator[str]:
    if not model.stat().st_size:
        return
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_LOCATION) < 0:
            return
        yield from (name for name in names if any(content.find(_spelled(way)) >= 0 for way in (name, f"./{name}")))


def _spelled(name: str) -> bytes:
    raw = os.fsencode(name)
    length, left = bytearray(), len(raw)
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return _LOCATION + bytes([*length, left]) + raw


def _walk(root: Path) -> Iterator[str]:
    """Yield every entry under ``root`` that is not a directory, hidden ones left out, without following links."""
    count = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*files, *links]):
            count += 1
            if count > MAX_ENTRIES:
                raise Usage(f"{root} holds more than {MAX_ENTRIES:,} files", fix="push the directory of one model")
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _refuse_special(root: Path, name: str) -> None:
    mode = (root / name).lstat().st_mode
    if stat.S_ISREG(mode):
        return
    kind = "a link" if stat.S_ISLNK(mode) else "not a regular file"
    raise Usage(f"{root / name} is {kind}", fix="replace it by the file itself (cp -L makes a copy)")
