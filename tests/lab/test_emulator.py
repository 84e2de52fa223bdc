"""The emulated link: what it decides for each frame, and that real packets fare the same."""

import random
import socket
import time

import pytest
from emulator import ETHERNET, QUEUE, Conditions, Wire
from lab import Lab
from probes import drain, reaches, stream, udp

FRAME = bytes(1000)


def wire(**conditions: float) -> Wire:
    return Wire(random.Random(7), Conditions(**conditions))  # type: ignore[arg-type]


def share_lost(link: Wire, count: int = 10_000) -> float:
    return sum(not link.send(FRAME, 0.0) for _ in range(count)) / count


def test_a_plain_wire_hands_over_at_once() -> None:
    assert wire().send(FRAME, 5.0) == [(5.0, FRAME)]


def test_a_delay_is_added() -> None:
    assert wire(delay=0.25).send(FRAME, 5.0) == [(5.25, FRAME)]


def test_jitter_spreads_the_delay_and_keeps_the_order() -> None:
    link = wire(delay=0.1, jitter=0.05)
    due = [link.send(FRAME, number / 100)[0][0] for number in range(1000)]
    waits = [when - number / 100 for number, when in enumerate(due)]
    assert due == sorted(due)
    assert 0.05 <= min(waits) < 0.07
    assert 0.13 < max(waits) <= 0.15


def test_loss_and_a_link_that_is_down() -> None:
    assert share_lost(wire(loss=0.2)) == pytest.approx(0.2, abs=0.02)
    assert share_lost(wire(down=True), 10) == 1
    assert share_lost(wire(), 10) == 0


def test_duplicates_arrive_twice() -> None:
    link = wire(duplicate=0.3)
    assert sum(len(link.send(FRAME, 0.0)) for _ in range(10_000)) == pytest.approx(13_000, abs=300)


def test_reordered_frames_overtake_those_that_wait() -> None:
    link = wire(delay=0.1, reorder=0.5)
    due = [link.send(FRAME, number / 1000)[0][0] for number in range(100)]
    assert due != sorted(due)


def test_corruption_flips_one_bit_beyond_the_header() -> None:
    link = wire(corrupt=1.0)
    for _ in range(100):
        ((_, frame),) = link.send(FRAME, 0.0)
        assert frame[:ETHERNET] == FRAME[:ETHERNET]
        assert sum(byte.bit_count() for byte in frame) == 1


def test_a_rate_makes_frames_wait_for_each_other_and_loses_those_that_would_wait_long() -> None:
    link = wire(rate=10_000)
    due = [when for _ in range(10) for when, _ in link.send(FRAME, 0.0)]
    assert due == pytest.approx([0.1, 0.2, 0.3, 0.4, QUEUE])


def test_the_same_seed_has_the_same_fate() -> None:
    fates = [[wire(loss=0.5).send(FRAME, 0.0) for _ in range(50)] for _ in range(2)]
    assert fates[0] == fates[1]


# --- real packets -----------------------------------------------------------------------------------------------------


def round_trip(one: socket.socket, other: socket.socket, address: tuple[str, int]) -> float:
    began = time.monotonic()
    one.sendto(b"ping", address)
    _, back = other.recvfrom(64)
    other.sendto(b"pong", back)
    assert one.recv(64) == b"pong"
    return time.monotonic() - began


@pytest.mark.usefixtures("tap")
def test_packets_are_delayed_each_way(lab: Lab) -> None:
    far, near = lab.host("far", Conditions(delay=0.02)), lab.host("near")
    assert far.link
    with udp(far) as one, udp(near, 5000) as other:
        address = (near.address, 5000)
        assert 0.04 <= min(round_trip(one, other, address) for _ in range(5)) < 0.06
        far.link.set(up=Conditions(delay=0.1))
        assert 0.12 <= min(round_trip(one, other, address) for _ in range(3)) < 0.15
        far.link.both(Conditions())
        assert min(round_trip(one, other, address) for _ in range(5)) < 0.02


@pytest.mark.usefixtures("tap")
def test_packets_are_lost_doubled_and_damaged(lab: Lab) -> None:
    far, near = lab.host("far", Conditions()), lab.host("near")
    assert far.link
    # Until hosts have found each other's hardware addresses, packets wait, and not always in order.
    assert reaches(far, near)
    assert stream(far, near, 500) == list(range(500))
    far.link.set(up=Conditions(loss=0.2))
    assert 300 < len(stream(far, near, 500)) < 480
    assert stream(near, far, 500) == list(range(500))
    far.link.set(up=Conditions(duplicate=0.3))
    doubled = stream(far, near, 500)
    assert set(doubled) == set(range(500))
    assert 560 < len(doubled) < 740
    # Checksums find every flipped bit: what is damaged is lost, and nothing false arrives.
    far.link.set(up=Conditions(corrupt=0.5))
    arrived = stream(far, near, 500)
    assert set(arrived) < set(range(500))
    far.link.both(Conditions(down=True))
    assert stream(far, near, 10) == []


@pytest.mark.usefixtures("tap")
def test_packets_overtake_each_other(lab: Lab) -> None:
    far, near = lab.host("far", Conditions(delay=0.03, reorder=0.3)), lab.host("near")
    arrived = stream(far, near, 100)
    assert sorted(arrived) == list(range(100))
    assert arrived != sorted(arrived)


@pytest.mark.usefixtures("tap")
def test_a_router_may_have_a_slow_link(lab: Lab) -> None:
    home, server = lab.site("home", link=Conditions(delay=0.02)), lab.host("server")
    with udp(home.host("inside")) as one, udp(server, 5000) as other:
        assert 0.04 <= min(round_trip(one, other, (server.address, 5000)) for _ in range(3)) < 0.07
        assert drain(one) == []
