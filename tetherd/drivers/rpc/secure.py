"""What bytes go over between hosts: sockets with TLS, and how a thread opens one to another node."""

import contextlib
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Final

from tetherd.drivers.rpc import silence, sp
from tetherd.drivers.rpc.lines import after
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
        # That it would have to send first, to go on, is an error like others: a peer that asks for new keys and takes
        # nothing would be readable for ever.
        try:
            return self._socket.recv_into(room)
        except ssl.SSLWantReadError:
            return None

    def pending(self) -> bool:
        """See Line."""
        return self._socket.pending() > 0

    def send(self, parts: Iterable[Buffer]) -> list[memoryview]:
        """See Line."""
        rest = [memoryview(part) for part in parts]
        with contextlib.suppress(ssl.SSLWantWriteError):
            while rest:
                rest = _joined(rest)
                rest = after(rest, self._socket.send(rest[0][:_AT_ONCE]))
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


def _joined(parts: Sequence[memoryview]) -> list[memoryview]:
    """Return the parts with the small ones at their beginning as one."""
    size = count = 0
    while count < len(parts) and size + len(parts[count]) <= _JOINED:
        size += len(parts[count])
        count += 1
    return [memoryview(b"".join(parts[:count])), *parts[count:]] if count > 1 else list(parts)
