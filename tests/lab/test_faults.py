"""What befalls packets between hosts, and that it ends when it heals."""

import socket
import threading
import time

import pytest
from faults import table
from lab import Host, Lab
from probes import reaches, stream

COUNT = 2000


def test_rules_name_the_port_and_the_direction() -> None:
    made = table("fault1", "p-a", ["ip daddr 11.1.0.2"], ["ip saddr 11.1.0.2"])
    assert 'iifname "p-a" ip daddr 11.1.0.2 drop' in made
    assert 'oifname "p-a" ip saddr 11.1.0.2 drop' in made


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_loss_is_what_was_told(lab: Lab, share: float) -> None:
    one, other = lab.host("one"), lab.host("other")
    assert len(stream(one, other, COUNT)) == COUNT
    with lab.loss(one, share):
        for source, target in ((one, other), (other, one)):
            lost = 1 - len(stream(source, target, COUNT)) / COUNT
            # Six standard deviations: wrong by chance once in 500 million runs.
            assert abs(lost - share) < 6 * (share * (1 - share) / COUNT) ** 0.5
    assert len(stream(one, other, COUNT)) == COUNT


def test_a_partition_parts_groups_and_nobody_within_them(lab: Lab) -> None:
    hosts = [lab.host(f"host{number}") for number in range(4)]
    with lab.partition(hosts[:2], hosts[2:]):
        for left in hosts[:2]:
            for right in hosts[2:]:
                assert not reaches(left, right)
                assert not reaches(right, left, family=socket.AF_INET6)
        assert reaches(hosts[0], hosts[1])
        assert reaches(hosts[2], hosts[3])
    assert reaches(hosts[0], hosts[3])
    assert reaches(hosts[3], hosts[0], family=socket.AF_INET6)


def test_one_host_of_a_site_is_parted_from_a_server_and_its_neighbour_is_not(lab: Lab) -> None:
    server, home = lab.host("server"), lab.site("home")
    cut, neighbour = home.host("cut"), home.host("neighbour")
    for left, right in (([cut], [server]), ([server], [cut])):
        with lab.partition(left, right):
            assert not reaches(cut, server)
            assert reaches(neighbour, server)
            assert reaches(cut, neighbour)
        assert reaches(cut, server)
    with lab.partition([cut], [neighbour]):
        assert not reaches(neighbour, cut)
        assert reaches(cut, server)


def test_a_sender_does_not_notice_that_nothing_arrives(lab: Lab) -> None:
    one, other = lab.host("one"), lab.host("other")
    with lab.unplug(one):
        assert stream(one, other, 100) == []
        assert stream(other, one, 100) == []
    assert reaches(one, other)


def test_muting_has_one_direction(lab: Lab) -> None:
    server, inside = lab.host("server"), lab.site("home").host("inside")
    other = lab.host("other")
    with lab.mute(server, other):
        assert not reaches(server, other)
        assert reaches(other, server)
    with lab.mute(inside, server):
        assert not reaches(inside, server)
        assert reaches(other, server)


def dial(source: Host, target: Host, port: int, patience: float = 0.3) -> bool:
    """Tell whether a connection comes about in time."""
    with target.space.socket() as listener, source.space.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((target.address, port))
        listener.listen()
        client.settimeout(patience)
        try:
            client.connect((target.address, port))
        except TimeoutError:
            return False
        return True


def test_protocols_and_ports_can_be_switched_off(lab: Lab) -> None:
    one, other = lab.host("one"), lab.host("other")
    with lab.off([one], "udp"):
        assert not reaches(one, other)
        assert not reaches(other, one)
        assert dial(one, other, 7443)
    with lab.off([one], "tcp", 7443):
        assert not dial(one, other, 7443)
        assert not dial(other, one, 7443)
        assert dial(one, other, 7444)
        assert reaches(one, other)
    with lab.off([one], "udp", 7443):
        assert not reaches(one, other, port=7443)
        assert not reaches(other, one, port=7443)
        assert reaches(one, other, port=7444)
    assert dial(one, other, 7443)
    assert reaches(other, one)


def bits_per_second(source: Host, target: Host, size: int) -> float:
    with target.space.socket() as listener, source.space.socket() as client:
        listener.bind((target.address, 0))
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()

        def send() -> None:
            client.sendall(bytes(size))
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        with accepted:
            began, got = time.monotonic(), 0
            sender.start()
            while data := accepted.recv(65536):
                got += len(data)
            took = time.monotonic() - began
            sender.join()
    assert got == size
    return got * 8 / took


def test_a_rate_holds_in_both_directions(lab: Lab) -> None:
    one, other = lab.host("one"), lab.host("other")
    told = 16_000_000
    with lab.rate(one, told):
        for source, target in ((one, other), (other, one)):
            assert 0.5 * told < bits_per_second(source, target, 500_000) < 1.5 * told
    assert bits_per_second(one, other, 5_000_000) > 4 * told


def test_faults_add_up_and_heal_one_by_one(lab: Lab) -> None:
    one, other = lab.host("one"), lab.host("other")
    first, second = lab.unplug(one), lab.partition([one], [other])
    first.heal()
    assert not reaches(one, other)
    second.heal()
    second.heal()
    assert reaches(one, other)
