"""Strangers by the thousand: connections that say nothing, noise or half a handshake, and come again when ended."""

import contextlib
import random
import selectors
import socket
import threading
from collections.abc import Iterator

WORDS = (b"", b"\x16\x03\x01\x02\x00\x01\x00", b"\x16", b"GET / HTTP/1.1\r\n", random.Random(51).randbytes(300))


class Crowd:
    """A thread that keeps ``size`` connections to some ports of this host. ``came``: how many it has opened in all."""

    def __init__(self, ports: list[int], size: int) -> None:
        self.came = 0
        self._ports = ports
        self._size = size
        self._held = selectors.DefaultSelector()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._press)

    @contextlib.contextmanager
    def pressing(self) -> Iterator["Crowd"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join()

    def _press(self) -> None:
        while not self._over.is_set():
            for _ in range(min(100, self._size - len(self._held.get_map()))):
                self._come()
            for key, ready in self._held.select(0.01):
                self._attend(key, ready)
        for key in list(self._held.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._held.close()

    def _come(self) -> None:
        stranger = socket.socket()
        stranger.setblocking(False)
        stranger.connect_ex(("127.0.0.1", self._ports[self.came % len(self._ports)]))
        self._held.register(stranger, selectors.EVENT_WRITE, WORDS[self.came % len(WORDS)])
        self.came += 1

    def _attend(self, key: selectors.SelectorKey, ready: int) -> None:
        stranger: socket.socket = key.fileobj  # type: ignore[assignment]
        try:
            if ready & selectors.EVENT_WRITE:
                stranger.send(key.data)
                self._held.modify(stranger, selectors.EVENT_READ)
            elif not stranger.recv(4096):
                raise ConnectionResetError
        except OSError:
            self._held.unregister(stranger)
            stranger.close()
