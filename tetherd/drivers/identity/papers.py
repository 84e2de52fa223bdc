"""This host's membership on its disk, and how it is come by: from its own authority, or from another host's.

Implements ports.Papers. What a crash interrupts can be done again: the key, the authority and the token stay good.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from tetherd.drivers.host import directories
from tetherd.drivers.identity import authority as authorities
from tetherd.drivers.identity import joining
from tetherd.drivers.identity.authority import NetworkAuthority
from tetherd.drivers.identity.certificates import spki_of
from tetherd.drivers.identity.joining import Applicant
from tetherd.drivers.identity.keys import Home, Identity
from tetherd.errors import BadRoster, Conflict, NotInNetwork
from tetherd.policy.membership import Standing
from tetherd.ports import Clock
from tetherd.types import RoleName, Seconds
from tetherd.wire import signing
from tetherd.wire.enrolment import Admission, proof_key
from tetherd.wire.roster import Member, Roster, SignedRoster, newer
from tetherd.wire.signing import key_digest
from tetherd.wire.tokens import MAX_ADDRESSES, JoinToken, network_id


class DiskPapers:
    """Papers below ``state``: ``identity/``, and on the founder ``authority/``.

    ``name`` is what the host calls itself; ``addresses`` and ``enrol`` where it takes RPC connections and joining hosts
    (HOST:PORT), if it comes to that.
    """

    def __init__(
        self, state: Path, name: str, *, addresses: tuple[str, ...], enrol: tuple[str, ...], clock: Clock
    ) -> None:
        self.directory = state / "identity"
        self._authority_directory = state / "authority"
        self._identity = Identity(self.directory)
        self._name = name
        self._own = (addresses, enrol)
        self._addresses = addresses[:MAX_ADDRESSES]
        self._enrol = enrol[:MAX_ADDRESSES]
        self._clock = clock
        self._lock = threading.RLock()
        self._joining = threading.Lock()  # a second token is not spent while a first one may do
        self._standing: Standing | None = None
        self.authority: NetworkAuthority | None = None

    def load(self) -> Standing | None:
        """Return this host's standing; see ports.Papers."""
        with self._lock:
            home = self._identity.home()
            if home is None:
                return None
            directories.private(self.directory)  # whoever can put files there says whom this host trusts
            self._mend(home)
            if authorities.exists(self._authority_directory):
                authority = self._open_authority()
                self._stand(home, self._identity.roster())
                authority.move(home.node, self._addresses, self._clock.wall())
                return self.publish()
            return self._stand(home, self._identity.roster())

    def found(self, network: str, roles: tuple[RoleName, ...]) -> Standing:
        """Found a network; see ports.Papers."""
        with self._lock:
            self._check_free()
            now = self._clock.wall()
            authorities.found(self._authority_directory, network, now)
            authority = self._open_authority()
            public = self._identity.key().public_key()
            member = Member(
                node=key_digest(public).hex(), name=self._name, roles=roles, addresses=self._addresses, joined=now
            )
            admission = authority.enlist(spki_of(public), member, now)
            root = signing.certificates(authority.roots)[0]
            return self._settle(admission, network_id(signing.spki_digest(root)), "".join(authority.roots))

    def join(self, token: JoinToken, consent: Callable[[tuple[RoleName, ...]], None]) -> Standing:
        """Join with a token; see ports.Papers."""
        with self._joining:
            with self._lock:
                self._check_free()
                applicant = self._applicant()
            # Without the lock: who answers slowly must keep nobody from seeing how things stand, or from changing that.
            admission, root = applicant.join(token)
            with self._lock:
                self._check_free()  # the host may have founded a network meanwhile
                node = key_digest(self._identity.key().public_key()).hex()
                me = joining.check(admission, node, token.network, root).member(node)
                consent(me.roles if me else ())
                return self._settle(admission, token.network, root)

    def renew(self) -> Standing:
        """Get the next certificate; see ports.Papers."""
        with self._lock:
            standing, roots = self._require(), self._identity.roots()
            if self.authority is not None:
                me = standing.me or Member(node=standing.node, name=self._name, roles=())
                public = self._identity.key().public_key()
                admission = self.authority.enlist(spki_of(public), me, self._clock.wall())
                return self._settle(admission, standing.network, roots)
            applicant = self._applicant()
        # Without the lock: who answers slowly must not keep a revocation waiting.
        admission, roots = applicant.renew(standing.network, standing.roster.enrol, roots)
        with self._lock:
            now = self._require()  # the host may have left meanwhile
            if (now.network, now.node) != (standing.network, standing.node):
                return now  # and have come to be somebody else
            return self._settle(admission, standing.network, roots)

    def accept(self, signed: SignedRoster, keys: Mapping[int, bytes]) -> Standing:
        """Keep a newer roster; see ports.Papers."""
        with self._lock:
            standing = self._require()
            roster = signing.verify(signed, self._trusted(), standing.network)
            if not newer(standing.roster, roster):
                return standing
            home = self._require_home()
            known = _proven(roster, home.keys) | _proven(roster, keys)  # none that is forged replaces one that is not
            _check_keys(roster, home.node, known)
            if known != home.keys:
                home = Home(node=home.node, network=home.network, name=home.name, keys=known)
                self._identity.keep_home(home)  # before the roster, after which nobody says the keys again
            self._identity.keep_roster(signed, "".join(roster.roots))
            return self._stand(home, signed)

    def leave(self) -> None:
        """Be in no network any more; see ports.Papers."""
        with self._lock:
            self._identity.leave()
            if self.authority is not None:
                self.authority.close()
                self.authority = None
                authorities.end(self._authority_directory)
            self._standing = None

    def invite(self, roles: tuple[RoleName, ...], ttl: Seconds, name: str) -> JoinToken:
        """Make a join token; see ports.Papers."""
        return self._require_authority().invite(roles, ttl, name, self._clock.wall())

    def change(self, node: str, **values: Any) -> Standing:
        """Change what the roster says of a member; see ports.Papers."""
        self._require_authority().change(node, self._clock.wall(), **values)
        return self.publish()

    def forget(self, node: str) -> Standing:
        """Strike a member off the roster; see ports.Papers."""
        self._require_authority().forget(node, self._clock.wall())
        return self.publish()

    def rotate(self, lagging: Sequence[str], *, force: bool) -> Standing:
        """Take the next step towards another root; see ports.Papers."""
        self._require_authority().rotate(lagging, self._clock.wall(), force=force)
        return self.publish()

    def rotation(self, lagging: Sequence[str]) -> tuple[str, list[str]]:
        """Return how far the step to another root has gone; see ports.Papers."""
        return self._require_authority().rotation(lagging)

    def rekey(self, lagging: Sequence[str], *, force: bool) -> Standing:
        """Make the next key that members share; see ports.Papers."""
        self._require_authority().rekey(lagging, self._clock.wall(), force=force)
        return self.publish()

    def retire(self) -> Standing:
        """Drop the shared keys before the newest; see ports.Papers."""
        self._require_authority().retire(self._clock.wall())
        return self.publish()

    def reach(self, address: str, enrol: str) -> Standing:
        """Be reached at these places too; see ports.Papers."""
        with self._lock:
            self._require()
            home = self._require_home()
            self._addresses, self._enrol = (_with(*each) for each in zip(self._own, (address, enrol), strict=True))
            if self.authority is None:
                return self._stand(home, self._identity.roster())  # its certificate's renewal tells the others
            self.authority.enrol = self._enrol
            self.authority.move(home.node, self._addresses, self._clock.wall())
            return self.publish()

    def publish(self) -> Standing:
        """Take over what the authority on this host has decided."""
        authority = self._require_authority()
        return self.accept(authority.roster(), authority.keys())

    def close(self) -> None:
        """Close the authority's ledger."""
        if self.authority is not None:
            self.authority.close()

    def _mend(self, home: Home) -> None:
        """Trust the roots of the roster that is held, where a crash kept it from being said beside it."""
        signed, trusted = self._identity.roster(), self._trusted()
        roots = signing.verify(signed, trusted, home.network).roots
        if not set(signing.certificates(roots)) <= set(trusted):
            self._identity.keep_roster(signed, "".join(roots))

    def _settle(self, admission: Admission, network: str, roots: str) -> Standing:
        key = self._identity.key()
        node = key_digest(key.public_key()).hex()
        roster = joining.check(admission, node, network, roots)
        if self._standing is not None and newer(roster, self._standing.roster):
            self._identity.keep_certificate(admission.chain)
            return self._stand(self._require_home(), self._standing.signed)
        keys = _proven(roster, admission.keys)
        home = Home(node=node, network=network, name=roster.name, keys=keys)
        self._identity.settle(home, admission.chain, "".join(roster.roots), admission.roster)
        return self._stand(home, admission.roster)

    def _stand(self, home: Home, signed: SignedRoster) -> Standing:
        certificate, credentials = self._identity.certificate(), self._identity.credentials()
        roster = signing.verify(signed, self._trusted(), home.network)
        wanted, issuing = signing.certificates([roster.roots[0]])[0], signing.certificates([credentials.chain_pem])[1]
        self._standing = Standing(
            network=home.network,
            node=home.node,
            roster=roster,
            signed=signed,
            credentials=credentials,
            outdated=not signing.issued(wanted, issuing),
            issued=certificate.not_valid_before_utc.timestamp(),
            expires=certificate.not_valid_after_utc.timestamp(),
            keys=home.keys,
            founder=self.authority is not None,
            here=self._addresses,
        )
        return self._standing

    def _open_authority(self) -> NetworkAuthority:
        if self.authority is None:
            self.authority = NetworkAuthority(self._authority_directory, self._enrol)
        return self.authority

    def _applicant(self) -> Applicant:
        return Applicant(self._identity.key(), self._name, self._addresses, self._clock.wall)

    def _trusted(self) -> list[x509.Certificate]:
        return signing.certificates([self._identity.roots()])

    def _check_free(self) -> None:
        home = self._identity.home()
        if home is not None:
            raise Conflict(
                f"this host is in the network {home.name} ({home.network}) already",
                fix="to change the network, leave this one first: tetherctl cluster leave",
            )

    def _require(self) -> Standing:
        if self._standing is None:
            raise NotInNetwork.outside()
        return self._standing

    def _require_home(self) -> Home:
        home = self._identity.home()
        assert home is not None
        return home

    def _require_authority(self) -> NetworkAuthority:
        self._require()
        if self.authority is None:
            raise NotInNetwork(
                "this host does not hold the authority of its network", fix="run this on the host that founded it"
            )
        return self.authority


def _with(own: tuple[str, ...], other: str) -> tuple[str, ...]:
    """Return a host's own places, and at the end another one if there is one."""
    return (*(each for each in own[: MAX_ADDRESSES - 1] if each != other), other) if other else own[:MAX_ADDRESSES]


def _check_keys(roster: Roster, node: str, keys: Mapping[int, bytes]) -> None:
    """Raise BadRoster for a roster without the newest key, if it is for a member: its sender kept the key back."""
    sealing = {each.epoch for each in roster.keys if not each.ends}
    if roster.member(node) is not None and not sealing <= keys.keys():
        raise BadRoster("a list of members came without the key that they share", fix="restart the daemon it came from")


def _proven(roster: Roster, keys: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return those keys that the roster names."""
    return {each.epoch: keys[each.epoch] for each in roster.keys if proof_key(keys.get(each.epoch, b"")) == each.digest}
