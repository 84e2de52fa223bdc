"""A network of namespaces: a wide area, public hosts on it, and sites behind NAT; and everything that can befall them.

The wide area is one switch without multicast. Public hosts have addresses that count as global, since software rightly
treats the ranges kept for documentation as unreachable; nothing leaves the namespaces. What is addressed to nowhere
vanishes without an answer, as it does on the Internet.
"""

import fcntl
import itertools
import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self

from emulator import Conditions, Link
from faults import PACKETS, Fault, Port, addressed, share_of, table, together, traffic
from namespaces import Namespace, command, named, sweep

Nat = Literal["cone", "symmetric"]

WIDE: Final = "11.1.0.{}"
WIDE6: Final = "2600:11::{}"
LAN: Final = "10.{}.0.{}"
INTERNET: Final = "internet"
NOWHERE: Final = 254
"""The last part of the address that everything without a better route is sent to, and that forwards nothing."""

MAPPING: Final = {"cone": "to :61000-65535", "symmetric": "random,fully-random"}
"""How a router picks the outer port: one for each inner one, for as long as it remembers; or one for each connection.

The ports of a cone are none that a host would have itself: those it would keep, also after it has forgotten them.
"""

_TUNSETIFF: Final = 0x400454CA
_TAP_NO_PI: Final = 0x1002

_serials = itertools.count(1)


@dataclass(eq=False)
class Host:
    """A host as a test sees it: a namespace, plugged in somewhere."""

    name: str
    space: Namespace
    device: str
    port: Port
    addresses: list[str]
    gateway: str
    site: "Site | None" = None
    link: Link | None = None

    @property
    def address(self) -> str:
        """The IPv4 address, as seen on its own switch."""
        return self.addresses[0]

    @property
    def address6(self) -> str:
        """The IPv6 address; only hosts on the wide area have one."""
        return self.addresses[1]

    def known_to(self, other: "Host") -> bool:
        """Tell whether another host sees this one's own address, not that of a router."""
        return self.site is None or self.site is other.site

    def keepalive(self, idle: int, interval: int, probes: int) -> None:
        """Set after how many seconds TCP probes a silent peer, how often, and how many times."""
        self.space.sysctl(
            ipv4__tcp_keepalive_time=idle, ipv4__tcp_keepalive_intvl=interval, ipv4__tcp_keepalive_probes=probes
        )

    def configure(self) -> None:
        """Give the device its addresses, and nothing else."""
        prefixes = [f"{one}/64 nodad" if ":" in one else f"{one}/24" for one in self.addresses]
        self.space.ip(
            f"addr flush dev {self.device} scope global",
            f"link set {self.device} up",
            *(f"addr add {prefix} dev {self.device}" for prefix in prefixes),
            f"route replace default via {self.gateway}",
        )


@dataclass(eq=False)
class Site:
    """A LAN behind a router that translates addresses."""

    lab: "Lab"
    number: int
    nat: Nat
    router: Host
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(2))

    def host(self, name: str, link: Conditions | None = None) -> Host:
        """Plug a new host into the LAN."""
        address = LAN.format(self.number, next(self._numbers))
        gateway = LAN.format(self.number, 1)
        return self.lab.plug(name, self.router.space, [address], gateway=gateway, site=self, link=link)

    def rebind(self) -> None:
        """Forget every mapping: what goes out next gets another port, and what comes back to the old one is lost."""
        self.router.space.run("conntrack", "-F")

    def forget_after(self, seconds: int) -> None:
        """Forget the mappings of UDP after so much silence; 30 s is usual."""
        self.router.space.sysctl(
            netfilter__nf_conntrack_udp_timeout=seconds, netfilter__nf_conntrack_udp_timeout_stream=seconds
        )


