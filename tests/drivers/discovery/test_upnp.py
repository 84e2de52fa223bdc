"""What is fetched of a router by UPnP, and what is not: the search and the mapping themselves are proven in ``lab``."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("async_upnp_client", reason="the extra upnp is not installed")

from aiohttp import ClientSession
from async_upnp_client.const import HttpRequest

from tetherd.drivers.discovery import upnp
from tetherd.errors import Unavailable
from tetherd.wire.portmapping import Answer, Ask

HERE = "127.0.0.1"
ASK = Ask(method="upnp", me=HERE, inner=7443, outer=7443, lifetime=600)
END = Ask(method="upnp", me=HERE, inner=7443, outer=7443)

DEVICE = """<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><friendlyName>r</friendlyName>
<manufacturer>m</manufacturer><modelName>m</modelName><UDN>uuid:1</UDN><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><serviceId>urn:upnp-org:serviceId:W</serviceId>
<SCPDURL>{scpd}</SCPDURL><controlURL>/control</controlURL><eventSubURL>/event</eventSubURL>
</service></serviceList></device></root>"""

OUT = "<argument><name>{}</name><direction>out</direction><relatedStateVariable>T</relatedStateVariable></argument>"
IN = OUT.replace("out", "in")
IN_NAMES = (
    "NewRemoteHost", "NewExternalPort", "NewProtocol", "NewInternalPort", "NewInternalClient", "NewEnabled",
    "NewPortMappingDescription", "NewLeaseDuration",
)  # fmt: skip
ACTION = "<action><name>{}</name><argumentList>{}</argumentList></action>"
KINDS = {"NewExternalPort": "P", "NewInternalPort": "P", "NewLeaseDuration": "P", "NewEnabled": "B"}


def scpd() -> str:
    wanted = [IN.format(name).replace(">T<", f">{KINDS.get(name, 'T')}<") for name in IN_NAMES]
    actions = [
        ACTION.format("GetExternalIPAddress", OUT.format("NewExternalIPAddress")),
        ACTION.format("AddPortMapping", "".join(wanted)),
        ACTION.format("DeletePortMapping", "".join(wanted[:3])),
    ]
    variables = "".join(
        f'<stateVariable sendEvents="no"><name>{name}</name><dataType>{kind}</dataType></stateVariable>'
        for name, kind in (("T", "string"), ("P", "ui4"), ("B", "boolean"))
    )
    return (
        '<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0"><actionList>'
        f"{''.join(actions)}</actionList><serviceStateTable>{variables}</serviceStateTable></scpd>"
    )


def soap(body: str) -> str:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        f"{body}</s:Body></s:Envelope>"
    )


def fault(code: int) -> str:
    return soap(
        '<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail><UPnPError xmlns="urn:'
        f'schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode></UPnPError></detail></s:Fault>'
    )


class Router:
    """Answers HTTP as a router does; ``asked`` is what came, ``outside`` and ``code`` what it says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.outside = "11.0.0.1"
        self.code = 0
        self.scpd = "/scpd"
        self.port = 0

    def answer(self, path: str, body: str) -> tuple[int, str]:
        if path == "/device":
            return 200, DEVICE.format(scpd=self.scpd)
        if path == "/scpd":
            return 200, scpd()
        name = next(name for name in ("GetExternalIPAddress", "AddPortMapping", "DeletePortMapping") if name in body)
        if self.code and name != "GetExternalIPAddress":
            return 500, fault(self.code)
        said = f"<NewExternalIPAddress>{self.outside}</NewExternalIPAddress>" if name.startswith("Get") else ""
        reply = f'<u:{name}Response xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">{said}</u:{name}Response>'
        return 200, soap(reply)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length:")), 0)
        body = (await reader.readexactly(length)).decode()
        path = head.split()[1]
        self.asked.append((path, body))
        status, text = self.answer(path, body)
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode())
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def running(router: Router) -> Any:
    async with await asyncio.start_server(router.serve, HERE, 0) as server:
        router.port = server.sockets[0].getsockname()[1]
        yield router


