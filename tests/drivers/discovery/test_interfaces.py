import ipaddress

from tetherd.drivers.discovery.interfaces import own_addresses


def test_addresses_are_those_that_others_can_reach() -> None:
    found = own_addresses()
    assert len(set(found)) == len(found) <= 8
    for text in found:
        address = ipaddress.ip_address(text)
        assert not any((address.is_loopback, address.is_link_local, address.is_multicast, address.is_unspecified))
