"""Mutual TLS on plain sockets: what a node shows, whom it believes, and who is at the other end.

Both sides show a certificate that a root of the network vouches for; a peer is the common name of its certificate and
nothing else. TLS 1.3 only.
"""

import os
import ssl
from collections.abc import Callable
from typing import Any, Final

from tetherd.errors import BadConfig, PermissionDenied
from tetherd.types import Credentials, is_node_id

_COMMON_NAME: Final = "commonName"


def listening(credentials: Credentials) -> ssl.SSLContext:
    """Return the context of a server that demands a certificate of its clients. Raises BadConfig."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials)
    context.num_tickets = 0  # a resumed session would live longer than the certificate it was opened with
    return context


def dialling(credentials: Credentials) -> ssl.SSLContext:
    """Return the context of a client; whoever uses it asks ``peer`` before it says anything. Raises BadConfig."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, credentials)
    # A node's name is longer than a label of a host name may be, so ssl cannot compare it: ``peer`` does.
    context.check_hostname = False
    return context


class Renewing:
    """The TLS context that ``make`` makes of the credentials in force, made again when these are renewed."""

    def __init__(self, make: Callable[[Credentials], ssl.SSLContext], current: Callable[[], Credentials]) -> None:
        self._make = make
        self._current = current
        self._made: tuple[Credentials, ssl.SSLContext] | None = None

    def __call__(self) -> ssl.SSLContext:
        """Return the context. Raises BadConfig."""
        credentials = self._current()
        if self._made is None or self._made[0] != credentials:
            self._made = credentials, self._make(credentials)
        return self._made[1]


def peer(connection: ssl.SSLSocket) -> str:
    """Return the id of the node at the other end. Raises PermissionDenied where its certificate names none."""
    shown: dict[str, Any] = connection.getpeercert() or {}
    subject = shown.get("subject", ())
    if len(subject) == 1 and len(subject[0]) == 1:
        kind, value = subject[0][0]
        if kind == _COMMON_NAME and is_node_id(value):
            return str(value)
    raise PermissionDenied("the peer's certificate does not name a node", fix="join it to the network again")


def _context(protocol: int, credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=credentials.roots_pem)
        _load_chain(context, credentials)
    except (ssl.SSLError, ValueError) as error:
        raise BadConfig(f"the node's certificate cannot be used: {error}", fix="join the network again") from None
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_chain(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Load key and chain, which ssl takes from files only: from one that never touches a disk."""
    file = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(file, f"{credentials.key_pem}\n{credentials.chain_pem}".encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
