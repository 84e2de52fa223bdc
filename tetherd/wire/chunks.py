"""Blobs as they travel between hosts: in chunks, each with a digest of its own.

A chunk is believed by its digest the moment it arrives, so bytes of several sources can be mixed, a source that lies is
known at once, and what an interrupted transfer left on disk is worth as much as what comes from a peer.
"""

import base64
import binascii
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import msgspec

from tetherd.errors import ModelInvalid
from tetherd.types import Digest, digest_hex

CHUNK: Final = 4 << 20
_SHA256: Final = 32


class Blob(msgspec.Struct, frozen=True):
    """A blob to be brought from elsewhere.

    ``chunks`` holds the SHA-256 of every ``CHUNK`` bytes in order, the last of what is left; it is empty where only the
    whole is known.
    """

    digest: Digest
    size: int
    chunks: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        """Return how many chunks it has."""
        return count(self.size)

    def span(self, index: int) -> tuple[int, int]:
        """Return offset and length of a chunk."""
        start = index * CHUNK
        return start, min(CHUNK, self.size - start)


class BlobSource(msgspec.Struct, frozen=True):
    """Somebody who serves blobs: the node that must prove to be it, and where it listens (``HOST:PORT``)."""

    node: str
    address: str


class Ways(msgspec.Struct, frozen=True):
    """Where a source can be dialled (``HOST:PORT``), the best first: at itself, or by way of relays."""

    direct: tuple[str, ...] = ()
    relayed: tuple[str, ...] = ()


def said(source: BlobSource) -> Ways:
    """Return the one way to a source that it named itself."""
    return Ways((source.address,))


def count(size: int) -> int:
    """Return how many chunks a blob of ``size`` bytes has."""
    return -(-size // CHUNK)


def blob(digest: Digest, size: int, listed: str = "") -> Blob:
    """Return a blob with its chunks' digests as ``spell`` wrote them. Raises ModelInvalid for any other list.

    A blob of one chunk needs no list: its digest is the chunk's.
    """
    if size <= CHUNK:
        if listed:
            raise ModelInvalid("a file of one chunk has no list of chunks", fix="push the model with tetherctl")
        return Blob(digest, size, (bytes.fromhex(digest_hex(digest)),) if size else ())
    return Blob(digest, size, tuple(_read(listed, count(size))) if listed else ())


def spell(digests: Sequence[bytes]) -> str:
    """Return a list of chunks' digests as text."""
    return base64.b64encode(b"".join(digests)).decode("ascii")


def bits(have: Collection[int], total: int) -> bytes:
    """Return which of ``total`` chunks there are: one bit each, the first one the lowest of the first byte."""
    return sum(1 << index for index in have).to_bytes(-(-total // 8), "little")


def from_bits(data: bytes, total: int) -> frozenset[int]:
    """Return the chunks that ``bits`` wrote, and none beyond ``total``."""
    return frozenset(index for index in range(min(total, len(data) * 8)) if data[index // 8] >> index % 8 & 1)


def _read(listed: str, expected: int) -> Iterator[bytes]:
    try:
        data = base64.b64decode(listed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ModelInvalid(f"the list of chunks is malformed: {error}", fix="push the model with tetherctl") from None
    if len(data) != expected * _SHA256 or base64.b64encode(data).decode("ascii") != listed:
        raise ModelInvalid(
            f"the list of chunks does not hold {expected:,} digests", fix="push the model with tetherctl"
        )
    return (data[at : at + _SHA256] for at in range(0, len(data), _SHA256))
