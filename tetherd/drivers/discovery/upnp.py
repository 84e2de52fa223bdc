"""Has a router map ports by UPnP (Internet Gateway Device). Imported only where the extra ``upnp`` is installed.

Speaks to the router alone, whatever address its description names, and reads a bounded amount of what it says.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from ipaddress import IPv4Address
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from aiohttp import ClientSession, ClientTimeout
from async_upnp_client.client import UpnpRequester, UpnpService
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.const import HttpRequest, HttpResponse
from async_upnp_client.exceptions import UpnpActionError
from async_upnp_client.search import SsdpSearchListener
from async_upnp_client.utils import CaseInsensitiveDict

from tetherd.errors import Unavailable
from tetherd.types import Seconds
from tetherd.wire.portmapping import Answer, Ask

SEARCH: Final[Seconds] = 3.0
PATIENCE: Final[Seconds] = 20.0
"""For everything that is asked at a time, the search included."""

ONE: Final[Seconds] = 5.0
MAX_BODY: Final = 256 * 1024
MAX_REQUESTS: Final = 64
"""Requests of one round; a description names as many documents as it likes."""

_DEVICE: Final = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
_SERVICES: Final = ("urn:schemas-upnp-org:service:WANIPConnection:", "urn:schemas-upnp-org:service:WANPPPConnection:")
_NAME: Final = "Tether"
_MX: Final = 1
_REFUSALS: Final = {
    606: "it does not allow this host to map ports",
    718: "another host has this port",
    725: "it maps ports for ever only, which would outlive this daemon",
}


Search: TypeAlias = Callable[[str, str], Coroutine[Any, Any, str]]
"""Finds where a router describes itself, from an address of this host. Raises Unavailable."""


async def ask(router: str, asks: Sequence[Ask], search: Search | None = None) -> list[Answer]:
    """Ask a router, and return an answer for each; one for all of them where it does not speak UPnP. Never raises.

    ``search``: how it is found; None = by multicast.
    """
    found: list[Answer] = []
    try:
        async with asyncio.timeout(PATIENCE), _service(router, asks[0].me, search or _search) as service:
            external = await _outside(service)
            for one in asks:
                found.append(await _map(service, one, external))  # noqa: PERF401  what is granted so far is kept
    except Unavailable as error:
        return found or [Answer(method="upnp", refused=error.message, unsupported=True)]
    except Exception as error:  # what the library meets in a document that a router made up may be anything
        why = f"it does not answer as UPnP wants it: {type(error).__name__}"
        return found or [Answer(method="upnp", refused=why, unsupported=True)]
    return found


@contextlib.asynccontextmanager
async def _service(router: str, me: str, search: Search) -> AsyncIterator[UpnpService]:
    """Yield the service of the router that maps ports. Raises Unavailable, UpnpError."""
    location = await search(router, me)
    # Nothing is unpacked: what a few bytes unfold to is not bounded by their number.
    async with ClientSession(timeout=ClientTimeout(total=ONE), auto_decompress=False) as session:
        device = await UpnpFactory(_Requester(session, router), non_strict=True).async_create_device(location)
        services = [each for each in device.all_services if each.service_type.startswith(_SERVICES)]
        if not services:
            raise Unavailable("it does not map ports by UPnP")
        yield services[0]


async def _search(router: str, me: str) -> str:
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def hear(headers: CaseInsensitiveDict) -> None:
        location = str(headers.get("location", ""))
        # Anybody on the network may answer a search; only what the router says of itself is looked at.
        if headers.get("_host") == router and _leads_to(location, router) and not found.done():
            found.set_result(location)

    listener = SsdpSearchListener(callback=hear, source=(me, 0), timeout=_MX, search_target=_DEVICE)
    listener.connect_callback = listener.async_search
    try:
        await listener.async_start()
        async with asyncio.timeout(SEARCH):
            return await found
    except TimeoutError:
        raise Unavailable("it does not answer") from None
    finally:
        listener.async_stop()


async def _outside(service: UpnpService) -> str:
    said = await service.action("GetExternalIPAddress").async_call()
    try:
        return str(IPv4Address(str(said["NewExternalIPAddress"])))
    except (KeyError, ValueError):
        return ""


async def _map(service: UpnpService, one: Ask, external: str) -> Answer:
    refused = ""
    outside: dict[str, Any] = {"NewRemoteHost": "", "NewExternalPort": one.outer, "NewProtocol": one.transport.upper()}
    try:
        if one.lifetime:
            await service.action("AddPortMapping").async_call(
                **outside,
                NewInternalPort=one.inner,
                NewInternalClient=one.me,
                NewEnabled=True,
                NewPortMappingDescription=_NAME,
                NewLeaseDuration=one.lifetime,
            )
        else:
            await service.action("DeletePortMapping").async_call(**outside)
    except UpnpActionError as error:
        refused = _REFUSALS.get(error.error_code or 0, f"error {error.error_code}")
    return Answer(
        method="upnp",
        transport=one.transport,
        inner=one.inner,
        outer=one.outer,
        external=external,
        lifetime=one.lifetime,
        refused=refused,
    )


class _Requester(UpnpRequester):
    """Fetches what the library asks for, if it is the router's; so much and no more."""

    def __init__(self, session: ClientSession, router: str) -> None:
        self._session = session
        self._router = router
        self._left = MAX_REQUESTS

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        """Make one request. Raises Unavailable for what is not the router's, and for too much."""
        self._left -= 1
        if not _leads_to(http_request.url, self._router):
            raise Unavailable("its description leads to another host")
        if self._left < 0:
            raise Unavailable("its description has no end")
        async with self._session.request(
            http_request.method,
            http_request.url,
            headers=http_request.headers,
            data=http_request.body,
            allow_redirects=False,
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY:
                    raise Unavailable("its description has no end")
            return HttpResponse(response.status, response.headers, body.decode(errors="replace"))


def _leads_to(url: str, host: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and parts.hostname == host
    except ValueError:
        return False
