"""Says in words why a node cannot be reached: repeats the connection step by step, with a TLS that gives reasons.

nng tells of every failed handshake alike. Nothing is asked of the other side but whether it hears this node, in small
packets and in large ones.
"""

import contextlib
import datetime as dt
import socket
import ssl
import struct
import time
from typing import Final, Self

from cryptography import x509
from cryptography.x509.oid import NameOID

from tetherd.drivers.rpc import reaching, sp, tls
from tetherd.drivers.rpc.lines import exactly
from tetherd.drivers.tcp import mutual
from tetherd.drivers.tcp.names import connect
from tetherd.errors import TetherError
from tetherd.policy.admission import Roster
from tetherd.types import Cause, Credentials, Finding, Seconds, is_node_id
from tetherd.wire.frames import CALL, FAILURE, Codec, Frame, Header
from tetherd.wire.peering import MAX_PAD, Ping

_SEGMENT: Final = 500
"""Bytes of TCP in a packet that every network carries."""

_LARGEST: Final = 65536
_EXPIRED: Final = 10
_NOT_YET: Final = 9
_MINUTE: Final[Seconds] = 60.0
_UNITS: Final = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))

_REFUSED: Final = "it does not accept this node's certificate, so its clock is wrong or it has missed a change of roots"
_ALERTS: Final = {
    "CERTIFICATE_EXPIRED": "it says that this node's certificate has expired, so its clock is ahead",
    "UNKNOWN_CA": _REFUSED,
    "BAD_CERTIFICATE": _REFUSED,
    "CERTIFICATE_UNKNOWN": _REFUSED,
    "BAD_RECORD_MAC": _REFUSED,  # how Mbed TLS says anything about a client's certificate: no client can read it
}
"""What the other side's refusals mean, by a part of the name that OpenSSL gives them."""


class _Found(Exception):
    """Ends the examination with what it found."""

    def __init__(self, cause: Cause, message: str, fix: str = "", node: str = "") -> None:
        super().__init__(message)
        self.finding = Finding(cause, message, fix, node)


def explain(address: str, credentials: Credentials, expected: str = "", roster: Roster | None = None) -> Finding:
    """Return why ``expected`` (empty = whoever is there) cannot be reached at a ``tls+tcp://`` address.

    Blocks for a few times ``tls.PATIENCE`` at most, and never raises for what the other side does.
    """
    try:
        place = reaching.target(address)
    except TetherError as error:
        return Finding("address", error.message, error.fix)
    try:
        _check_own(credentials, time.time())
        leaf = _their_certificate(place, credentials)
        node = _name(leaf)
        _verify(place, credentials, leaf, node)
        _check_node(node, expected, roster)
        _be_heard(place, credentials, node)
    except _Found as found:
        return found.finding
    except (OSError, ssl.SSLError) as error:
        return Finding("closed", f"the connection broke off: {error}", "try again; look at the log of the other node")
    return Finding("none", f"node {node} answers and hears this node", node=node)


def _check_own(credentials: Credentials, now: Seconds) -> None:
    leaf = x509.load_pem_x509_certificate(credentials.chain_pem.encode())
    late = now - leaf.not_valid_after_utc.timestamp()
    early = leaf.not_valid_before_utc.timestamp() - now
    if late > 0:
        message = f"this node's own certificate expired {_ago(late)}, at {_when(leaf.not_valid_after_utc)}"
        raise _Found("own-certificate", message, "check this host's clock; else renew it: tetherctl cluster join")
    if early > 0:
        message = f"this node's own certificate is valid only from {_when(leaf.not_valid_before_utc)}"
        raise _Found("own-certificate", message, f"set this host's clock: it is behind by {_long(early)} or more")


