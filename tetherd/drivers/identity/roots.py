"""The keys of a network's authority on its disk: of each generation the root and the issuing key below it.

Keys of former roots are removed. Their certificates stay, and with each the one by which it vouches for the next root,
so that who pins or trusts a former root still finds the way to the present one.
"""

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tetherd.drivers.host import durable
from tetherd.drivers.identity import certificates
from tetherd.drivers.identity.certificates import Authority
from tetherd.errors import StorageFailed
from tetherd.types import Seconds
from tetherd.wire import signing

REMEMBERED: Final = 4
"""Former roots from which a way leads to the present one."""


def make(directory: Path, generation: int, now: Seconds) -> Authority:
    """Make a root and its issuing key, as far as a crash has not left them there; return the root."""
    root = _made(directory, _root(generation)) or _keep(directory, _root(generation), certificates.make_root(now))
    if generation > 1:
        former = _read(directory, _root(generation - 1))
        succession = certificates.vouch(former, root.certificate, now)
        durable.write(_succession(directory, generation), certificates.pem(succession).encode())
    if not _made(directory, _issuing(generation)):
        _keep(directory, _issuing(generation), certificates.make_issuing(root, now))
    return root


def read(directory: Path, generation: int) -> tuple[Authority, Authority]:
    """Return the root and the issuing key of a generation. Raises StorageFailed; Forbidden if others can read them."""
    return _read(directory, _root(generation)), _read(directory, _issuing(generation))


def renew(directory: Path, generation: int, now: Seconds) -> Authority:
    """Certify the issuing key of a generation anew; the key stays, so that a crash leaves a pair that fits."""
    root, issuing = read(directory, generation)
    renewed = certificates.make_issuing(root, now, issuing.key)
    durable.write(directory / f"{_issuing(generation)}.pem", certificates.pem(renewed.certificate).encode())
    return renewed


def lineage(directory: Path, generation: int) -> tuple[str, ...]:
    """Return the former roots and what leads from each to the next, up to ``generation``, as PEM, the oldest first."""
    found: list[str] = []
    for former in range(max(1, generation - REMEMBERED), generation):
        for path in (directory / f"{_root(former)}.pem", _succession(directory, former + 1)):
            text = durable.read(path)
            if text is not None:
                found.append(text.decode("ascii", "replace"))
    return tuple(found)


def retire(directory: Path, generation: int) -> None:
    """Remove the keys of all generations before this one, and what nobody needs of those long before."""
    for former in range(1, generation):
        _remove(directory / f"{_root(former)}.key", directory / f"{_issuing(former)}.key")
        _remove(directory / f"{_issuing(former)}.pem")
        if former < generation - REMEMBERED:
            _remove(directory / f"{_root(former)}.pem", _succession(directory, former + 1))


def end(directory: Path) -> None:
    """Remove everything, the keys first."""
    for pattern in ("*.key", "*.pem"):
        _remove(*sorted(directory.glob(pattern)))


def _root(generation: int) -> str:
    return "root" if generation == 1 else f"root-{generation}"


def _issuing(generation: int) -> str:
    return "issuing" if generation == 1 else f"issuing-{generation}"


def _succession(directory: Path, generation: int) -> Path:
    return directory / f"succession-{generation}.pem"


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            durable.remove(path)


def _keep(directory: Path, name: str, authority: Authority) -> Authority:
    # The certificate last: a key without one was left by a crash, and is made again.
    durable.write(directory / f"{name}.key", certificates.key_pem(authority.key))
    durable.write(directory / f"{name}.pem", certificates.pem(authority.certificate).encode())
    return authority


def _made(directory: Path, name: str) -> Authority | None:
    return _read(directory, name) if (directory / f"{name}.pem").exists() else None


def _read(directory: Path, name: str) -> Authority:
    key_file = directory / f"{name}.key"
    text, shown = durable.read(key_file, secret=True), durable.read(directory / f"{name}.pem")
    try:
        if text is None or shown is None:
            raise ValueError("it is missing, or its certificate is")
        key = serialization.load_pem_private_key(text, password=None)
        certificate = x509.load_pem_x509_certificate(shown)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("it is not of the curve P-256")
        if signing.spki_digest(certificate) != signing.key_digest(key.public_key()):
            raise ValueError("its certificate is for another key")
    except (ValueError, TypeError) as error:
        raise StorageFailed(
            f"the key {key_file} of the network's authority cannot be used: {error}",
            fix="restore the state folder from a backup",
        ) from None
    return Authority(key, certificate)
