"""What bytes go over between hosts: sockets with TLS, and how a thread opens one to another node."""

import contextlib
import socket
import ssl
from collections.abc import Iterable
from typing import Final

from tetherd.drivers.rpc import silence, sp
from tetherd.drivers.rpc.lines import PARTS, after
from tetherd.drivers.rpc.reaching import Secret, target
from tetherd.drivers.tcp import mutual, names
from tetherd.types import Buffer, Seconds

_JOINED: Final = 64 * 1024  # a record of TLS costs more than to copy this
_AT_ONCE: Final = 128 * 1024  # OpenSSL takes all of it or nothing, and then wants the same again


class Secure:
    """A socket with TLS, whose handshake is over. Implements Line."""

    def __init__(self, found: ssl.SSLSocket) -> None:
        self._socket = found
        self.fileno = found.fileno
        self.close = found.close

    def receive(self, room: memoryview) -> int | None:
        """See Line."""
        try:
            return self._socket.recv_into(room)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def pending(self) -> bool:
        """See Line."""
        return self._socket.pending() > 0

    def send(self, parts: Iterable[Buffer]) -> list[memoryview]:
        """See Line."""
        rest = _joined(parts)
        try:
            while rest:
                rest = after(rest, self._socket.send(rest[0][:_AT_ONCE]))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        return rest

    def bound(self, within: Seconds) -> None:
        """See Line."""
        if within != self._socket.gettimeout():  # each time costs a call to the kernel
            self._socket.settimeout(within)

    def end(self) -> None:
        """See Line."""
        with contextlib.suppress(OSError):  # it has ended
            # Not SSLSocket.shutdown: that makes what another thread still sends go out unencrypted.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def dial(address: str, secret: Secret, patience: Seconds) -> Secure:
    """Return a line to a node, on which it has been said who asks. Blocks. Raises OSError, TetherError.

    An attempt to connect takes ``patience`` at most, and so does each step after that.
    """
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(names.connect(*target(address), patience))
        plain.settimeout(patience)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        silence.bound(plain)
        found = stack.enter_context(mutual.dialling(secret.credentials).wrap_socket(plain))
        if mutual.peer(found) != secret.node:
            raise ConnectionRefusedError(f"{address} is another node than the one that is meant")
        found.sendall(sp.ASKS)
        _expect(found, sp.ANSWERS)
        stack.pop_all()
    return Secure(found)


def _expect(found: ssl.SSLSocket, words: bytes) -> None:
    heard = b""
    while len(heard) < len(words):
        part = found.recv(len(words) - len(heard))
        if not part:
            raise ConnectionResetError("the other side ended it")
        heard += part
    if heard != words:
        raise ConnectionResetError("it speaks another protocol")


def _joined(parts: Iterable[Buffer]) -> list[memoryview]:
    """Return the parts as few, unless they are large."""
    views = [memoryview(part) for part in parts]
    if len(views) == 1 or (len(views) <= PARTS and sum(len(view) for view in views) > _JOINED):
        return views
    return [memoryview(b"".join(views))]