def _their_certificate(place: tuple[str, int], credentials: Credentials) -> x509.Certificate:
    """Return the certificate that is shown at a place, whoever vouches for it."""
    context = mutual.dialling(credentials)
    context.verify_mode = ssl.CERT_NONE
    with _connect(place) as plain:
        try:
            with context.wrap_socket(plain) as secure:
                return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
        except TimeoutError:
            raise _stalled(place, credentials) from None
        except ssl.SSLError as error:
            if "ALERT_PROTOCOL_VERSION" in (error.reason or "") or "UNSUPPORTED_PROTOCOL" in (error.reason or ""):
                message = f"{_shown(place)} speaks an older TLS than 1.3: it is no Tether node"
                raise _Found("old-tls", message, "check the address and port") from None
            raise _Found("no-tls", *_no_tls(place, str(error.reason or error))) from None
        except ConnectionError:
            raise _Found("no-tls", *_no_tls(place, "it closed the connection")) from None
        except ValueError:
            raise _Found("other-network", f"{_shown(place)} shows a certificate that cannot be read") from None


def _connect(place: tuple[str, int], segment: int = 0) -> socket.socket:
    """Return a connection, on which neither side sends more than ``segment`` bytes in a packet (0 = as usual)."""
    try:
        return connect(*place, tls.PATIENCE, segment)
    except ConnectionRefusedError:
        message = f"{_shown(place)} refuses connections: the host is there, nothing listens on that port"
        raise _Found("refused", message, "is tetherd running there, in a network, and on this port?") from None
    except socket.gaierror as error:
        message = f"{place[0]} is no known host: {error.strerror}"
        raise _Found("address", message, "check the name, or use its IP address") from None
    except TimeoutError:
        message = f"{_shown(place)} did not answer for {tls.PATIENCE:.0f} s"
        raise _Found("unreachable", message, "is the host up, and does its firewall let this port through?") from None
    except OSError as error:
        message = f"{_shown(place)} cannot be reached: {error.strerror or error}"
        raise _Found("unreachable", message, "check this host's network and the address") from None


def _stalled(place: tuple[str, int], credentials: Credentials, node: str = "") -> _Found:
    """Tell a path that loses large packets from a process that says nothing: say everything again in small ones."""
    try:
        with _Line(place, credentials, _SEGMENT) as line:
            line.ask(bytes(MAX_PAD))
    except (_Found, TetherError, OSError, ValueError):
        message = f"{_shown(place)} takes connections and says nothing for {tls.PATIENCE:.0f} s"
        fix = "the process there may hang, or wait for something that is not TLS; restart it"
        return _Found("silent", message, fix, node)
    message = f"small packets reach {_shown(place)} and large ones vanish: a link on the way carries less than it says"
    fix = "ip link set DEVICE mtu 1280 on this host, or sysctl -w net.ipv4.tcp_mtu_probing=2 on both"
    return _Found("mtu", message, fix, node)


def _no_tls(place: tuple[str, int], reason: str) -> tuple[str, str]:
    """Find out what speaks at a place where nobody speaks TLS."""
    said = b""
    try:
        with connect(*place, tls.PATIENCE) as plain:
            plain.settimeout(_MINUTE / 60)
            try:
                said = plain.recv(64)  # SSH and mail speak first
            except TimeoutError:
                plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
                said = plain.recv(64)
    except OSError:
        pass
    known = {b"SSH-": "SSH", b"HTTP/": "plain HTTP", b"\0SP\0": "nng without TLS"}
    what = next((name for start, name in known.items() if said.startswith(start)), "")
    heard = f"it speaks {what}" if what else f"there is no TLS ({reason})"
    return (
        f"{_shown(place)} is no Tether node: {heard}",
        "check the port; between hosts it is 7443 unless told otherwise",
    )


def _name(leaf: x509.Certificate) -> str:
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if len(names) == 1 and len(list(leaf.subject)) == 1 else ""
    return name if is_node_id(name) else ""


def _check_dates(leaf: x509.Certificate, node: str, now: Seconds) -> None:
    late = now - leaf.not_valid_after_utc.timestamp()
    early = leaf.not_valid_before_utc.timestamp() - now
    if late > 0:
        message = f"its certificate expired {_ago(late)}, at {_when(leaf.not_valid_after_utc)}"
        fix = (
            f"check this host's clock ({_when(dt.datetime.fromtimestamp(now, dt.UTC))}); else look why it did not renew"
        )
        raise _Found("expired", message, fix, node)
    if early > 0:
        message = f"its certificate is valid only from {_when(leaf.not_valid_before_utc)}, {_long(early)} from now"
        fix = f"set the clocks: this host's is behind, or the other's ahead, by {_long(early)} or more"
        raise _Found("not-yet-valid", message, fix, node)


