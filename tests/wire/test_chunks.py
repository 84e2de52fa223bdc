import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import ModelInvalid
from tetherd.types import Digest, Signature
from tetherd.wire.catalog import FileEntry
from tetherd.wire.chunks import CHUNK, Blob, blob, count, spell
from tetherd.wire.manifest import CHUNKS, MAX_MANIFEST, Config, build, digest_of, encode_config, parse

DIGEST = digest_of(b"whole")
CONFIG = encode_config(Config("onnx", Signature((), ())))
SIZE = 2 * CHUNK + 1
LISTED = [hashlib.sha256(bytes([index])).digest() for index in range(3)]


def big(path: str = "model.onnx", size: int = SIZE, digest: Digest = DIGEST) -> FileEntry:
    return FileEntry(path, digest, size)


def manifest(*files: FileEntry, chunks: dict[Digest, list[bytes]]) -> bytes:
    return build("digits", files, CONFIG, chunks)


@given(st.integers(0, 20 * CHUNK))
def test_spans_cover_a_blob_exactly(size):
    whole = Blob(DIGEST, size)
    spans = [whole.span(index) for index in range(len(whole))]
    assert sum(length for _, length in spans) == size
    assert all(0 < length <= CHUNK for _, length in spans)
    assert [start for start, _ in spans] == [index * CHUNK for index in range(count(size))]


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=50))
def test_a_list_is_read_as_it_was_written(digests):
    assert blob(DIGEST, len(digests) * CHUNK, spell(digests)).chunks == tuple(digests)


@pytest.mark.parametrize("listed", ["!", "AAAA", spell(LISTED[:2]), spell([*LISTED, b"x" * 32]), spell(LISTED) + "\n"])
def test_any_other_list_is_refused(listed):
    with pytest.raises(ModelInvalid, match="list of chunks"):
        blob(DIGEST, SIZE, listed)


def test_a_blob_of_one_chunk_is_its_own_chunk():
    assert blob(DIGEST, CHUNK).chunks == (hashlib.sha256(b"whole").digest(),)
    assert blob(DIGEST, 0).chunks == ()
    with pytest.raises(ModelInvalid):
        blob(DIGEST, CHUNK, spell(LISTED[:1]))


def test_a_manifest_carries_the_lists_and_is_read_back():
    small = FileEntry("labels.txt", digest_of(b"labels"), 6)
    found = parse(manifest(big(), big("copy.bin"), small, chunks={DIGEST: LISTED}))
    blobs = {item.digest: item for item in found.blobs()}
    assert blobs[DIGEST] == Blob(DIGEST, SIZE, tuple(LISTED))
    assert blobs[small.digest].chunks == (hashlib.sha256(b"labels").digest(),)
    assert blobs[digest_of(CONFIG)].size == len(CONFIG)
    assert len(blobs) == 3


def test_a_manifest_without_lists_stays_what_it_was():
    data = manifest(big(), chunks={})
    assert b"chunks" not in data
    assert parse(data).blobs()[1] == Blob(DIGEST, SIZE)


def refused(data: bytes, change) -> None:
    document = json.loads(data)
    change(document["layers"])
    with pytest.raises(ModelInvalid):
        parse(json.dumps(document, separators=(",", ":"), sort_keys=True).encode())


def test_a_manifest_with_other_lists_than_build_writes_is_refused():
    data = manifest(big(), big("copy.bin"), chunks={DIGEST: LISTED})
    refused(data, lambda layers: layers[0]["annotations"].pop(CHUNKS))  # one file, two opinions
    refused(data, lambda layers: layers[0]["annotations"].update({CHUNKS: spell(LISTED[::-1])}))
    refused(data, lambda layers: layers[0]["annotations"].update({CHUNKS: spell(LISTED[:2])}))
    refused(data, lambda layers: layers[0]["annotations"].update({"more": "x"}))
    small = manifest(FileEntry("model.onnx", DIGEST, 3), chunks={})
    refused(small, lambda layers: layers[0]["annotations"].update({CHUNKS: spell(LISTED[:1])}))


def test_lists_that_would_make_it_too_long_are_left_out():
    pieces = MAX_MANIFEST // 42
    data = manifest(big(size=pieces * CHUNK), chunks={DIGEST: [b"x" * 32] * pieces})
    assert parse(data).blobs()[1].chunks == ()
