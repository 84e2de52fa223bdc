"""Signatures of nodes: ECDSA over P-256 with SHA-256, and the identity that a public key stands for."""

from functools import lru_cache
from hashlib import sha256
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

PUBLIC_SIZE: Final = 91
"""Bytes of a P-256 key as SubjectPublicKeyInfo in DER; nothing else is taken for one."""

MAX_SIGNATURE: Final = 72

_ECDSA: Final = ec.ECDSA(SHA256())


class Signer(Protocol):
    """A node's own key."""

    public: bytes
    """Its public half: SubjectPublicKeyInfo in DER, ``PUBLIC_SIZE`` bytes."""

    def sign(self, message: bytes) -> bytes:
        """Return a signature of at most ``MAX_SIGNATURE`` bytes."""
        ...


class Verify(Protocol):
    """Tells whether a signature is what the holder of a public key made of a message."""

    def __call__(self, public: bytes, signature: bytes, message: bytes) -> bool: ...  # noqa: D102


class KeySigner:
    """Signs with a P-256 private key held in memory."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        """Return the DER signature of ``message``."""
        return self._key.sign(message, _ECDSA)


def identify(public: bytes) -> bytes:
    """Return the 32 bytes of the node id that a public key stands for."""
    return sha256(public).digest()


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether ``signature`` was made over ``message`` by the holder of ``public``. Never raises."""
    try:
        _load(public).verify(signature, message, _ECDSA)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


@lru_cache(maxsize=256)
def _load(public: bytes) -> ec.EllipticCurvePublicKey:
    """Read a public key. Raises ValueError for anything but a P-256 key in its one encoding."""
    if len(public) != PUBLIC_SIZE:
        raise ValueError("not a P-256 key")
    key = load_der_public_key(public)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ValueError("not a P-256 key")
    return key
