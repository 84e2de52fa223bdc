"""Keeps web pages off the loopback interface: DNS rebinding (Host) and cross-site requests (Origin)."""

import ipaddress
from collections.abc import Collection, Mapping
from typing import Any, Final

from tetherd.errors import Forbidden, InvalidInput

_REMEMBERED: Final = 1024


class Guard:
    """Decides whether a request's Host and Origin are those of a program or page on this machine."""

    def __init__(self, allowed_hosts: Collection[str]) -> None:
        self._allowed = {host.lower() for host in allowed_hosts}
        self._good: set[bytes] = set()

    def check(self, headers: Mapping[bytes, bytes], scope: Mapping[str, Any]) -> None:
        """Raise Forbidden for a foreign Host or Origin, InvalidInput for a missing or doubled Host.

        Who reaches the control socket is a program of this machine: any Host does there.
        """
        host = headers.get(b"host")
        if host not in self._good and not (scope.get("state") or {}).get("control"):
            self._check_host(host)
        if len(headers) != len(scope["headers"]) and [name for name, _ in scope["headers"]].count(b"host") > 1:
            raise InvalidInput("the request has more than one Host header")
        origin = headers.get(b"origin")
        if origin is not None and (
            not host or origin.lower() not in (b"http://" + host.lower(), b"https://" + host.lower())
        ):
            raise Forbidden("requests from web pages of another origin are refused", fix="call from a program instead")

    def _check_host(self, host: bytes | None) -> None:
        if host is None:
            raise InvalidInput("the request has no Host header")
        if not self._is_local(host.decode("latin-1").lower()):
            raise Forbidden(
                "the Host header does not name this gateway",
                fix="use a loopback address, or add the name to gateway.allowed_hosts",
            )
        if len(self._good) < _REMEMBERED:
            self._good.add(host)

    def _is_local(self, host: str) -> bool:
        name, port = _split(host)
        if port and not (port.isascii() and port.isdigit()):
            return False
        if name in self._allowed or host in self._allowed or name == "localhost":
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _split(host: str) -> tuple[str, str]:
    """Split host and port; an IPv6 address is in brackets."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        return (name, rest.removeprefix(":")) if bracket else ("", "")
    name, _, port = host.partition(":")
    return name, port
