"""The identity directory: this node's key, its certificate, the roots it trusts and the last roster it saw.

The key is made here and never leaves. What makes the host a member, ``network.json``, is written last and removed
first, so that a crash at any instant leaves a host that is in the network or one that can join again with the same key.
"""

from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tetherd.drivers.host import directories, durable
from tetherd.drivers.identity import certificates
from tetherd.errors import MALFORMED, NotInNetwork, StorageFailed
from tetherd.types import Credentials
from tetherd.wire.roster import SignedRoster
from tetherd.wire.signing import key_digest

KEY: Final = "key.pem"
CERTIFICATE: Final = "certificate.pem"
ROOTS: Final = "roots.pem"
ROSTER: Final = "roster.json"
NETWORK: Final = "network.json"
_RESTORE: Final = "restore the state folder, or leave the network and join again"


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """The network this host is in. ``keys``: what members share, by epoch."""

    node: str
    network: str
    name: str
    keys: dict[int, bytes] = {}


class Identity:
    """What makes this host a node. Every change is durable when its method returns; all of them block.

    Raises Forbidden for a directory or key that others can get at, StorageFailed, StorageFull.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def key(self) -> ec.EllipticCurvePrivateKey:
        """Return this node's key, which is made the first time."""
        text = durable.read(self.directory / KEY, secret=True)
        if text is None:
            directories.private(self.directory)
            self.directory.chmod(0o700)
            key = certificates.new_key()
            durable.write(self.directory / KEY, certificates.key_pem(key))
            return key
        try:
            found = serialization.load_pem_private_key(text, password=None)
        except (ValueError, TypeError) as error:
            raise _damaged(self.directory / KEY, error) from None
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise _damaged(self.directory / KEY, "it is not of the curve P-256")
        return found

    def home(self) -> Home | None:
        """Return the network this host is in, if it is in one."""
        return read_home(self.directory)

    def credentials(self) -> Credentials:
        """Return what this node shows its peers. Raises NotInNetwork, and StorageFailed where the files disagree."""
        found = load(self.directory)
        leaf = self.certificate()
        if key_digest(self.key().public_key()) != key_digest(leaf.public_key()):
            raise _damaged(self.directory / CERTIFICATE, "it is not for the key beside it")
        return found

    def certificate(self) -> x509.Certificate:
        """Return this node's certificate."""
        try:
            return x509.load_pem_x509_certificate(_require(self.directory / CERTIFICATE).encode())
        except ValueError as error:
            raise _damaged(self.directory / CERTIFICATE, error) from None

    def roots(self) -> str:
        """Return the roots that this node trusts, as PEM."""
        return _require(self.directory / ROOTS)

    def roster(self) -> SignedRoster:
        """Return the last roster that was kept."""
        path = self.directory / ROSTER
        try:
            return msgspec.json.decode(_require(path), type=SignedRoster)
        except MALFORMED as error:
            raise _damaged(path, error) from None

    def settle(self, home: Home, chain: str, roots: str, roster: SignedRoster) -> None:
        """Become a member, or be one with another certificate."""
        is_member = self.home() is not None
        self.keep_certificate(chain)
        before = durable.read(self.directory / ROOTS) or b""
        durable.write(self.directory / ROOTS, before + roots.encode())  # a crash may leave the roster of before
        if is_member:
            self.keep_home(home)  # before the roster, after which nobody says the keys again
        self.keep_roster(roster, roots)
        if not is_member:
            self.keep_home(home)

    def keep_certificate(self, chain: str) -> None:
        """Replace the certificate (PEM, the issuing one after it)."""
        durable.write(self.directory / CERTIFICATE, chain.encode())

    def keep_roster(self, roster: SignedRoster, roots: str) -> None:
        """Replace the roster, then the roots: one that trusts less must have been verified by those before."""
        durable.write(self.directory / ROSTER, msgspec.json.encode(roster))
        durable.write(self.directory / ROOTS, roots.encode())

    def keep_home(self, home: Home) -> None:
        """Replace what is known of the network."""
        durable.write(self.directory / NETWORK, msgspec.json.encode(home))

    def leave(self) -> None:
        """Be no member any more; the key goes too: the next network is to know another node."""
        for name in (NETWORK, ROSTER, CERTIFICATE, ROOTS, KEY):
            durable.remove(self.directory / name)


def load(directory: Path) -> Credentials:
    """Return the credentials in ``directory``, unchecked: what a runner reads, which has no time to check them.

    Raises NotInNetwork, Forbidden, StorageFailed.
    """
    home = read_home(directory)
    if home is None:
        raise NotInNetwork.outside()
    return Credentials(
        node=home.node,
        key_pem=_require(directory / KEY, secret=True),
        chain_pem=_require(directory / CERTIFICATE),
        roots_pem=_require(directory / ROOTS),
    )


def read_home(directory: Path) -> Home | None:
    """Return what ``directory`` says of the network this host is in."""
    path = directory / NETWORK
    text = durable.read(path, secret=True)  # it holds the keys that members share
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Home)
    except MALFORMED as error:
        raise _damaged(path, error) from None


def _require(path: Path, *, secret: bool = False) -> str:
    data = durable.read(path, secret=secret)
    if data is None:
        raise _damaged(path, "it is missing")
    return data.decode("utf-8", "replace")


def _damaged(path: Path, why: object) -> StorageFailed:
    return StorageFailed(f"the file {path} cannot be used: {why}", fix=_RESTORE)
