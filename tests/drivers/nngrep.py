"""Sockets of nng that answer: what our callers can ask, beside listeners of our own."""

from typing import Any

import pynng

from tetherd.types import Credentials


def open_rep(max_message: int) -> Any:
    """Return a REP socket that receives messages of up to so many bytes."""
    socket = pynng.Rep0()
    socket.recv_max_size = max_message + 64  # what the protocol puts before them
    return socket


def listen(socket: Any, address: str, credentials: Credentials | None = None) -> Any:
    """Listen, with ``credentials`` for ``tls+tcp://``; return the listener."""
    if credentials is not None:
        config = pynng.TLSConfig(
            pynng.TLSConfig.MODE_SERVER,
            ca_string=credentials.roots_pem,
            own_key_string=credentials.key_pem,
            own_cert_string=credentials.chain_pem,
        )
        config.set_auth_mode(pynng.TLSConfig.AUTH_MODE_REQUIRED)
        socket.tls_config = config
    return socket.listen(address)
