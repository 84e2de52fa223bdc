"""The network's authority on its founder's disk: the root, the issuing key, and what it decides with them.

Only this module reads the authority's keys. It issues certificates from public keys; no node's private key comes here.
Another root takes the place of the first in three steps: every member is told to trust both (ANNOUNCED), certificates
and rosters come from the new one (SWITCHED), members are told to trust it alone, and the old keys are removed.
"""

import contextlib
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tetherd.drivers.host import directories, durable
from tetherd.drivers.identity import certificates, roots
from tetherd.drivers.identity.members import Invitation, MemberLedger
from tetherd.errors import Conflict, Forbidden, WrongNetwork, WrongToken
from tetherd.policy.membership import DIALABLE
from tetherd.types import RoleName, Seconds, parse_host_name
from tetherd.wire import enrolment, signing
from tetherd.wire.enrolment import Admission, JoinRequest, RenewRequest
from tetherd.wire.roster import KeyEpoch, Member, Roster, SignedRoster, decode
from tetherd.wire.tokens import ID_BYTES, MAX_ADDRESSES, SECRET_BYTES, JoinToken, check_address, network_id

LEDGER: Final = "authority.db"
GRACE: Final[Seconds] = 30 * certificates.DAY
"""How long after a certificate ran out its node may still renew it by proving its key."""

MAX_TTL: Final[Seconds] = certificates.DAY
OVERLAP: Final[Seconds] = certificates.LEAF_LIFE
"""For how long a shared key that was replaced opens for members that are away: as long as their certificates last."""

STEADY, ANNOUNCED, SWITCHED = range(3)
STAGES: Final = ("", "announced", "switched")
_UNREADY: Final = ("", "have not heard of the new root yet", "have no certificate under the new root yet")
_LATER: Final = "each is cut off until it has renewed its certificate, which it does by itself"
_DIGEST: Final = ec.ECDSA(hashes.SHA256())


