"""The network's authority on its founder's disk: the root, the issuing key, and what it decides with them.

Only this module reads the authority's keys. It issues certificates from public keys; no node's private key comes here.
Another root takes the place of the first in three steps: every member is told to trust both (ANNOUNCED), certificates
and rosters come from the new one (SWITCHED), members are told to trust it alone, and the old keys are removed.
"""

import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tetherd.drivers import certificates, directories, durable
from tetherd.drivers.members import Invitation, MemberLedger
from tetherd.errors import Conflict, Forbidden, StorageFailed, WrongNetwork, WrongToken
from tetherd.policy.membership import DIALABLE
from tetherd.types import RoleName, Seconds, parse_host_name
from tetherd.wire import enrolment, signing
from tetherd.wire.enrolment import Admission, JoinRequest, RenewRequest
from tetherd.wire.roster import KeyEpoch, Member, Roster, SignedRoster, decode
from tetherd.wire.tokens import ID_BYTES, MAX_ADDRESSES, SECRET_BYTES, JoinToken, check_address, network_id

ROOT: Final = "root"
ISSUING: Final = "issuing"
LEDGER: Final = "authority.db"
GRACE: Final[Seconds] = 30 * certificates.DAY
"""How long after a certificate ran out its node may still renew it by proving its key."""

MAX_TTL: Final[Seconds] = certificates.DAY
OVERLAP: Final[Seconds] = certificates.LEAF_LIFE
"""For how long a shared key that was replaced opens for members that are away: as long as their certificates last."""

STEADY, ANNOUNCED, SWITCHED = range(3)
REJOIN: Final = "they will have to join again"
_DIGEST: Final = ec.ECDSA(hashes.SHA256())


