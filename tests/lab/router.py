"""A router that maps ports for the hosts behind it: the real ``miniupnpd``, on the router of a site."""

import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

from harness import until
from lab import LAN, Site

DAEMON: Final = "miniupnpd"
PACKAGE: Final = "miniupnpd-nftables"

RULES: Final = """
table inet upnp {
  chain mapped { }
  chain allowed { }
  chain leaving { }
  chain arriving {
    type nat hook prerouting priority -100
    jump mapped
  }
}
insert rule ip firewall through ct status dnat accept
"""
"""Where the daemon writes its mappings; what it has mapped is let through."""


def reason_no_daemon() -> str:
    """Say why there can be no such router here; empty when there can."""
    return "" if shutil.which(DAEMON) else f"a router that maps ports needs the Debian package {PACKAGE}"


class MappingRouter:
    """The daemon of a site's router. ``pmp`` and ``upnp``: what it speaks (PCP comes with NAT-PMP)."""

    def __init__(self, site: Site, folder: Path, *, pmp: bool = True, upnp: bool = False) -> None:
        self.site = site
        self._space = site.router.space
        self._space.nft(RULES)
        self._file = folder / "miniupnpd.conf"
        leases = folder / "leases"
        leases.touch()
        lan = LAN.format(site.number, 0)
        settings = {
            "ext_ifname": site.router.device,
            "listening_ip": "br0",
            "enable_natpmp": "yes" if pmp else "no",
            "enable_upnp": "yes" if upnp else "no",
            "secure_mode": "yes",
            "http_port": "5000",
            "lease_file": str(leases),
            "upnp_table_name": "upnp",
            "upnp_nat_table_name": "upnp",
            "upnp_forward_chain": "allowed",
            "upnp_nat_chain": "mapped",
            "upnp_nat_postrouting_chain": "leaving",
            "uuid": str(uuid.UUID(int=site.number)),
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines += [f"allow 1024-65535 {lan}/24 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535"]
        self._file.write_text("\n".join(lines) + "\n")
        self._log = folder / "miniupnpd.log"
        port = 5351 if pmp else 1900
        words = (DAEMON, "-d", "-f", str(self._file), "-P", str(folder / "miniupnpd.pid"))
        with self._log.open("wb") as log:
            self._process = self._space.call(
                lambda: subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            )
        until(lambda: f":{port} " in self._space.run("ss", "-Hlun"), "the router can be asked")

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def mappings(self) -> list[str]:
        """Return the rules by which others are let in, as the kernel has them."""
        rules = self._space.run("nft", "list", "chain", "inet", "upnp", "mapped")
        return [line.strip() for line in rules.splitlines() if "dnat" in line]
