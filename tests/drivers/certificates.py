"""A small certificate authority for tests: networks with a root and an issuing authority, nodes, and spoilt ones."""

import datetime as dt
import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tetherd.types import Credentials

DAY = dt.timedelta(days=1)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class Issuer(NamedTuple):
    """A certificate that signs others, and its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return pem(self.certificate)


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def node_id(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_key().public_bytes(serialization.Encoding.DER, form)).hexdigest()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def named(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def build(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: Issuer | None,
    life: tuple[float, float],
    depth: int | None,
) -> x509.CertificateBuilder:
    """Return a certificate to be: ``life`` in days from now, ``depth`` of authorities below it (None = a leaf)."""
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + life[0] * DAY)
        .not_valid_after(now + life[1] * DAY)
        .add_extension(x509.BasicConstraints(depth is not None, depth), critical=True)
    )


class Network:
    """A network: its root, its issuing authority, and the nodes they vouch for."""

    def __init__(self, name: str = "home", life: tuple[float, float] = (-1, 3650)) -> None:
        key = new_key()
        self.root = Issuer(key, build(named(f"{name} root"), key, None, life, 1).sign(key, hashes.SHA256()))
        key = new_key()
        issuing = build(named(f"{name} issuing"), key, self.root, life, 0).sign(self.root.key, hashes.SHA256())
        self.issuing = Issuer(key, issuing)

    def node(
        self,
        *,
        life: tuple[float, float] = (-1, 7),
        subject: Callable[[str], x509.Name] = named,
        san: str | None = None,
        usage: tuple[Any, ...] = BOTH,
        issuer: Issuer | None = None,
        extra: x509.ExtensionType | None = None,
        key: str = "",
    ) -> Credentials:
        """Return a new node's credentials, or those of ``key``; every argument but ``life`` spoils them in one way."""
        issuer = issuer or self.issuing
        key = serialization.load_pem_private_key(key.encode(), None) if key else new_key()
        node = node_id(key)
        builder = build(subject(node), key, issuer, life, None)
        name = x509.DNSName(san or f"{node}.tether")
        builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if extra is not None:
            builder = builder.add_extension(extra, critical=True)
        leaf = builder.sign(issuer.key, hashes.SHA256())
        chain = pem(leaf) + issuer.pem + ("" if issuer is self.issuing else self.issuing.pem)
        return Credentials(node, key_pem(key), chain, self.root.pem)


@functools.cache
def home() -> Network:
    """Return the network that tests share; making keys is not what they test."""
    return Network()
