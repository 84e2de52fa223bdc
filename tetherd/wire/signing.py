"""What proves that a roster and a certificate come from a network's authority: signatures, up to a pinned root.

Pure: who verifies says which roots it trusts; nothing here reads a clock or a file.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tetherd.errors import BadRoster, TetherError, WrongNetwork
from tetherd.wire.roster import Roster, SignedRoster, decode, encode

_CONTEXT: Final = b"tether-roster-1\0"
_SIGNATURE: Final = ec.ECDSA(hashes.SHA256())
_FIX: Final = "if this goes on, leave the network and join again with a new token"


def sign(roster: Roster, key: ec.EllipticCurvePrivateKey, signer: x509.Certificate) -> SignedRoster:
    """Return the roster signed with the issuing authority's ``key``, whose certificate is ``signer``."""
    body = encode(roster)
    return SignedRoster(body, key.sign(_CONTEXT + body, _SIGNATURE), signer.public_bytes(serialization.Encoding.DER))


def verify(signed: SignedRoster, roots: Sequence[x509.Certificate], network: str) -> Roster:
    """Return the roster if the authority of ``network``, vouched for by one of the pinned ``roots``, signed it.

    Raises BadRoster, WrongNetwork.
    """
    try:
        signer = x509.load_der_x509_certificate(signed.signer)
        key = _authority(signer, roots)
        key.verify(signed.signature, _CONTEXT + signed.body, _SIGNATURE)
    except TetherError:
        raise
    except InvalidSignature:
        raise BadRoster("the signature of the list of members is wrong", fix=_FIX) from None
    except Exception as error:  # of the many that damaged certificates raise, none may pass for a valid one
        raise BadRoster(f"the signature of the list of members cannot be checked: {error}", fix=_FIX) from None
    roster = decode(signed.body)
    if roster.network != network:
        message = f"a list of members of the network {roster.network}, and this host is in {network}"
        raise WrongNetwork(message, fix="look where cluster.seeds lead to")
    issued = dt.datetime.fromtimestamp(roster.issued, dt.UTC)
    if not signer.not_valid_before_utc <= issued <= signer.not_valid_after_utc:
        raise BadRoster("the list of members was signed when its signer's certificate was not valid", fix=_FIX)
    return roster


def _authority(signer: x509.Certificate, roots: Iterable[x509.Certificate]) -> ec.EllipticCurvePublicKey:
    """Return the key of a certificate that one of ``roots`` made an issuing authority."""
    if not any(issued(root, signer) for root in roots):
        raise BadRoster("the list of members was signed by an authority that this host does not know", fix=_FIX)
    limits = signer.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = signer.extensions.get_extension_for_class(x509.KeyUsage).value
    key: Any = signer.public_key()
    if not (limits.ca and usage.key_cert_sign and isinstance(key, ec.EllipticCurvePublicKey)):
        raise BadRoster("the list of members was signed by a certificate that is no authority's", fix=_FIX)
    return key


def issued(root: x509.Certificate, signer: x509.Certificate) -> bool:
    """Tell whether the key of the one certificate signed the other."""
    try:
        signer.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def heirs(pin: bytes, roots: Sequence[x509.Certificate], lineage: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return those of ``roots`` that may be trusted by whoever trusts the root key of the SHA-256 ``pin``.

    It is the one of that key, and those to which a chain of ``lineage`` leads from it: former roots, and certificates
    with which each vouches for the next, the oldest first. No issuing authority can vouch for a root, nor can a node.
    """
    known = [each for each in (*roots, *lineage) if spki_digest(each) == pin]
    for link in filter(_is_root, lineage):
        if any(issued(each, link) for each in known):
            known.append(link)
    keys = {spki_digest(each) for each in known}
    return [root for root in roots if spki_digest(root) in keys]


def _is_root(certificate: x509.Certificate) -> bool:
    try:
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    return limits.ca and limits.path_length == 1


def certificates(texts: Iterable[str]) -> list[x509.Certificate]:
    """Return the certificates of PEM texts, whose keys and extensions can be read too. Raises BadRoster."""
    try:
        read = [found for text in texts for found in x509.load_pem_x509_certificates(text.encode())]
        for found in read:
            key_digest(found.public_key())
            list(found.extensions)
    except Exception as error:  # strangers send them, and what parsers raise on such bytes is not one list
        raise BadRoster(f"a certificate cannot be read: {error}", fix=_FIX) from None
    return read


def spki_digest(certificate: x509.Certificate) -> bytes:
    """Return the SHA-256 of a certificate's public key: what tokens pin, and in hexadecimal a node's id."""
    return key_digest(certificate.public_key())


def key_digest(key: Any) -> bytes:
    """Return the SHA-256 of a public key's SubjectPublicKeyInfo."""
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(encoded)
    return digest.finalize()


def facts(certificate: x509.Certificate) -> dict[str, Any]:
    """Return what people compare: name, SHA-256 of the key, and when it is valid (seconds since the epoch)."""
    return {
        "name": certificate.subject.rfc4514_string().removeprefix("CN="),
        "key": spki_digest(certificate).hex(),
        "issued": certificate.not_valid_before_utc.timestamp(),
        "expires": certificate.not_valid_after_utc.timestamp(),
    }
