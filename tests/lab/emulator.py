"""A link with faults: delay, jitter, loss, duplicates, reordering, corruption, a rate, or no link at all.

It stands in for ``tc netem``, which many kernels lack: two TAP devices, and a process between them that hands every
frame over when it is due. Run as a program it takes the descriptors of the two devices, and reads orders from standard
input, one JSON document per line; it ends with its input.
"""

import dataclasses
import heapq
import json
import os
import random
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

QUEUE: Final = 0.5
"""Seconds that a frame may wait for a link with a rate; those that would wait longer are lost."""

ETHERNET: Final = 14
"""Bytes of a frame's own header, which no corruption touches: the frame would only go nowhere."""

BURST: Final = 64
"""Frames taken from one side before the other has its turn."""


@dataclass(frozen=True)
class Conditions:
    """What happens to the frames of one direction: times in seconds, shares from 0 to 1, the rate in bytes/s.

    ``jitter`` spreads the delay evenly to both sides and keeps the order; a frame that is
    reordered overtakes those that wait.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate: float = 0.0
    down: bool = False


class Wire:
    """One direction of a link: decides when each frame arrives, as often as it does."""

    def __init__(self, chance: random.Random, conditions: Conditions | None = None) -> None:
        self.conditions = conditions or Conditions()
        self._chance = chance
        self._free = 0.0
        self._last = 0.0

    def send(self, frame: bytes, now: float) -> list[tuple[float, bytes]]:
        """Return what arrives of a frame, and when."""
        now_is = self.conditions
        if now_is.down or self._happens(now_is.loss):
            return []
        if self._happens(now_is.corrupt):
            frame = self._damage(frame)
        sent = now
        if now_is.rate:
            sent = max(now, self._free) + len(frame) / now_is.rate
            if sent - now > QUEUE:
                return []
            self._free = sent
        due = self._due(sent)
        return [(due, frame)] * (1 + self._happens(now_is.duplicate))

    def _due(self, sent: float) -> float:
        now_is = self.conditions
        if self._happens(now_is.reorder):
            return sent
        spread = self._chance.uniform(-now_is.jitter, now_is.jitter) if now_is.jitter else 0.0
        self._last = max(self._last, sent + max(0.0, now_is.delay + spread))
        return self._last

    def _happens(self, share: float) -> bool:
        return bool(share) and self._chance.random() < share

    def _damage(self, frame: bytes) -> bytes:
        place = self._chance.randrange(ETHERNET, len(frame))
        return frame[:place] + bytes([frame[place] ^ 1 << self._chance.randrange(8)]) + frame[place + 1 :]


class Link:
    """A running emulator, seen from the test: set what each direction does, and end it."""

    def __init__(self, near: int, far: int, *, seed: int = 1) -> None:
        words = [sys.executable, "-I", __file__, str(near), str(far), str(seed)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(near, far))
        os.close(near)
        os.close(far)

    def set(self, *, up: Conditions | None = None, down: Conditions | None = None) -> None:
        """Change what happens to frames that leave the host (``up``) or come to it, from now on."""
        order = {"up": up and dataclasses.asdict(up), "down": down and dataclasses.asdict(down)}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"done\n"

    def both(self, conditions: Conditions) -> None:
        self.set(up=conditions, down=conditions)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class _Emulator:
    def __init__(self, near: int, far: int, seed: int) -> None:
        self._wires = {"up": Wire(random.Random(f"{seed} up")), "down": Wire(random.Random(f"{seed} down"))}
        self._ways = {near: (self._wires["up"], far), far: (self._wires["down"], near)}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def run(self) -> None:
        orders = sys.stdin.fileno()
        while True:
            patience = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            ready, _, _ = select.select([orders, *self._ways], [], [], patience)
            for descriptor in ready:
                if descriptor != orders:
                    self._take(descriptor)
                elif not self._obey():
                    return
            self._hand_over()

    def _obey(self) -> bool:
        # Whoever gives orders waits for each to be done: there is never a second one in the pipe.
        order = json.loads(os.read(sys.stdin.fileno(), 65536) or b"{}")
        for name, conditions in order.items():
            if conditions:
                self._wires[name].conditions = Conditions(**conditions)
        if order:
            print("done", flush=True)
        return bool(order)

    def _take(self, descriptor: int) -> None:
        wire, target = self._ways[descriptor]
        for _ in range(BURST):
            try:
                frame = os.read(descriptor, 65536)
            except BlockingIOError:
                return
            for due, arriving in wire.send(frame, time.monotonic()):
                self._count += 1
                heapq.heappush(self._waiting, (due, self._count, target, arriving))

    def _hand_over(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, target, frame = heapq.heappop(self._waiting)
            try:
                os.write(target, frame)
            except OSError:
                # The device is full or not up: a frame that nobody takes is lost, as on any other link.
                continue


if __name__ == "__main__":
    _Emulator(*map(int, sys.argv[1:4])).run()