class NetworkAuthority:
    """Decides who is a member. Thread-safe and blocking: every change is durable when its method returns.

    ``enrol``: HOST:PORT where hosts reach it, as tokens and nodes are told. Raises Forbidden for keys that others can
    read, StorageFailed for damaged ones.
    """

    def __init__(self, directory: Path, enrol: tuple[str, ...]) -> None:
        self._directory = directory
        self._enrol = enrol
        self._lock = threading.Lock()
        self._ledger = MemberLedger(directory / LEDGER)
        self._signed: SignedRoster | None = None
        self._signed_epoch = 0
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    @property
    def roots(self) -> tuple[str, ...]:
        """Return the certificates (PEM) that members are to trust, the one they are to be certified under first."""
        return tuple(certificates.pem(root.certificate) for root in self._roots)

    def roster(self) -> SignedRoster:
        """Return the list of members as it is now, signed."""
        with self._lock:
            return self._roster()

    def describe(self) -> Roster:
        """Return the list of members as it is now."""
        return decode(self.roster().body)

    def invite(self, roles: tuple[RoleName, ...], ttl: Seconds, name: str, now: Seconds) -> JoinToken:
        """Make a token for one host. ``name``: what it is to be called; empty = what it calls itself."""
        token, secret = secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES)
        with self._lock:
            self._ledger.invite(
                Invitation(token, enrolment.proof_key(secret), roles, now + min(ttl, MAX_TTL), name), now
            )
            network = self._ledger.state().network
        pin = signing.spki_digest(self._root.certificate)  # it leads nowhere once the next root has taken over
        return JoinToken(network=network, pin=pin, id=token, secret=secret, addresses=self._enrol)

    def join(self, request: JoinRequest, leaf: bytes, now: Seconds) -> Admission:
        """Let a host in. ``leaf``: SHA-256 of the certificate that was shown to it.

        Raises WrongNetwork, WrongToken, TokenExpired, TokenUsed, Revoked, InvalidInput.
        """
        about = enrolment.transcript("join", leaf, request.token, request.spki)
        key = certificates.load_public(request.spki)
        with self._lock:
            self._check_network(request.network)
            invitation = self._ledger.invitation(request.token)
            if not enrolment.proves(invitation.key, about, request.proof):
                raise WrongToken("the host did not prove that it has the join token's secret", fix="copy it again")
            _check_signature(key, request.signature, about)
            member = Member(
                node=signing.key_digest(key).hex(),
                name=parse_host_name(request.name),
                roles=(),
                addresses=_addresses(request.addresses, invitation.roles),
            )
            self._ledger.admit(request.token, member, now)
            return self._admission(request.spki, now)

    def renew(self, request: RenewRequest, leaf: bytes, now: Seconds) -> Admission:
        """Give a member its next certificate. Raises WrongNetwork, NodeNotFound, Revoked, Forbidden, InvalidInput."""
        key = certificates.load_public(request.spki)
        node = signing.key_digest(key).hex()
        with self._lock:
            self._check_network(request.network)
            _check_signature(key, request.signature, enrolment.transcript("renew", leaf, b"", request.spki))
            member = self._ledger.member(node)
            _check_grace(self._ledger.expires(node), now)
            self._ledger.change(node, now, addresses=_addresses(request.addresses, member.roles))
            return self._admission(request.spki, now)

    def enlist(self, spki: bytes, member: Member, now: Seconds) -> Admission:
        """Make the founder a member of its own network, which is reached where it is now."""
        with self._lock:
            self._ledger.move(self._enrol, now)
            self._ledger.enlist(member, now)
            return self._admission(spki, now)

    def change(self, node: str, now: Seconds, **values: Any) -> None:
        """Set ``labels``, ``addresses``, ``roles`` or ``revoked`` of a member. Raises NodeNotFound."""
        with self._lock:
            self._ledger.change(node, now, **values)

    def move(self, node: str, addresses: tuple[str, ...], now: Seconds) -> None:
        """Let the members know where the founder and its authority are now."""
        with self._lock:
            self._ledger.change(node, now, addresses=addresses)
            self._ledger.move(self._enrol, now)

    def forget(self, node: str, now: Seconds) -> None:
        """Strike a member off the list. Raises NodeNotFound."""
        with self._lock:
            self._ledger.forget(node, now)

    def rotate(self, lagging: Sequence[str], now: Seconds, *, force: bool) -> int:
        """Take the next step towards another root; return how far that has brought it.

        ``lagging``: names of members that do not have the newest roster yet. Raises Conflict, which names who is not
        ready for the step, unless it is by ``force``: those will have to join again.
        """
        with self._lock:
            state = self._ledger.state()
            if state.rotation == STEADY:
                _make(self._directory, state.generation + 1, now)
                self._ledger.rotate(state.generation, ANNOUNCED, now)
            elif state.rotation == ANNOUNCED:
                _check_ready(lagging, "have not heard of the new root yet", REJOIN, force=force)
                self._ledger.rotate(state.generation, SWITCHED, now)
            else:
                behind = set(self._ledger.behind(state.generation + 1))
                names = [member.name for member in state.members if member.node in behind]
                _check_ready(names, "have no certificate under the new root yet", REJOIN, force=force)
                self._ledger.rotate(state.generation + 1, STEADY, now)
            self._open()
            return self._ledger.state().rotation

    def rekey(self, lagging: Sequence[str], now: Seconds, *, force: bool) -> None:
        """Make the next key that members share. ``lagging``: names of members that may not have the last one yet.

        Raises Conflict, which names them, unless it is by ``force``: those find others by the DHT no more until they
        have reached a member in another way.
        """
        with self._lock:
            if len(self._ledger.state().keys) > 1:
                _check_ready(lagging, "may not have the last key yet", "the DHT will not find them", force=force)
            self._ledger.rekey(OVERLAP, now)

    def retire(self, now: Seconds) -> None:
        """Drop the shared keys before the newest."""
        with self._lock:
            self._ledger.retire(now)

    def keys(self) -> dict[int, bytes]:
        """Return the keys that members share, by epoch."""
        with self._lock:
            return self._keys()

    def _open(self) -> None:
        """Read the keys that belong to the step that the ledger has recorded, and remove those before them."""
        state = self._ledger.state()
        for old in range(1, state.generation):
            _remove(self._directory, old)
        generations = [state.generation] if state.rotation == STEADY else [state.generation, state.generation + 1]
        if state.rotation == SWITCHED:
            generations.reverse()
        self._generation = generations[0]
        self._roots = [_read(self._directory, _named(ROOT, each)) for each in generations]
        self._root = self._roots[0]
        self._issuing = _read(self._directory, _named(ISSUING, self._generation))

    def _roster(self) -> SignedRoster:
        state = self._ledger.state()
        if self._signed is None or self._signed_epoch != state.epoch:
            roster = Roster(
                network=state.network,
                name=state.name,
                epoch=state.epoch,
                issued=state.changed,
                members=state.members,
                roots=self.roots,
                enrol=state.enrol,
                keys=tuple(
                    KeyEpoch(each.epoch, enrolment.proof_key(each.key), each.made, each.ends) for each in state.keys
                ),
            )
            self._signed = signing.sign(roster, self._issuing.key, self._issuing.certificate)
            self._signed_epoch = state.epoch
        return self._signed

    def _admission(self, spki: bytes, now: Seconds) -> Admission:
        leaf = certificates.issue(self._issuing, spki, now)
        self._ledger.issued(signing.spki_digest(leaf).hex(), leaf.not_valid_after_utc.timestamp(), self._generation)
        chain = certificates.pem(leaf, self._issuing.certificate)
        return Admission(chain=chain, roster=self._roster(), keys=self._keys())

    def _keys(self) -> dict[int, bytes]:
        return {each.epoch: each.key for each in self._ledger.state().keys}

    def _check_network(self, network: str) -> None:
        here = self._ledger.state().network
        if network != here:
            raise WrongNetwork(
                f"this is the authority of the network {here}, and the host asked for {network}",
                fix="use a join token of this network",
            )


