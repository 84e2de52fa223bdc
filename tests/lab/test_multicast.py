"""Nodes of one site find each other by multicast, at the addresses that they have there; nobody else hears them."""

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from lab import Host, Lab

from tetherd.discovery.announcement import Found, Gone, Orders, Report, decode_report, encode, network_tag

REPOSITORY = Path(__file__).parents[2]
TAG = network_tag("1" * 16)
A, B = "a" * 64, "b" * 64


class Speaker:
    """The process of a node that speaks and hears multicast, on a host."""

    def __init__(self, host: Host, node: str, *, orders: Orders | None = None, **ports: int) -> None:
        words = [sys.executable, "-m", "tetherd.drivers.discovery.multicast"]
        pipe = subprocess.PIPE
        self._process = host.space.call(lambda: subprocess.Popen(words, cwd=REPOSITORY, stdin=pipe, stdout=pipe))
        assert self._process.stdin
        self._process.stdin.write(encode(orders or Orders(TAG, node, ports)))
        self._process.stdin.flush()
        self._reports: queue.Queue[Report] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._reports.put(decode_report(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._reader.join()
        self._process.stdout.close()
        self._process.wait(20)

    def hears(self, met: Callable[[Report], bool], patience: float) -> bool:
        """Wait for a report; False when none came in time."""
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            try:
                if met(self._reports.get(timeout=left)):
                    return True
            except queue.Empty:
                break
        return False


def at(node: str, address: str) -> Callable[[Report], bool]:
    return lambda report: isinstance(report, Found) and report.node == node and address in report.addresses


def test_neighbours_find_each_other_and_strangers_hear_nothing(lab: Lab) -> None:
    home = lab.site("home")
    one, other = home.host("one"), home.host("other")
    stranger = lab.site("office").host("stranger")
    with Speaker(one, A, rpc=7443) as first, Speaker(stranger, "c" * 64) as third:
        with Speaker(other, B, rpc=7443) as second:
            assert first.hears(at(B, f"{other.address}:7443"), 20)
            assert second.hears(at(A, f"{one.address}:7443"), 20)
        assert first.hears(lambda report: isinstance(report, Gone) and report.node == B, 20)
        assert not third.hears(lambda report: isinstance(report, Found), 0.2)


@pytest.mark.slow
def test_a_neighbour_that_moves_is_found_at_its_new_address(lab: Lab) -> None:
    home = lab.site("home")
    one, other = home.host("one"), home.host("other")
    with Speaker(one, A) as first, Speaker(other, B, rpc=7443):
        assert first.hears(at(B, f"{other.address}:7443"), 20)
        lab.readdress(other)
        assert first.hears(at(B, f"{other.address}:7443"), 30)


def test_where_multicast_is_switched_off_nobody_is_found(lab: Lab) -> None:
    home = lab.site("home")
    one, other = home.host("one"), home.host("other")
    with Speaker(one, A, rpc=7443) as first:
        switched_off = lab.off([other], "multicast")
        with Speaker(other, B, rpc=7443) as second:
            assert not second.hears(lambda report: isinstance(report, Found), 2)
            switched_off.heal()
            assert second.hears(at(A, f"{one.address}:7443"), 30)
            assert first.hears(at(B, f"{other.address}:7443"), 30)
