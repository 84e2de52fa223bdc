"""P-256 signatures: the holder of the key, that message, and nothing else."""

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tetherd.wire.signatures import MAX_SIGNATURE, PUBLIC_SIZE, KeySigner, identify, verify

SIGNER = KeySigner(ec.generate_private_key(ec.SECP256R1()))
OTHER = KeySigner(ec.generate_private_key(ec.SECP256R1()))


@given(st.binary(max_size=300))
def test_a_signature_holds_for_its_message_and_key_only(message: bytes) -> None:
    signature = SIGNER.sign(message)
    assert len(signature) <= MAX_SIGNATURE
    assert verify(SIGNER.public, signature, message)
    assert not verify(SIGNER.public, signature, message + b"x")
    assert not verify(OTHER.public, signature, message)


@given(st.binary(max_size=120), st.binary(max_size=80))
def test_noise_is_refused_and_never_raises(public: bytes, signature: bytes) -> None:
    assert not verify(public, signature, b"m")
    assert not verify(SIGNER.public, signature, b"m")


def test_keys_of_other_kinds_are_none() -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256K1())):
        other = KeySigner(key)
        assert not verify(other.public, other.sign(b"m"), b"m")
    edwards = ed25519.Ed25519PrivateKey.generate()
    public = edwards.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert not verify(public, edwards.sign(b"m"), b"m")


def test_a_node_id_is_the_digest_of_its_public_key() -> None:
    assert len(SIGNER.public) == PUBLIC_SIZE
    assert identify(SIGNER.public) == sha256(SIGNER.public).digest()
