"""How a host asks for its certificate: from the authority, whose root key it checks before it says anything of itself.

Blocking. The key never leaves; the token's secret is proven, not sent. Every step may be repeated.
"""

import hashlib
import http.client
import io
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Self, TypeVar

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tetherd.drivers.identity.certificates import pem, spki_of
from tetherd.drivers.tcp.names import connect
from tetherd.errors import (
    MALFORMED,
    BadRoster,
    ClockSkew,
    Failure,
    PinMismatch,
    QueueFull,
    TetherError,
    Unreachable,
    WrongNetwork,
    revive,
)
from tetherd.types import Seconds
from tetherd.wire import enrolment, signing
from tetherd.wire.enrolment import (
    JOIN,
    MAX_LINEAGE,
    MAX_REPLY,
    NETWORK,
    RENEW,
    Admission,
    Greeting,
    JoinRequest,
    RenewRequest,
)
from tetherd.wire.roster import MAX_ROOTS, Roster
from tetherd.wire.tokens import JoinToken

T = TypeVar("T", bound=msgspec.Struct)
TIMEOUT: Final[Seconds] = 10.0
"""How long one address may take in all to answer one request."""

MAX_GREETING: Final = 64 * 1024
MAX_SKEW: Final[Seconds] = 300.0
_MAX_HEAD: Final = 8 * 1024
_PASSING: Final = (Unreachable, PinMismatch, WrongNetwork, ClockSkew, BadRoster, QueueFull)
"""What may be so at one address alone: whoever answers there may be somebody else."""

_DIGEST: Final = ec.ECDSA(hashes.SHA256())


class Applicant:
    """A host that asks: its key, what it calls itself, where others could dial it, and its clock."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: str,
        addresses: tuple[str, ...],
        now: Callable[[], Seconds],
        patience: Seconds = TIMEOUT,
    ) -> None:
        self._key = key
        self._spki = spki_of(key.public_key())
        self._name = name
        self._addresses = addresses
        self._now = now
        self._patience = patience

    def join(self, token: JoinToken) -> tuple[Admission, str]:
        """Join with a token; return what came and the roots (PEM) that its pin leads to.

        Raises PinMismatch, WrongNetwork and ClockSkew before anything was sent; what the authority says; Unreachable.
        """
        return _first(token.addresses, lambda address: self._join_at(address, token))

    def renew(self, network: str, addresses: Sequence[str], roots_pem: str) -> tuple[Admission, str]:
        """Ask for the next certificate, at an authority that one of ``roots_pem`` vouches for, or a later root.

        Return what came, and the roots (PEM) that were trusted for it.
        """

        def ask(address: str) -> tuple[Admission, str]:
            try:
                return self._renew_at(address, network, roots_pem)
            except PinMismatch:
                # The root may have changed while this host was away.
                pins = [signing.spki_digest(root) for root in signing.certificates([roots_pem])]
                return self._renew_at(address, network, self._roots_at(address, network, pins))

        return _first(addresses, ask)

    def _renew_at(self, address: str, network: str, roots_pem: str) -> tuple[Admission, str]:
        with _Line(address, roots_pem, self._patience) as line:
            about = enrolment.transcript("renew", line.leaf, b"", self._spki)
            request = RenewRequest(
                network=network, spki=self._spki, signature=self._key.sign(about, _DIGEST), addresses=self._addresses
            )
            return line.post(RENEW, request, Admission), roots_pem

    def _join_at(self, address: str, token: JoinToken) -> tuple[Admission, str]:
        roots = self._roots_at(address, token.network, [token.pin])
        with _Line(address, roots, self._patience) as line:
            about = enrolment.transcript("join", line.leaf, token.id, self._spki)
            request = JoinRequest(
                network=token.network,
                token=token.id,
                spki=self._spki,
                proof=enrolment.proof(enrolment.proof_key(token.secret), about),
                signature=self._key.sign(about, _DIGEST),
                name=self._name,
                addresses=self._addresses,
            )
            return line.post(JOIN, request, Admission), roots

    def _roots_at(self, address: str, network: str, pins: Sequence[bytes]) -> str:
        """Return the roots that those keys lead to, as whoever answers shows them; nothing else is said for it."""
        with _Line(address, "", self._patience) as line:
            greeting = line.get(NETWORK, Greeting)
        shown = signing.certificates(greeting.roots[:MAX_ROOTS])
        lineage = signing.certificates(greeting.lineage[:MAX_LINEAGE])
        found = [root for pin in pins for root in signing.heirs(pin, shown, lineage)]
        if not found:
            raise PinMismatch(
                f"what answers at {address} is not the network {network}: its root key is another one",
                fix="check the address; if it is right, somebody else answers there: do not join",
            )
        if greeting.network != network:
            message = f"the network at {address} is {greeting.network}, and this host asked for {network}"
            raise WrongNetwork(message, fix="make a new token: tetherctl cluster token")
        _check_clock(self._now() - greeting.time)
        return pem(*dict.fromkeys(found))


class _Line:
    """One TLS connection to an enrolment listener. ``roots_pem``: who must vouch for it; empty = anybody may answer."""

    def __init__(self, address: str, roots_pem: str, patience: Seconds) -> None:
        self.leaf = b""
        self._address = address
        self._host, _, self._port = address.rpartition(":")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.check_hostname = False  # any node that the root vouches for: it proves nothing to us by its name
        self._context.verify_mode = ssl.CERT_REQUIRED if roots_pem else ssl.CERT_NONE
        if roots_pem:
            self._context.load_verify_locations(cadata=roots_pem)
        self._deadline = time.monotonic() + patience
        self._socket: ssl.SSLSocket

    def __enter__(self) -> Self:
        try:
            plain = connect(self._host.strip("[]"), int(self._port), _left(self._deadline))
        except OSError as error:
            raise _unreachable(self._address, error) from None
        try:
            plain.settimeout(_left(self._deadline))
            self._socket = self._context.wrap_socket(plain)
        except ssl.SSLCertVerificationError as error:
            plain.close()
            raise _explain(error, self._address) from None
        except OSError as error:
            plain.close()
            raise _unreachable(self._address, error) from None
        self.leaf = hashlib.sha256(self._socket.getpeercert(binary_form=True) or b"").digest()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(self, path: str, kind: type[T]) -> T:
        """Ask for what everybody may know. Nobody vouches for the answer: what it says went wrong is of this address.

        Raises QueueFull, Unreachable.
        """
        try:
            return self._ask("GET", path, None, kind, MAX_GREETING)
        except (QueueFull, Unreachable):
            raise
        except TetherError as error:
            message = f"what answers at {self._address} does not say of which network it is: {error.message}"
            raise Unreachable(message, fix="check the address and its port") from None

    def post(self, path: str, request: msgspec.Struct, kind: type[T]) -> T:
        """Send a request. Raises what the other side says."""
        return self._ask("POST", path, msgspec.json.encode(request), kind, MAX_REPLY)

    def _ask(self, method: str, path: str, body: bytes | None, kind: type[T], most: int) -> T:
        connection = http.client.HTTPConnection(self._host.strip("[]"), int(self._port))
        connection.sock = self._socket
        try:
            self._socket.settimeout(_left(self._deadline))
            connection.request(method, path, body, {"Connection": "close"})
            reply: Any = _Reply(self._socket, self._deadline, _MAX_HEAD + most)
            response = http.client.HTTPResponse(reply, method=method)
            response.begin()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self._address, error) from None
        try:
            if response.status == 200:
                return msgspec.json.decode(data, type=kind)
            document: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
            failure = Failure(str(document["code"]), str(document["error"]), str(document.get("fix", "")))
        except (*MALFORMED, KeyError):
            message = f"what answers at {self._address} is no enrolment listener of Tether"
            raise Unreachable(message, fix="check the address and its port") from None
        raise revive(failure)


class _Reply(io.RawIOBase):
    """What comes over a connection until ``deadline``, ``most`` bytes of it; http.client takes it for a socket."""

    def __init__(self, connection: ssl.SSLSocket, deadline: Seconds, most: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._most = most

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left(self._deadline))
        count = self._connection.recv_into(buffer)
        self._most -= count
        if self._most < 0:
            raise OSError("the answer is too long")
        return count


R = TypeVar("R")


def _first(addresses: Sequence[str], ask: Callable[[str], R]) -> R:
    """Return the first answer; what may be so at one address alone makes way for the next, what is refused ends it.

    Raises the last of what went wrong, rather what an address said than that one could not be reached.
    """
    problem: TetherError = Unreachable(
        "no address of the network's authority is known", fix="tetherctl cluster join with a new token"
    )
    for address in addresses:
        try:
            return ask(address)
        except _PASSING as error:
            if isinstance(problem, Unreachable) or not isinstance(error, Unreachable):
                problem = error
    raise problem


def _left(deadline: Seconds) -> Seconds:
    """Return how long there is until ``deadline``. Raises TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it takes too long to answer")
    return left


