"""Keys and certificates of a network: how each is made, and what the file of each holds. Keeps no files itself."""

import datetime as dt
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tetherd.errors import Conflict, InvalidInput
from tetherd.types import Seconds
from tetherd.wire.signing import key_digest

DAY: Final[Seconds] = 86400.0
LEAF_LIFE: Final[Seconds] = 7 * DAY
ISSUING_LIFE: Final[Seconds] = 365 * DAY
ROOT_LIFE: Final[Seconds] = 3650 * DAY
BACKDATED: Final[Seconds] = 300.0
"""How far other hosts' clocks may be behind: a certificate is valid that long before it was made."""

_PEM: Final = serialization.Encoding.PEM
_BOTH_ENDS: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


class Authority(msgspec.Struct, frozen=True):
    """A key that signs certificates, and the certificate that says so."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def make_root(now: Seconds) -> Authority:
    """Return a new root, which may make issuing authorities. ``now``: seconds since the epoch."""
    key = new_key()
    name = _name(f"Tether root {key_digest(key.public_key()).hex()[:16]}")
    builder = _builder(name, name, key.public_key(), now, ROOT_LIFE)
    return Authority(key, _with_authority(builder, path_length=1).sign(key, hashes.SHA256()))


def vouch(root: Authority, successor: x509.Certificate, now: Seconds) -> x509.Certificate:
    """Return a certificate with which ``root`` says that whoever trusts it may trust its ``successor`` too."""
    key: Any = successor.public_key()
    builder = _builder(successor.subject, root.certificate.subject, key, now, ROOT_LIFE)
    builder = _with_authority(builder, path_length=1).add_extension(_issuer(root), critical=False)
    return builder.sign(root.key, hashes.SHA256())


def make_issuing(root: Authority, now: Seconds, key: ec.EllipticCurvePrivateKey | None = None) -> Authority:
    """Return an issuing authority under ``root``, which may make certificates of nodes only; with a new key if none.

    It lasts no longer than the root, which must not have run out.
    """
    key = key or new_key()
    life = min(ISSUING_LIFE, _end(root) - now)
    name = _name(f"Tether issuing {key_digest(key.public_key()).hex()[:16]}")
    builder = _builder(name, root.certificate.subject, key.public_key(), now, life)
    builder = _with_authority(builder, path_length=0).add_extension(_issuer(root), critical=False)
    return Authority(key, builder.sign(root.key, hashes.SHA256()))


def is_old(issuing: Authority, root: Authority, now: Seconds) -> bool:
    """Tell whether less than half of an issuing authority's life is left, and ``root`` could give it a longer one."""
    return _end(issuing) - now < ISSUING_LIFE / 2 and now < _end(root) > _end(issuing)


def issue(issuing: Authority, spki: bytes, now: Seconds, life: Seconds = LEAF_LIFE) -> x509.Certificate:
    """Return the certificate of the node whose public key (SubjectPublicKeyInfo, DER) is ``spki``.

    Its common name, the only part of its name, is the node's id. Raises InvalidInput for a key that is not P-256,
    Conflict when the issuing authority has run out.
    """
    key = load_public(spki)
    node = key_digest(key).hex()
    end = _end(issuing)
    if end <= now:
        raise Conflict(
            f"the network's authority ran out {(now - end) / DAY:.0f} days ago and can issue no certificate",
            fix="compare this host's clock; if it is right, get another root: tetherctl cluster ca rotate",
        )
    builder = _builder(_name(node), issuing.certificate.subject, key, now, min(life, end - now))
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(_BOTH_ENDS, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name(node))]), critical=False)
        .add_extension(_issuer(issuing), critical=False)
    )
    return builder.sign(issuing.key, hashes.SHA256())


def server_name(node: str) -> str:
    """Return the name under which a node's certificate is checked by who dials it."""
    return f"{node}.tether"


def load_public(spki: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a SubjectPublicKeyInfo. Raises InvalidInput for anything but P-256."""
    try:
        key: Any = serialization.load_der_public_key(spki)
    except Exception:  # a hostile host sent it, and what parsers raise on such bytes is not one list
        raise InvalidInput("the public key cannot be read", fix="join with an unchanged release of Tether") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("the public key is not of the curve P-256", fix="join with an unchanged release of Tether")
    return key


def spki_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM, without a password: its file is for its owner's eyes."""
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def pem(*certificates: x509.Certificate) -> str:
    """Return certificates as PEM, one after the other."""
    return "".join(each.public_bytes(_PEM).decode() for each in certificates)


def _end(authority: Authority) -> Seconds:
    return authority.certificate.not_valid_after_utc.timestamp()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: Seconds, life: Seconds
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - BACKDATED))
        .not_valid_after(_moment(now + life))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _moment(seconds: Seconds) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC)


def _with_authority(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True).add_extension(
        _usage(digital_signature=True, key_cert_sign=True, crl_sign=True), critical=True
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer(authority: Authority) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