def exists(directory: Path) -> bool:
    """Tell whether an authority was founded in ``directory``: its ledger is made last."""
    return (directory / LEDGER).exists()


def found(directory: Path, name: str, now: Seconds) -> str:
    """Make the keys and the ledger of a new network; return its id. What an earlier attempt made is used."""
    parse_host_name(name)
    directories.private(directory)
    directory.chmod(0o700)
    root = _make(directory, 1, now)
    network = network_id(signing.spki_digest(root.certificate))
    ledger = MemberLedger(directory / LEDGER)
    try:
        ledger.found(network, name, now)
    finally:
        ledger.close()
    return network


def _make(directory: Path, generation: int, now: Seconds) -> certificates.Authority:
    """Make a root and its issuing authority, as far as a crash has not left them there."""
    name, below = _named(ROOT, generation), _named(ISSUING, generation)
    root = _made(directory, name) or _write(directory, name, certificates.make_root(now))
    if not _made(directory, below):
        _write(directory, below, certificates.make_issuing(root, now))
    return root


def _named(name: str, generation: int) -> str:
    return name if generation == 1 else f"{name}-{generation}"


def _remove(directory: Path, generation: int) -> None:
    for name in (_named(ROOT, generation), _named(ISSUING, generation)):
        for suffix in (".key", ".pem"):
            if (directory / f"{name}{suffix}").exists():
                durable.remove(directory / f"{name}{suffix}")


def _check_ready(names: Sequence[str], what: str, cost: str, *, force: bool) -> None:
    if names and not force:
        raise Conflict(
            f"{len(names)} of the members {what}: {', '.join(names[:8])}",
            fix=f"wait until they are connected, or leave them behind with --force: {cost}",
            details={"waiting": list(names)},
        )


def _write(directory: Path, name: str, authority: certificates.Authority) -> certificates.Authority:
    # The certificate last: a key without one was left by a crash, and is made again.
    durable.write(directory / f"{name}.key", certificates.key_pem(authority.key))
    durable.write(directory / f"{name}.pem", certificates.pem(authority.certificate).encode())
    return authority


def _made(directory: Path, name: str) -> certificates.Authority | None:
    return _read(directory, name) if (directory / f"{name}.pem").exists() else None


def _read(directory: Path, name: str) -> certificates.Authority:
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
    return certificates.Authority(key, certificate)


def _check_signature(key: ec.EllipticCurvePublicKey, signature: bytes, about: bytes) -> None:
    try:
        key.verify(signature, about, _DIGEST)
    except InvalidSignature:
        message = "the host did not prove that it has the private key of the public key it sent"
        raise Forbidden(message, fix="is something between the two hosts that ends TLS connections?") from None


def _check_grace(expired: Seconds, now: Seconds) -> None:
    if now > expired + GRACE:
        raise Forbidden(
            f"the node's certificate ran out {(now - expired) / certificates.DAY:.0f} days ago, and after"
            f" {GRACE / certificates.DAY:.0f} it cannot be renewed",
            fix="have the host leave (tetherctl cluster leave --force) and join with a new token",
        )


def _addresses(given: tuple[str, ...], roles: tuple[RoleName, ...]) -> tuple[str, ...]:
    """Return where a node can be dialled; nowhere if it has no role that others call."""
    checked = tuple(check_address(address) for address in given[:MAX_ADDRESSES])
    return checked if DIALABLE.intersection(roles) else ()


def end(directory: Path) -> None:
    """Remove a network's authority: nobody will ever be let in, renewed or sent away again."""
    for path in (
        sorted(directory.glob(f"{LEDGER}*")) + sorted(directory.glob("*.key")) + sorted(directory.glob("*.pem"))
    ):
        durable.remove(path)
