"""A process of strangers: ``python -m benchmarks.strangers PORT COUNT SECONDS`` opens so many within so long.

A third of them send noise, a third begin a TLS handshake and stop, a third say nothing. They hold what they are let
hold, until they are ended. They say when they stand ready, and come when their input ends.
"""

import random
import selectors
import socket
import sys
import time


def come(port: int, count: int, seconds: float) -> None:
    """Open the connections at a steady pace, and hold them until the last is closed."""
    held = selectors.DefaultSelector()
    words = (random.Random(port).randbytes(300), b"\x16\x03\x01\x02\x00\x01\x00", b"")
    began = time.monotonic()
    for number in range(count):
        stranger = socket.socket()
        stranger.setblocking(False)
        stranger.connect_ex(("127.0.0.1", port))
        held.register(stranger, selectors.EVENT_WRITE, words[number % len(words)])
        while (left := began + seconds * number / count - time.monotonic()) > 0:
            _attend(held, left)
    while held.get_map():
        _attend(held, 1.0)


def _attend(held: selectors.BaseSelector, patience: float) -> None:
    for key, ready in held.select(patience):
        stranger: socket.socket = key.fileobj  # type: ignore[assignment]
        try:
            if ready & selectors.EVENT_WRITE:
                stranger.send(key.data)
                held.modify(stranger, selectors.EVENT_READ)
            elif stranger.recv(4096):
                continue
            else:
                raise ConnectionResetError
        except OSError:
            held.unregister(stranger)
            stranger.close()


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.read()
    come(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
