"""What an interrupted fetch left on disk is believed by its digests alone."""

import os
from hashlib import sha256
from pathlib import Path

import pytest
from sources import blob_of

from tetherd.drivers.models.drafts import Draft, Drafts
from tetherd.errors import StorageFailed
from tetherd.wire.chunks import CHUNK, Blob
from tetherd.wire.manifest import digest_of

DATA = b"".join(bytes([index]) * CHUNK for index in range(3)) + b"rest"
BLOB = blob_of(DATA)


def piece(index: int) -> bytes:
    return DATA[index * CHUNK : (index + 1) * CHUNK]


def test_chunks_come_in_any_order_and_the_whole_is_hashed_as_gaps_close(tmp_path: Path) -> None:
    draft = Draft(BLOB, tmp_path / "d")
    for index in (3, 1):
        draft.put(index, piece(index))
        draft.hash_on()
    assert draft.digest() == digest_of(b"")
    draft.put(0, piece(0))
    draft.hash_on()
    assert draft.digest() == "sha256:" + sha256(DATA[: 2 * CHUNK]).hexdigest()
    draft.put(2, piece(2))
    draft.hash_on()
    draft.flush()
    assert draft.digest() == BLOB.digest
    assert (tmp_path / "d").read_bytes() == DATA


def test_what_is_here_can_be_read(tmp_path: Path) -> None:
    draft = Draft(BLOB, tmp_path / "d")
    draft.put(1, piece(1))
    draft.put(3, piece(3))
    assert draft.holds(CHUNK, 2 * CHUNK)
    assert not draft.holds(CHUNK - 1, 2 * CHUNK)
    assert not draft.holds(CHUNK, 2 * CHUNK + 1)
    assert draft.holds(3 * CHUNK, len(DATA))
    assert draft.read(CHUNK + 5, 3) == b"\x01\x01\x01"


def test_the_next_attempt_finds_every_chunk_that_is_right(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(DATA[:CHUNK] + b"x" + DATA[CHUNK + 1 : 3 * CHUNK] + b"res")
    draft = Draft(BLOB, path)
    assert draft.have == {0, 2}  # 1 is damaged, 3 is cut
    draft.put(1, piece(1))
    draft.put(3, piece(3))
    draft.hash_on()
    assert draft.digest() == BLOB.digest


def test_what_is_longer_than_the_blob_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(DATA + b"more")
    assert Draft(BLOB, path).have == {0, 1, 2, 3}
    assert path.read_bytes() == DATA


def test_without_digests_of_chunks_nothing_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(DATA)
    assert Draft(Blob(BLOB.digest, BLOB.size), path).have == set()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("kind", ["symlink", "hard link", "pipe"])
def test_a_link_or_special_file_is_refused(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "d", tmp_path / "other"
    other.write_bytes(b"mine")
    if kind == "symlink":
        path.symlink_to(other)
    elif kind == "hard link":
        path.hardlink_to(other)
    else:
        os.mkfifo(path)
    with pytest.raises((OSError, StorageFailed)):
        Draft(BLOB, path)
    assert other.read_bytes() == b"mine"


def test_forgetting_starts_anew(tmp_path: Path) -> None:
    draft = Draft(BLOB, tmp_path / "d")
    draft.put(0, b"wrong")
    draft.hash_on()
    draft.forget()
    assert (draft.have, draft.digest()) == (set(), digest_of(b""))
    assert (tmp_path / "d").stat().st_size == 0


def test_a_file_is_closed_when_nobody_reads_it_any_more(tmp_path: Path) -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = files()
    draft: Draft | None = Draft(BLOB, tmp_path / "d")
    assert files() == before + 1
    draft = None
    assert draft is None
    assert files() == before


def test_one_blob_has_one_draft(tmp_path: Path) -> None:
    drafts, first, second = Drafts(), Draft(BLOB, tmp_path / "a"), Draft(BLOB, tmp_path / "b")
    assert drafts.add(first)
    assert not drafts.add(second)
    drafts.remove(second)
    assert drafts.get(BLOB.digest) is first
    drafts.remove(first)
    assert drafts.get(BLOB.digest) is None