def _verify(place: tuple[str, int], credentials: Credentials, leaf: x509.Certificate, node: str) -> None:
    try:
        with _connect(place) as plain, mutual.dialling(credentials).wrap_socket(plain):
            return
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (_EXPIRED, _NOT_YET):
            _check_dates(leaf, node, time.time())
            message = "the authority that vouches for its certificate has expired, or is not valid yet"
            raise _Found("expired", message, "check the clocks; else renew it: tetherctl cluster ca", node) from None
        message = (
            f"it belongs to another network: no root that this node trusts vouches for it ({error.verify_message})"
        )
        raise _Found("other-network", message, "join both hosts to one network, or check the address", node) from None


def _check_node(node: str, expected: str, roster: Roster | None) -> None:
    if not node:
        raise _Found("wrong-node", "its certificate names no node", "join it to the network again")
    if expected and node != expected:
        message = f"node {node} is there, not the one that is meant ({expected})"
        raise _Found("wrong-node", message, "the address may have changed hands: check where the node is now", node)
    if roster is not None and roster(node) is None:
        message = f"node {node} is no member of this network any more: it was revoked or forgotten"
        raise _Found("not-a-member", message, "join it again with a new token", node)


def _be_heard(place: tuple[str, int], credentials: Credentials, node: str) -> None:
    """Ask for a sign of life in few bytes, then in many."""
    try:
        with _Line(place, credentials) as line:
            answer = line.ask(b"")
            if answer.kind == FAILURE and (failure := line.codec.failure(answer)).code == "PERMISSION_DENIED":
                raise _Found("turned-away", f"node {node} turns this node away: {failure.message}", failure.fix, node)
            line.ask(bytes(MAX_PAD))
    except TimeoutError:
        raise _stalled(place, credentials, node) from None
    except (ssl.SSLError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or ""
        meaning = next((text for part, text in _ALERTS.items() if part in reason), "it closed the connection")
        fix = "compare the clocks of both hosts, then restart tetherd on the other one"
        raise _Found("turned-away", f"node {node or '?'} turns this node away: {meaning}", fix, node) from None
    except TetherError as error:
        message = f"node {node} answers in another way than this version of Tether does: {error.message}"
        raise _Found("version", message, "run the same version of Tether on both hosts", node) from None


class _Line:
    """A connection on which one question is asked after the other. ``segment`` is as for ``_connect``.

    Entering it and asking raise TimeoutError, ConnectionError, ssl.SSLError, and BadFrame for what is no answer.
    """

    def __init__(self, place: tuple[str, int], credentials: Credentials, segment: int = 0) -> None:
        self.codec = Codec()
        self._asked = 0
        self._framing = sp.Framing(_LARGEST, between=True)
        self._plain = _connect(place, segment)
        self._context = mutual.dialling(credentials)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._plain)
            self._secure = stack.enter_context(self._context.wrap_socket(self._plain))
            # Read first: what is sent to somebody who has hung up makes the network drop what he said before.
            if exactly(self._secure, len(sp.ANSWERS)) != sp.ANSWERS:
                raise _Found("no-tls", "it speaks another protocol over TLS: it is no Tether node")
            self._secure.sendall(sp.ASKS)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._secure.close()

    def ask(self, pad: bytes) -> Frame:
        """Return the answer to a ping with so much padding."""
        call = Header(self._asked + 1, Ping.METHOD, int(tls.PATIENCE * 1000))
        message = self._framing.compose(sp.LAST | self._asked, self.codec.encode(CALL, call, Ping(pad)))
        self._secure.sendall(b"".join(message))
        self._asked += 1
        (length,) = struct.unpack(">Q", exactly(self._secure, 8))
        return self.codec.split(exactly(self._secure, min(length, _LARGEST))[4:])


def _shown(place: tuple[str, int]) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _when(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _long(seconds: Seconds) -> str:
    """Return a duration in its largest unit: ``3 days``."""
    size, unit = next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
    count = max(1, int(seconds / size))
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _ago(seconds: Seconds) -> str:
    return f"{_long(seconds)} ago"
