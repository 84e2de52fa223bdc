"""The laboratory itself: what it builds is a network, what it takes down is gone."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lab import Lab
from namespaces import command, present
from probes import reaches, seen_as, stream, udp

ABANDON = """
import os, sys, time
sys.path.insert(0, {folder!r})
from lab import Lab
lab = Lab().__enter__()
host = lab.site("left").host("behind")
child = host.space.start("sleep", "600")
print(child.pid, flush=True)
time.sleep(600)
"""


def names(pid: int = 0) -> set[str]:
    return {space.name for space in present(pid or os.getpid())}


def test_hosts_of_the_wide_area_reach_each_other(lab: Lab) -> None:
    one, other = lab.host("one"), lab.host("other")
    assert reaches(one, other)
    assert reaches(other, one, family=socket.AF_INET6)


def test_what_is_addressed_to_nowhere_vanishes(lab: Lab) -> None:
    stranger, hidden = lab.host("stranger"), lab.site("home").host("hidden")
    assert not reaches(stranger, hidden)


def test_a_site_lets_out_and_lets_nothing_in(lab: Lab) -> None:
    server, home = lab.host("server"), lab.site("home")
    inside, neighbour = home.host("inside"), home.host("neighbour")
    with udp(server) as receiver, udp(inside) as sender:
        address = seen_as(sender, server, receiver)
        assert address[0] == home.router.address
        receiver.sendto(b"answer", address)
        assert sender.recv(64) == b"answer"
    assert reaches(inside, neighbour)
    assert not reaches(server, home.router)
    # Nor does it to somebody who knows the address within, and the way.
    server.space.ip(f"route add {inside.address} via {home.router.address}")
    assert not reaches(server, inside)


def multicast(source: socket.socket, target: socket.socket, target_address: str) -> bool:
    group = socket.inet_aton("224.0.0.251") + socket.inet_aton(target_address)
    target.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    target.settimeout(0.2)
    source.sendto(b"anyone?", ("224.0.0.251", 5353))
    try:
        return target.recv(64) == b"anyone?"
    except TimeoutError:
        return False


def test_multicast_stays_within_a_site_and_can_be_switched_off(lab: Lab) -> None:
    home = lab.site("home")
    one, other = home.host("one"), home.host("other")
    with udp(one) as source, udp(other, 5353) as target:
        assert multicast(source, target, other.address)
        with lab.off([other], "multicast"):
            assert reaches(one, other)
            source.sendto(b"anyone?", ("224.0.0.251", 5353))
            with pytest.raises(TimeoutError):
                target.recv(64)
    public, open_too = lab.host("public"), lab.host("open")
    with udp(public) as source, udp(open_too, 5353) as target:
        assert not multicast(source, target, open_too.address)


def test_a_process_runs_inside(lab: Lab) -> None:
    host = lab.host("host")
    assert host.address in host.space.run("ip", "-brief", "address")
    assert host.address not in command("ip", "-brief", "address")


def test_keepalive_is_set_for_a_host_alone(lab: Lab) -> None:
    one, other = lab.host("one"), lab.host("other")
    one.keepalive(3, 1, 2)
    kept = ("cat", "/proc/sys/net/ipv4/tcp_keepalive_time")
    assert one.space.run(*kept) == "3\n"
    assert other.space.run(*kept) != "3\n"


def test_a_host_that_moves_is_found_at_its_new_address_only(lab: Lab) -> None:
    watcher, mover = lab.host("watcher"), lab.host("mover")
    before = list(mover.addresses)
    assert lab.readdress(mover) not in before
    assert reaches(watcher, mover)
    assert reaches(watcher, mover, family=socket.AF_INET6)
    mover.addresses, after = before, mover.addresses
    assert not reaches(watcher, mover)
    mover.addresses = after
    inside = lab.site("home").host("inside")
    lab.readdress(inside)
    assert stream(inside, watcher, 3) == [0, 1, 2]


def test_a_site_whose_router_moves_is_seen_at_the_new_address(lab: Lab) -> None:
    server, home = lab.host("server"), lab.site("home")
    inside = home.host("inside")
    with udp(server) as receiver, udp(inside) as sender:
        before = seen_as(sender, server, receiver)
        lab.readdress(home.router)
        home.rebind()
        after = seen_as(sender, server, receiver)
    assert before[0] != after[0] == home.router.address


def test_teardown_leaves_nothing(possible: None) -> None:
    before, threads = names(), threading.active_count()
    with Lab() as lab:
        host = lab.site("home").host("host")
        sleeper = host.space.start("sleep", "600")
        assert len(names() - before) == 3
    assert names() == before
    assert sleeper.wait(5) == -signal.SIGKILL
    assert threading.active_count() == threads


def fail_within() -> None:
    with Lab() as lab:
        lab.site("home")
        raise ValueError("of the test")


def test_a_failure_within_takes_the_network_down_too(possible: None) -> None:
    before = names()
    with pytest.raises(ValueError, match="of the test"):
        fail_within()
    assert names() == before


def test_what_a_killed_run_left_is_swept_by_the_next(possible: None) -> None:
    script = ABANDON.format(folder=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as run:
        try:
            assert run.stdout
            child = Path(f"/proc/{int(run.stdout.readline())}/cmdline")
            with Lab():
                assert len(names(run.pid)) == 3, "its owner lives"
            assert b"sleep" in child.read_bytes()
        finally:
            run.kill()
    with Lab():
        assert names(run.pid) == set()
    # Nobody of ours has to reap it: its entry may stay, empty.
    assert not child.exists() or not child.read_bytes()


def test_two_networks_at_once_do_not_meet(lab: Lab) -> None:
    with Lab() as other:
        one, stranger = lab.host("one"), other.host("stranger")
        lab.host("two")
        other.host("two")
        assert one.address == stranger.address
        lab.readdress(one)
        assert not reaches(one, stranger)


def test_a_command_that_fails_says_how(lab: Lab) -> None:
    with pytest.raises(AssertionError, match=r"ip -n .* ended with 1: .*nonsense"):
        lab.host("host").space.ip("nonsense")