class NetworkAuthority:
    """Decides who is a member. Thread-safe and blocking: every change is durable when its method returns.

    ``lineage``: former roots and what leads from each to the next (PEM), for those who know no later one.

    ``enrol``: HOST:PORT where hosts reach it, as tokens and nodes are told. Raises Forbidden for keys that others can
    read and a directory that they can put files into, StorageFailed for damaged keys.
    """

    def __init__(self, directory: Path, enrol: tuple[str, ...]) -> None:
        self._directory = directory
        self.enrol = enrol
        self._lock = threading.Lock()
        directories.private(directory)
        for file in directory.glob(f"{LEDGER}*"):
            durable.guard(file)  # it holds the keys that members share, and what proves a token
        self._ledger = MemberLedger(directory / LEDGER)
        self._signed: SignedRoster | None = None
        self._signed_epoch = 0
        self.lineage: tuple[str, ...] = ()
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
        with self._at(now):
            self._ledger.invite(
                Invitation(token, enrolment.proof_key(secret), roles, now + min(ttl, MAX_TTL), name), now
            )
            network = self._ledger.state().network
        pin = signing.spki_digest(self._roots[0].certificate)
        return JoinToken(network=network, pin=pin, id=token, secret=secret, addresses=self.enrol)

    def join(self, request: JoinRequest, leaf: bytes, now: Seconds) -> Admission:
        """Let a host in. ``leaf``: SHA-256 of the certificate that was shown to it.

        Raises WrongNetwork, WrongToken, TokenExpired, TokenUsed, Revoked, InvalidInput.
        """
        about = enrolment.transcript("join", leaf, request.token, request.spki)
        key = certificates.load_public(request.spki)
        with self._at(now):
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
        with self._at(now):
            self._check_network(request.network)
            _check_signature(key, request.signature, enrolment.transcript("renew", leaf, b"", request.spki))
            member = self._ledger.member(node)
            _check_grace(self._ledger.expires(node), now)
            self._ledger.change(node, now, addresses=_addresses(request.addresses, member.roles))
            return self._admission(request.spki, now)

    def enlist(self, spki: bytes, member: Member, now: Seconds) -> Admission:
        """Make the founder a member of its own network, which is reached where it is now."""
        with self._at(now):
            self._ledger.move(self.enrol, now)
            self._ledger.enlist(member, now)
            self._ledger.change(member.node, now, addresses=member.addresses)
            return self._admission(spki, now)

    def change(self, node: str, now: Seconds, **values: Any) -> None:
        """Set ``labels``, ``addresses``, ``roles`` or ``revoked`` of a member. Raises NodeNotFound."""
        with self._at(now):
            self._ledger.change(node, now, **values)

    def move(self, node: str, addresses: tuple[str, ...], now: Seconds) -> None:
        """Let the members know where the founder and its authority are now."""
        with self._at(now):
            self._ledger.change(node, now, addresses=addresses)
            self._ledger.move(self.enrol, now)

    def forget(self, node: str, now: Seconds) -> None:
        """Strike a member off the list. Raises NodeNotFound."""
        with self._at(now):
            self._ledger.forget(node, now)

    def rotate(self, lagging: Sequence[str], now: Seconds, *, force: bool) -> int:
        """Take the next step towards another root; return how far that has brought it.

        ``lagging``: names of members that do not have the newest roster yet. Raises Conflict, which names who is not
        ready for the step, unless it is by ``force``: those find the new root when they renew their certificates.
        """
        with self._at(now):
            state = self._ledger.state()
            if state.rotation == STEADY:
                roots.make(self._directory, state.generation + 1, now)
                self._ledger.rotate(state.generation, ANNOUNCED, now)
            else:
                _check_ready(self._unready(lagging), _UNREADY[state.rotation], _LATER, force=force)
                switched = state.rotation == SWITCHED
                self._ledger.rotate(state.generation + switched, STEADY if switched else SWITCHED, now)
            self._open()
            self._freshen(now)
            return self._ledger.state().rotation

    def rotation(self, lagging: Sequence[str]) -> tuple[str, list[str]]:
        """Return how far the step to another root has gone (one of STAGES), and by name whom the next one waits for."""
        with self._lock:
            return STAGES[self._ledger.state().rotation], self._unready(lagging)

    def rekey(self, lagging: Sequence[str], now: Seconds, *, force: bool) -> None:
        """Make the next key that members share. ``lagging``: names of members that may not have the last one yet.

        Raises Conflict, which names them, unless it is by ``force``: those find others by the DHT no more until they
        have reached a member in another way.
        """
        with self._at(now):
            if len(self._ledger.state().keys) > 1:
                _check_ready(lagging, "may not have the last key yet", "the DHT will not find them", force=force)
            self._ledger.rekey(OVERLAP, now)

    def retire(self, now: Seconds) -> None:
        """Drop the shared keys before the newest."""
        with self._at(now):
            self._ledger.retire(now)

    def keys(self) -> dict[int, bytes]:
        """Return the keys that members share, by epoch."""
        with self._lock:
            return self._keys()

    def _unready(self, lagging: Sequence[str]) -> list[str]:
        state = self._ledger.state()
        if state.rotation == SWITCHED:
            behind = set(self._ledger.behind(state.generation + 1))
            return [member.name for member in state.members if member.node in behind]
        return list(lagging) if state.rotation == ANNOUNCED else []

    def _open(self) -> None:
        """Read the keys that belong to the step that the ledger has recorded, and remove those before them."""
        state = self._ledger.state()
        roots.retire(self._directory, state.generation)
        generations = [state.generation] if state.rotation == STEADY else [state.generation, state.generation + 1]
        if state.rotation == SWITCHED:
            generations.reverse()
        self._generation = generations[0]
        found = [roots.read(self._directory, each) for each in generations]
        self._roots = [root for root, _ in found]
        self._issuing = found[0][1]
        self.lineage = roots.lineage(self._directory, max(generations))

    @contextlib.contextmanager
    def _at(self, now: Seconds) -> Iterator[None]:
        """Hold the lock while something is decided, with an issuing certificate that will last."""
        with self._lock:
            self._freshen(now)
            yield

    def _freshen(self, now: Seconds) -> None:
        """Certify the issuing key anew before its certificate gets old; members trust only the root above it."""
        if certificates.is_old(self._issuing, self._roots[0], now):
            # First the roster's time, which must lie within the new certificate's: after a crash both are done again.
            self._ledger.reissue(now)
            self._issuing = roots.renew(self._directory, self._generation, now)

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
    root = roots.make(directory, 1, now)
    network = network_id(signing.spki_digest(root.certificate))
    ledger = MemberLedger(directory / LEDGER)
    try:
        ledger.found(network, name, now)
    finally:
        ledger.close()
    return network


def _check_ready(names: Sequence[str], what: str, cost: str, *, force: bool) -> None:
    if names and not force:
        raise Conflict(
            f"{len(names)} of the members {what}: {', '.join(names[:8])}",
            fix=f"wait until they are connected, or leave them behind with --force: {cost}",
            details={"waiting": list(names)},
        )


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
    for path in sorted(directory.glob(f"{LEDGER}*")):
        durable.remove(path)
    roots.end(directory)
