from typing import Any

import orjson
import pytest

from tetherd.errors import Forbidden, NotInNetwork
from tetherd.roles.gateway.examination import Examination
from tetherd.roles.gateway.exchange import Exchange
from tetherd.roles.gateway.routing import Table
from tetherd.types import Finding


async def ask(examination: Examination, address: str, *, control: bool = True) -> dict[str, Any]:
    async def nothing() -> dict[str, Any]:
        raise AssertionError("no body is read")

    exchange = Exchange({"headers": [], "state": {"control": control}}, nothing, 0)
    route, exchange.params = Table(examination.routes()).find("GET", f"/api/v1/doctor/peer/{address}".encode())
    found: dict[str, Any] = orjson.loads((await route.handler(exchange)).body)
    return found


async def test_what_is_found_is_told() -> None:
    asked = []

    def explain(address: str) -> Finding:
        asked.append(address)
        return Finding("expired", "its certificate expired", "renew it", "ab" * 32)

    answer = await ask(Examination(explain), "10.0.0.1%3A7443")
    assert asked == ["10.0.0.1:7443"]
    assert answer == {
        "address": "10.0.0.1:7443",
        "reachable": False,
        "cause": "expired",
        "message": "its certificate expired",
        "fix": "renew it",
        "node": "ab" * 32,
    }


async def test_who_can_be_reached_is_reachable() -> None:
    assert (await ask(Examination(lambda _: Finding("none", "it answers")), "h%3A1"))["reachable"]


async def test_nobody_else_has_connections_made() -> None:
    with pytest.raises(Forbidden):
        await ask(Examination(lambda _: Finding("none", "")), "h%3A1", control=False)


async def test_a_host_in_no_network_says_so() -> None:
    def explain(_: str) -> Finding:
        raise NotInNetwork("this host is in no network")

    with pytest.raises(NotInNetwork):
        await ask(Examination(explain), "h%3A1")
