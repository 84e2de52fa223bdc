"""Blobs over HTTP: uploads that resume, downloads of ranges."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tetherd.roles.gateway.operations import CHUNK

DATA = bytes(range(256)) * 16
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
PATH = f"/api/v1/blobs/{DIGEST}"


async def put(world: Any, data: Any, offset: int, size: int = len(DATA), path: str = PATH) -> Any:
    return await world.ask(
        "PATCH", path, content=data, headers={"Upload-Offset": str(offset), "Upload-Length": str(size)}
    )


async def test_an_upload_in_parts(world: Any) -> None:
    head = await world.ask("HEAD", PATH)
    assert (head.status_code, head.headers["upload-offset"]) == (404, "0")
    first = await put(world, DATA[:1000], 0)
    assert (first.status_code, first.headers["upload-offset"]) == (204, "1000")
    assert (await world.ask("HEAD", PATH)).headers["upload-offset"] == "1000"
    assert (await put(world, DATA[1000:], 1000)).status_code == 201
    head = await world.ask("HEAD", PATH)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))


async def test_a_wrong_offset_is_answered_with_the_right_one(world: Any) -> None:
    await put(world, DATA[:1000], 0)
    answer = await put(world, DATA[2000:], 2000)
    assert answer.status_code == 409
    assert answer.json()["code"] == "UPLOAD_OFFSET"
    assert answer.json()["details"]["offset"] == 1000
    assert answer.headers["upload-offset"] == "1000"


async def test_other_bytes_than_the_digest_promised(world: Any) -> None:
    assert (await put(world, bytes(len(DATA)), 0)).status_code == 422
    assert (await world.ask("HEAD", PATH)).headers["upload-offset"] == "0"


async def test_a_long_upload_passes_in_chunks(world: Any) -> None:
    data = bytes(2 * CHUNK + 10)
    path = "/api/v1/blobs/sha256:" + hashlib.sha256(data).hexdigest()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 300_000):
            yield data[start : start + 300_000]

    assert (await put(world, pieces(), 0, len(data), path)).status_code == 201
    assert world.manager.chunks == [CHUNK, CHUNK, 10]


async def test_an_empty_blob(world: Any) -> None:
    path = "/api/v1/blobs/sha256:" + hashlib.sha256(b"").hexdigest()
    assert (await put(world, b"", 0, 0, path)).status_code == 201
    answer = await world.ask("GET", path)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Offset": "0"},
        {"Upload-Offset": "-1", "Upload-Length": "5"},
        {"Upload-Offset": "x", "Upload-Length": "5"},
        {"Upload-Offset": "3", "Upload-Length": "5"},
    ],
)
async def test_uploads_that_do_not_say_where(world: Any, headers: dict[str, str]) -> None:
    assert (await world.ask("PATCH", PATH, content=b"abc", headers=headers)).status_code == 400


@pytest.mark.parametrize(
    ("asked", "start", "end"), [("bytes=0-0", 0, 1), ("bytes=10-", 10, 4096), ("bytes=4000-9999", 4000, 4096)]
)
async def test_ranges(world: Any, asked: str, start: int, end: int) -> None:
    world.manager.blobs[DIGEST] = DATA
    answer = await world.ask("GET", PATH, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == DATA[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/4096"


@pytest.mark.parametrize(
    "asked",
    ["bytes=-1", "bytes=4096-", "bytes=5-4", "bytes=0-1,2-3", "bytes=" + ",".join(["0-9"] * 1000), "items=0-1", "x"],
)
async def test_ranges_that_are_not_served(world: Any, asked: str) -> None:
    world.manager.blobs[DIGEST] = DATA
    assert (await world.ask("GET", PATH, headers={"Range": asked})).status_code == 416


async def test_reading(world: Any) -> None:
    assert (await world.ask("GET", PATH)).status_code == 404
    world.manager.blobs[DIGEST] = DATA
    assert (await world.ask("GET", PATH)).content == DATA


@pytest.mark.parametrize("digest", ["sha256:..%2F..%2Fx", DIGEST.upper(), DIGEST[:-1], DIGEST + "0", "md5:abc", "%00"])
@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_digests_that_are_none(world: Any, digest: str, method: str) -> None:
    answer = await world.ask(method, f"/api/v1/blobs/{digest}", headers={"Upload-Offset": "0", "Upload-Length": "0"})
    assert answer.status_code == 400