def _check_clock(ahead: Seconds) -> None:
    if abs(ahead) > MAX_SKEW:
        way = "ahead of" if ahead > 0 else "behind"
        raise ClockSkew(
            f"this host's clock is {abs(ahead):.0f} s {way} the network's", fix="set it: timedatectl set-ntp true"
        )


def _explain(error: ssl.SSLCertVerificationError, address: str) -> TetherError:
    """Return what a refused certificate means, in words."""
    why = error.verify_message
    if "expired" in why or "not yet valid" in why:
        message = f"the certificate shown at {address} is not valid at this host's time ({why})"
        return ClockSkew(message, fix="compare the clocks of both hosts; if they agree, restart the other one's daemon")
    return PinMismatch(
        f"what answers at {address} has no certificate of this network ({why})",
        fix="check the address; if it is right, somebody else answers there",
    )


def _unreachable(address: str, error: Exception) -> Unreachable:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Unreachable(f"cannot reach the network's authority at {address}: {why}", fix="is its daemon running?")


def check(admission: Admission, node: str, network: str, roots_pem: str) -> Roster:
    """Return the roster of an admission that really makes ``node`` a member. Raises BadRoster, WrongNetwork."""
    roster = signing.verify(admission.roster, signing.certificates([roots_pem]), network)
    chain = signing.certificates([admission.chain])
    trusted = signing.certificates(roster.roots)
    issued = len(chain) == 2 and any(signing.issued(root, chain[1]) for root in trusted)
    if not issued or not signing.issued(chain[1], chain[0]) or signing.spki_digest(chain[0]).hex() != node:
        raise BadRoster("the certificate that came is not one of this network for this host", fix="join again")
    if roster.member(node) is None:
        raise BadRoster("the list of members does not name this host", fix="join again with a new token")
    return roster
