"""Asks the router in front of this host to lead ports to it, for as long as the daemon runs.

Never listens to anybody but that router, and never raises: a host whose router refuses is reached in other ways.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import msgspec

from tetherd.discovery.addresses import Address
from tetherd.discovery.mapping import Mapper, Report, Want
from tetherd.errors import InvalidInput
from tetherd.ports import Clock
from tetherd.types import Seconds
from tetherd.wire.portmapping import MAX_ANSWER, PORT, Ask, Method, decode, encode

LOOK: Final[Seconds] = 30.0
"""How often it is looked whether there is another router by now."""

GOODBYE: Final[Mapping[Method, Seconds]] = {"pcp": 1.0, "nat-pmp": 1.0, "upnp": 4.0}
"""How long the router may take to end the mappings; those it does not end run out by themselves."""

PACE: Final[Seconds] = 0.005
"""From one answer to the next: a router that sends without end gets no more of this process."""

_ROUTES: Final = Path("/proc/net/route")
_GATEWAY: Final = 0x0002
_log = logging.getLogger("tetherd.mapping")


def installed() -> tuple[Method, ...]:
    """Return the ways to ask a router: UPnP is only one where the library for it is installed."""
    return ("pcp", "nat-pmp", "upnp") if importlib.util.find_spec("async_upnp_client") else ("pcp", "nat-pmp")


def default_router() -> str:
    """Return the address that everything without a better route goes to, over IPv4; empty if there is none."""
    try:
        return read_routes(_ROUTES.read_text())
    except OSError:
        return ""


def read_routes(text: str) -> str:
    """Return the router of the best default route in the kernel's table; empty if there is none."""
    rows = [line.split() for line in text.splitlines()[1:]]
    found = [
        (int(row[6]), str(IPv4Address(int(row[2], 16).to_bytes(4, "little"))))
        for row in rows
        if len(row) >= 8 and row[1] == row[7] == "00000000" and int(row[3], 16) & _GATEWAY
    ]
    return min(found)[1] if found else ""


class PortMapping:
    """Has ``wants`` mapped. ``changed`` is called whenever ``places`` returns something else.

    ``methods``: the ways to ask, in this order. ``router`` says where the router is, empty where there is none.
    """

    def __init__(
        self,
        wants: Sequence[Want],
        clock: Clock,
        *,
        changed: Callable[[], None],
        methods: Sequence[Method],
        router: Callable[[], str] = default_router,
    ) -> None:
        self._wants = wants
        self._clock = clock
        self._changed = changed
        self._methods = methods
        self._find = router
        self._mapper: Mapper | None = None
        self._fault = ""
        self._known: dict[str, Address] = {}

    def places(self) -> dict[str, Address]:
        """Return by service where others reach this host through the router."""
        return self._mapper.places(self._clock.monotonic()) if self._mapper else {}

    def report(self) -> Report:
        """Return what was asked of which router, and what came of it."""
        found = self._mapper.report(self._clock.monotonic()) if self._mapper else Report()
        return msgspec.structs.replace(found, fault=self._fault)

    async def run(self, ready: Callable[[], None]) -> None:
        """Have the ports mapped until cancelled; then have the mappings ended."""
        ready()
        while True:
            router = self._find()
            if not router:
                self._fault = "this host has no route to a router over IPv4"
            else:
                try:
                    await self._ask(router)
                except OSError as error:
                    self._fault = f"the router at {router} cannot be asked: {error.strerror or error}"
            await asyncio.sleep(LOOK if self._fault else 0)

    async def _ask(self, router: str) -> None:
        """Ask one router, until there is another one or this host has another address."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.setblocking(False)
            link.connect((router, PORT))  # from here on the kernel passes on nothing that others send
            me = link.getsockname()[0]
            mapper = self._mapper = Mapper(router, me, self._wants, self._methods, os.urandom)
            self._fault = ""
            try:
                while self._find() == router and _own_address(router) == me:
                    await self._converse(link, router, mapper, self._clock.monotonic() + LOOK)
            finally:
                await self._release(link, router, mapper)
                self._mapper = None
                self._tell()

    async def _converse(self, link: socket.socket, router: str, mapper: Mapper, until: Seconds) -> None:
        while (now := self._clock.monotonic()) < until:
            await self._send(link, router, mapper, mapper.due(now))
            if mapper.settled:
                self._tell()
            await self._listen(link, mapper, min(mapper.wake(), until) - self._clock.monotonic())

    async def _send(self, link: socket.socket, router: str, mapper: Mapper, asks: Sequence[Ask]) -> None:
        if asks and asks[0].method == "upnp":
            from tetherd.drivers.discovery import upnp  # it brings an HTTP client along, for the few who need it

            for answer in await upnp.ask(router, asks):
                mapper.hear(answer, self._clock.monotonic())
            return
        for ask in asks:
            with contextlib.suppress(OSError):  # what is lost is asked again
                link.send(encode(ask))

    async def _listen(self, link: socket.socket, mapper: Mapper, patience: Seconds) -> None:
        """Take in one answer, if one comes in time."""
        try:
            async with asyncio.timeout(max(0.0, patience)):
                data = await asyncio.get_running_loop().sock_recv(link, MAX_ANSWER + 1)
            mapper.hear(decode(data), self._clock.monotonic())
        except InvalidInput:
            mapper.spoilt()
        except OSError:  # nobody listens there, or it is out of reach for now; or the time is up
            return
        await asyncio.sleep(PACE)

    async def _release(self, link: socket.socket, router: str, mapper: Mapper) -> None:
        asks, patience = mapper.release(self._clock.monotonic()), GOODBYE[mapper.method]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._send(link, router, mapper, asks)
                for _ in asks if mapper.method != "upnp" else ():
                    await self._listen(link, mapper, patience)

    def _tell(self) -> None:
        places = self.places()
        if places != self._known:
            self._known = places
            _log.info("ports are mapped", extra={"places": {name: str(place) for name, place in places.items()}})
            self._changed()


def _own_address(router: str) -> str:
    """Return the address from which this host speaks to the router."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((router, PORT))
        return str(probe.getsockname()[0])
