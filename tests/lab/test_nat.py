"""Routers: which outer port a host gets, and what forgets it."""

import pytest
from lab import Host, Lab, Site
from probes import drain, seen_as, udp


def outer(lab: Lab, site: Site, servers: list[Host]) -> list[int]:
    """Return the ports that two servers see of one socket at a site."""
    with udp(site.host("inside")) as sender:
        ports = []
        for server in servers:
            with udp(server) as receiver:
                ports.append(seen_as(sender, server, receiver)[1])
        return ports


def test_a_cone_shows_every_server_the_same_port(lab: Lab) -> None:
    first, second = outer(lab, lab.site("home", "cone"), [lab.host("one"), lab.host("two")])
    assert first == second


def test_a_symmetric_router_shows_each_server_another_port(lab: Lab) -> None:
    servers = [lab.host(f"server{number}") for number in range(4)]
    assert len(set(outer(lab, lab.site("office", "symmetric"), servers))) > 1


def test_hosts_behind_one_cone_have_ports_of_their_own(lab: Lab) -> None:
    server, home = lab.host("server"), lab.site("home")
    with udp(server) as receiver, udp(home.host("a"), 4000) as one, udp(home.host("b"), 4000) as other:
        assert seen_as(one, server, receiver) != seen_as(other, server, receiver)


def punched(lab: Lab, left: Site, right: Site) -> bool:
    """Tell whether two hosts behind routers reach each other, knowing what a server in public sees of them."""
    server = lab.host("server")
    with udp(server) as receiver, udp(left.host("left-host")) as one, udp(right.host("right-host")) as other:
        ends = [(one, seen_as(one, server, receiver)), (other, seen_as(other, server, receiver))]
        for _ in range(2):
            one.sendto(b"hello", ends[1][1])
            other.sendto(b"hello", ends[0][1])
        return bool(drain(one)) and bool(drain(other))


def test_holes_can_be_punched_between_cones(lab: Lab) -> None:
    assert punched(lab, lab.site("home"), lab.site("flat"))


def test_no_hole_leads_from_a_symmetric_router_to_another(lab: Lab) -> None:
    assert not punched(lab, lab.site("office", "symmetric"), lab.site("works", "symmetric"))


def test_rebinding_gives_another_port_and_loses_answers_to_the_old_one(lab: Lab) -> None:
    server, home = lab.host("server"), lab.site("home")
    with udp(server) as receiver, udp(home.host("inside")) as sender:
        before = seen_as(sender, server, receiver)
        home.rebind()
        receiver.sendto(b"late", before)
        assert drain(sender) == []
        after = seen_as(sender, server, receiver)
        assert before[0] == after[0]
        assert before[1] != after[1]
        receiver.sendto(b"again", after)
        assert drain(sender) == [b"again"]


def test_rebinding_breaks_established_connections(lab: Lab) -> None:
    server, home = lab.host("server"), lab.site("home")
    with server.space.socket() as listener, home.host("inside").space.socket() as client:
        listener.bind((server.address, 7000))
        listener.listen()
        client.connect((server.address, 7000))
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"one")
            assert accepted.recv(64) == b"one"
            home.rebind()
            client.sendall(b"two")
            # From the new port the server knows no connection, and says so.
            with pytest.raises(ConnectionResetError):
                client.recv(64)


def test_a_router_forgets_silent_mappings_as_soon_as_it_is_told(lab: Lab) -> None:
    server, home = lab.host("server"), lab.site("home")
    home.forget_after(1)
    with udp(server) as receiver, udp(home.host("inside")) as sender:
        address = seen_as(sender, server, receiver)
        receiver.sendto(b"soon", address)
        assert sender.recv(64) == b"soon"
        assert drain(sender, 1.2) == []
        receiver.sendto(b"late", address)
        assert drain(sender) == []