class Lab:
    """Builds a network, breaks it, and takes it down at the end."""

    def __init__(self) -> None:
        self._serial = next(_serials)
        self._numbers = itertools.count(1)
        self._lans = itertools.count(1)
        self._faults = itertools.count(1)
        self._end = ExitStack()

    def __enter__(self) -> Self:
        sweep()
        try:
            self._wide = self._space("wide")
            self._bridge(self._wide, WIDE.format(NOWHERE))
            self._wide.nft(table(INTERNET, "p-*", [traffic("multicast")], []))
        except BaseException:
            self._end.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.close()

    # --- build -------------------------------------------------------------------------------------------------------

    def host(self, name: str, link: Conditions | None = None) -> Host:
        """Plug a new public host into the wide area; ``link``: over an emulated link, which is slower."""
        return self.plug(name, self._wide, self.elsewhere(), gateway=WIDE.format(NOWHERE), link=link)

    def site(self, name: str, nat: Nat = "cone", link: Conditions | None = None) -> Site:
        """Return a new LAN behind a router of its own, which lets nothing in that was not asked for."""
        router = self.host(f"{name}-router", link=link)
        number = next(self._lans)
        self._bridge(router.space, LAN.format(number, 1))
        router.space.sysctl(ipv4__ip_forward=1)
        router.space.nft(_routing(MAPPING[nat]))
        return Site(self, number, nat, router)

    def plug(
        self,
        name: str,
        switch: Namespace,
        addresses: list[str],
        *,
        gateway: str,
        site: Site | None = None,
        link: Conditions | None = None,
    ) -> Host:
        """Make a host and connect it to a switch."""
        space = self._space(name)
        port, device = Port(switch, f"p-{space.name.rpartition('.')[2]}"[:15]), "net0"
        emulated = self._emulate(port, space, device) if link else None
        if emulated is None:
            switch.ip(f"link add name {port.device} type veth peer name {device} netns {space.name}")
        switch.ip(f"link set {port.device} master br0 up")
        host = Host(name, space, device, port, addresses, gateway, site, emulated)
        host.configure()
        if emulated and link:
            emulated.both(link)
        return host

    def _emulate(self, port: Port, space: Namespace, device: str) -> Link:
        near = space.call(lambda: _tap(device))
        far = port.switch.call(lambda: _tap(port.device))
        link = Link(near, far)
        self._end.callback(link.end)
        return link

    def _space(self, name: str) -> Namespace:
        space = named(self._serial, name).make()
        self._end.callback(space.end)
        return space

    def _bridge(self, space: Namespace, address: str) -> None:
        # A switch that learns who wants which multicast loses the first packets of everyone.
        space.ip(
            "link add name br0 type bridge mcast_snooping 0 forward_delay 0",
            f"addr add {address}/24 dev br0",
            "link set br0 up",
        )

    def elsewhere(self) -> list[str]:
        """Return addresses of the wide area that nobody has, and nobody will get."""
        number = next(self._numbers)
        return [WIDE.format(number), WIDE6.format(number)]

    def neighbours(self) -> None:
        """Let multicast pass between public hosts, as if they were in one building."""
        self._wide.nft(f"delete table bridge {INTERNET}\n")

    # --- break -------------------------------------------------------------------------------------------------------

    def fault(self, port: Port, *, leaving: Sequence[str] = (), arriving: Sequence[str] = ()) -> Fault:
        """Drop what matches, of what leaves a host or reaches it; the expressions are those of ``nft``."""
        name = f"fault{next(self._faults)}"
        port.switch.nft(table(name, port.device, leaving, arriving))
        return Fault([lambda: port.switch.nft(f"delete table bridge {name}\n")])

    def loss(self, host: Host, share: float) -> Fault:
        """Lose that share of all packets of a host, in either direction."""
        match = share_of(share)
        return self.fault(host.port, leaving=[match], arriving=[match])

    def off(self, hosts: Sequence[Host], protocol: str, port: int = 0) -> Fault:
        """Let hosts neither send nor get ``udp``, ``tcp`` or ``multicast``, or only nothing to one port of it."""
        match = traffic(protocol, port)
        return together(self.fault(host.port, leaving=[match], arriving=[match]) for host in hosts)

    def unplug(self, host: Host) -> Fault:
        """Cut a host off from everything, without it noticing: its device stays up."""
        return self.fault(host.port, leaving=[PACKETS], arriving=[PACKETS])

    def mute(self, source: Host, target: Host) -> Fault:
        """Let the target hear nothing of the source any more; the other way stays as it is.

        Of hosts behind two different routers, everyone else at the source's site is muted too: from there, they look
        the same.
        """
        if not source.known_to(target) and target.known_to(source):
            return self.fault(source.port, leaving=[addressed("daddr", one) for one in target.addresses])
        seen = source if source.site is None or source.known_to(target) else source.site.router
        return self.fault(target.port, arriving=[addressed("saddr", one) for one in seen.addresses])

    def partition(self, left: Sequence[Host], right: Sequence[Host]) -> Fault:
        """Let no packet pass between two groups, until it heals."""
        pairs = [pair for one in left for other in right for pair in ((one, other), (other, one))]
        return together(self.mute(source, target) for source, target in pairs)

    def rate(self, host: Host, bits: int) -> Fault:
        """Limit a host to so many bits a second, in either direction."""
        ends = [(host.space, host.device), (host.port.switch, host.port.device)]
        for space, device in ends:
            shape = ["tbf", "rate", f"{bits}bit", "burst", "16kb", "latency", "50ms"]
            command("tc", "-n", space.name, "qdisc", "add", "dev", device, "root", *shape)

        def heal() -> None:
            for space, device in ends:
                command("tc", "-n", space.name, "qdisc", "del", "dev", device, "root")

        return Fault([heal])

    def readdress(self, host: Host, addresses: Sequence[str] = ()) -> str:
        """Give a host (a router, too) another address in the place of its old one, and return it.

        ``addresses``: those to give a public host, of ``elsewhere``; any otherwise.
        """
        inside = [LAN.format(host.site.number, next(host.site._numbers))] if host.site else self.elsewhere()
        host.addresses = list(addresses) or inside
        host.configure()
        return host.address


def _routing(mapping: str) -> str:
    return f"""
table ip nat {{
  chain leaving {{
    type nat hook postrouting priority 100
    oifname "net0" meta l4proto {{ tcp, udp }} masquerade {mapping}
    oifname "net0" masquerade
  }}
}}
table ip firewall {{
  chain through {{
    type filter hook forward priority 0; policy drop
    ct state established,related accept
    iifname "br0" accept
  }}
  chain inbound {{
    type filter hook input priority 0
    iifname "net0" ct state new drop
  }}
}}
"""


def _tap(name: str) -> int:
    """Make a TAP device where this is called, and return its descriptor: the device ends with it."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_NO_PI))
    return descriptor
