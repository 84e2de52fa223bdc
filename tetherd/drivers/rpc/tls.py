"""Proves from outside that a TLS listener of this process lets members in and keeps strangers out."""

import socket
import ssl
import time
from typing import Final

from tetherd.drivers.identity import certificates
from tetherd.drivers.rpc.reaching import target
from tetherd.drivers.rpc.sp import ANSWERS, ASKS
from tetherd.drivers.tcp import mutual
from tetherd.errors import BadConfig
from tetherd.types import Credentials, Seconds

PATIENCE: Final[Seconds] = 5.0

_ANY: Final = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def prove(address: str, credentials: Credentials) -> None:
    """Dial a listener of this very process as itself, as nobody and as a stranger. Blocks.

    Raises BadConfig unless it takes the first and neither of the others: a listener that took them would let anybody
    in, and nothing else would show it.
    """
    host, port = target(address)
    place = _ANY.get(host, host), port
    if not _takes(place, mutual.dialling(credentials)):
        raise BadConfig(
            f"{address} does not take this node's own certificate",
            fix="the key must belong to the certificate, and a trusted root must vouch for it; join the network again",
        )
    for who, context in (("no certificate", _nobody()), ("a certificate of another network", _stranger())):
        if _takes(place, context):
            raise BadConfig(
                f"{address} takes connections with {who}: it would let anybody in",
                fix="do not use this installation; reinstall Tether with another build of Python",
            )


def _takes(place: tuple[str, int], context: ssl.SSLContext) -> bool:
    try:
        with socket.create_connection(place, PATIENCE) as plain, context.wrap_socket(plain) as secure:
            # A client is done with its handshake before the server has looked at its certificate: only an answer tells.
            secure.sendall(ASKS)
            return secure.recv(len(ANSWERS)) == ANSWERS
    except (OSError, ssl.SSLError):
        return False


def _nobody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _stranger() -> ssl.SSLContext:
    now = time.time()
    root = certificates.make_root(now)
    issuing = certificates.make_issuing(root, now)
    key = certificates.new_key()
    leaf = certificates.issue(issuing, certificates.spki_of(key.public_key()), now)
    chain = certificates.pem(leaf, issuing.certificate)
    roots = certificates.pem(root.certificate)
    context = mutual.dialling(Credentials("", certificates.key_pem(key).decode(), chain, roots))
    context.verify_mode = ssl.CERT_NONE
    return context
