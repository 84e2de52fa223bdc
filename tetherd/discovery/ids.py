"""Node ids, keys and the distance between them: 256-bit numbers, exclusive-or."""

from hashlib import sha256
from typing import Final

BITS: Final = 256
SIZE: Final = 32


def number(key: bytes) -> int:
    """Return a key as the number that distances are measured with."""
    return int.from_bytes(key)


def shared(one: int, other: int) -> int:
    """Return how many leading bits two keys share; ``BITS`` when they are the same."""
    return BITS - (one ^ other).bit_length()


def topic(network: str, kind: str, name: str) -> bytes:
    """Return the key under which nodes announce that they are, or hold, ``name`` of ``kind`` in a network."""
    return sha256(f"tether-topic-1|{network}|{kind}|{name}".encode()).digest()


def within(own: int, bits: int, entropy: bytes) -> bytes:
    """Return a random key that shares exactly ``bits`` leading bits with ``own``; ``entropy`` is ``SIZE`` bytes."""
    below = BITS - bits - 1
    flipped = (own >> below) ^ 1
    return ((flipped << below) | (number(entropy) & ((1 << below) - 1))).to_bytes(SIZE)
