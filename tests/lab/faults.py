"""What can go wrong between hosts: rules at the switch ports, so that no host's own network notices a cause."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from namespaces import Namespace

PACKETS: Final = "meta protocol { ip, ip6 } meta l4proto != ipv6-icmp"
"""Every packet, but not what hosts ask their switch to find each other: that would take a second to heal."""


@dataclass(frozen=True)
class Port:
    """Where a host is plugged in: a device of its switch."""

    switch: Namespace
    device: str


@dataclass
class Fault:
    """Something that was broken, and how it heals; as a context it heals at the end."""

    cures: list[Callable[[], None]] = field(default_factory=list)

    def heal(self) -> None:
        while self.cures:
            self.cures.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.heal()


def together(faults: Iterable[Fault]) -> Fault:
    """Return several faults as one."""
    return Fault([cure for fault in faults for cure in fault.cures])


def table(name: str, device: str, leaving: Iterable[str], arriving: Iterable[str]) -> str:
    """Return the rules that drop matching frames which leave or reach the host plugged in at a device."""
    out = "".join(f'    iifname "{device}" {match} drop\n' for match in leaving)
    into = "".join(f'    oifname "{device}" {match} drop\n' for match in arriving)
    return (
        f"table bridge {name} {{\n"
        f"  chain leaving {{\n    type filter hook prerouting priority 0\n{out}  }}\n"
        f"  chain arriving {{\n    type filter hook postrouting priority 0\n{into}  }}\n"
        f"}}\n"
    )


def share_of(share: float) -> str:
    """Match that share of all packets, by chance."""
    return f"{PACKETS} numgen random mod 1000000 < {round(share * 1_000_000)}"


def traffic(protocol: str, port: int = 0) -> str:
    """Match what goes to a protocol (``udp``, ``tcp``, ``multicast``), or to one of its ports.

    Answers that come back from the port are not matched: nothing asked, nothing answers.
    """
    if protocol == "multicast":
        return "meta pkttype multicast meta l4proto udp"
    return f"meta l4proto {protocol} th dport {port}" if port else f"meta l4proto {protocol}"


def addressed(field_name: str, address: str) -> str:
    """Match frames by an address; ``field_name`` is ``saddr`` or ``daddr``."""
    return f"{'ip6' if ':' in address else 'ip'} {field_name} {address}"
