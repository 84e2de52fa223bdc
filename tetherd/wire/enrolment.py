"""What a joining host and the network's authority say to each other over HTTPS, and what each of them proves.

Every proof covers the certificate that the other side showed, so that what is said to one listener is of no use at
another.
"""

import hashlib
import hmac
from typing import Final

import msgspec

from tetherd.types import Seconds
from tetherd.wire.roster import SignedRoster

NETWORK: Final = "/v1/network"
JOIN: Final = "/v1/join"
RENEW: Final = "/v1/renew"
MAX_REQUEST: Final = 16 * 1024
MAX_REPLY: Final = 16 * 2**20
MAX_LINEAGE: Final = 16


class Greeting(msgspec.Struct, frozen=True):
    """What anybody is told: the network, its roots (PEM) to compare with a pin, and what time it is there.

    ``lineage``: former roots, and what leads from each to the next (PEM); see ``signing.heirs``.
    """

    network: str
    name: str
    roots: tuple[str, ...]
    time: Seconds
    lineage: tuple[str, ...] = ()


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A host asks to become a node.

    ``spki``: its public key (SubjectPublicKeyInfo, DER). ``proof``: that it has the token's secret; ``signature``: that
    it has the private key; both over ``transcript``. ``name``: what it calls itself. ``addresses``: HOST:PORT where it
    would take RPC connections.
    """

    network: str
    token: bytes
    spki: bytes
    proof: bytes
    signature: bytes
    name: str
    addresses: tuple[str, ...] = ()


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A node asks for its next certificate; see JoinRequest."""

    network: str
    spki: bytes
    signature: bytes
    addresses: tuple[str, ...] = ()


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a host a node: its certificate and the issuing one (PEM), the roster, and the keys members share."""

    chain: str
    roster: SignedRoster
    keys: dict[int, bytes] = {}


def transcript(purpose: str, leaf: bytes, token: bytes, spki: bytes) -> bytes:
    """Return what a proof is about: ``leaf`` is the SHA-256 of the certificate that the authority showed."""
    parts = (f"tether-{purpose}-1".encode(), leaf, token, spki)
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def proof_key(secret: bytes) -> bytes:
    """Return what the authority keeps of a token's secret, and proofs are made with."""
    return hashlib.sha256(secret).digest()


def proof(key: bytes, about: bytes) -> bytes:
    """Return the proof that whoever made it has the secret of ``key``."""
    return hmac.digest(key, about, "sha256")


def proves(key: bytes, about: bytes, given: bytes) -> bool:
    """Tell whether ``given`` is that proof, in a time that tells nothing."""
    return hmac.compare_digest(proof(key, about), given)