async def ask(router: Router, *asks: Ask) -> list[Answer]:
    """Ask a router that the search finds at once: multicast is not everywhere."""

    async def search(_: str, __: str) -> str:
        return f"http://{HERE}:{router.port}/device"

    return await upnp.ask(HERE, asks or (ASK,), search)


async def test_a_mapping_is_made_and_ended() -> None:
    async with running(Router()) as router:
        made, ended = await ask(router, ASK, END)
    assert (made.refused, made.external, made.outer, made.lifetime) == ("", "11.0.0.1", 7443, 600)
    assert (ended.refused, ended.lifetime) == ("", 0)
    asked = next(body for _, body in router.asked if "AddPortMapping" in body)
    assert "<NewInternalClient>127.0.0.1</NewInternalClient>" in asked
    assert "<NewLeaseDuration>600</NewLeaseDuration>" in asked


@pytest.mark.parametrize(("code", "word"), [(718, "another host"), (725, "for ever"), (606, "allow"), (999, "999")])
async def test_a_refusal_has_words(code: int, word: str) -> None:
    router = Router()
    router.code = code
    async with running(router):
        (answer,) = await ask(router)
    assert word in answer.refused
    assert not answer.unsupported


@pytest.mark.parametrize("outside", ["", "fe80::1", "www.example.org", "1.2.3"])
async def test_an_outer_address_that_is_none_is_none(outside: str) -> None:
    router = Router()
    router.outside = outside
    async with running(router):
        (answer,) = await ask(router)
    assert answer.external == ""


async def test_a_description_leads_nowhere_but_to_the_router() -> None:
    router = Router()
    router.scpd = "http://127.0.0.2:1/secret"
    async with running(router):
        (answer,) = await ask(router)
    assert answer.unsupported
    assert [path for path, _ in router.asked] == ["/device"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no XML",
        "<root/>",
        DEVICE.replace("{scpd}", "/scpd").replace("WANIPConnection", "Other"),
        '<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa">]><root>&a;</root>',
        "<root>" + "<a>" * 20000,
    ],
)
async def test_a_router_that_talks_nonsense_is_given_up(text: str) -> None:
    class Mad(Router):
        def answer(self, path: str, body: str) -> tuple[int, str]:
            return (200, text) if path == "/device" else super().answer(path, body)

    async with running(Mad()) as router:
        (answer,) = await ask(router)
    assert answer.unsupported
    assert answer.refused


async def test_a_description_that_does_not_end_is_read_no_further() -> None:
    class Endless(Router):
        def answer(self, path: str, body: str) -> tuple[int, str]:
            return 200, "x" * (upnp.MAX_BODY + 1)

    async with running(Endless()) as router, ClientSession() as session:
        with pytest.raises(Unavailable):
            await upnp._Requester(session, HERE).async_http_request(
                HttpRequest("GET", f"http://{HERE}:{router.port}/device", {}, None)
            )


async def test_one_round_makes_so_many_requests_and_no_more() -> None:
    async with running(Router()) as router, ClientSession() as session:
        requester = upnp._Requester(session, HERE)
        request = HttpRequest("GET", f"http://{HERE}:{router.port}/scpd", {}, None)
        for _ in range(upnp.MAX_REQUESTS):
            await requester.async_http_request(request)
        with pytest.raises(Unavailable):
            await requester.async_http_request(request)


@pytest.mark.parametrize(
    "url", ["https://{}/", "http://{}@10.0.0.1/", "file:///etc/passwd", "http://[", "http://a.{}/"]
)
async def test_only_plain_addresses_of_the_router_are_asked(url: str) -> None:
    async with ClientSession() as session:
        with pytest.raises(Unavailable):
            await upnp._Requester(session, HERE).async_http_request(HttpRequest("GET", url.format(HERE), {}, None))


async def test_where_nobody_answers_the_search_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upnp, "SEARCH", 0.01)
    (answer,) = await upnp.ask("127.77.0.9", [ASK])
    assert answer.unsupported
    assert answer.refused
