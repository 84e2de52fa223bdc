"""The gateway as a whole: the catalog it follows, request ids, its surface without any framework."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tetherd.roles.gateway import exchange, surface
from tetherd.wire.catalog import Catalog, WatchCatalog


async def test_the_last_catalog_stays_in_force_while_the_manager_is_away(world: Any) -> None:
    world.manager.away = True
    world.manager.change()
    await until(world, lambda status: not status["manager"]["reachable"])
    x = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    assert (await world.infer("double", x)).status_code == 200
    world.manager.versions = [known for known in world.manager.versions if known.model == "double"]
    world.manager.epoch = 1  # restored from a backup
    world.manager.away = False
    await until(world, lambda status: status["manager"]["reachable"] and status["models"] == 1)


async def until(world: Any, holds: Callable[[Any], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds((await world.ask("GET", "/api/v1/status")).json()):
            pass


async def test_an_older_catalog_is_not_taken(world: Any) -> None:
    before = world.gateway.view()
    world.gateway._install(Catalog(0, [], []))
    assert world.gateway.view() is before


async def test_a_manager_that_lags_behind_is_not_asked_without_a_pause(world: Any) -> None:
    before = world.gateway.view()
    asked = 0
    answer = world.manager.on_watchcatalog

    async def count(request: WatchCatalog) -> Catalog:
        nonlocal asked
        asked += 1
        return await answer(request)

    world.manager.on_watchcatalog = count
    world.manager.epoch = -1
    world.manager.changed.set()
    for _ in range(1000):
        await asyncio.sleep(0)
    assert asked <= 1
    assert world.gateway.view() is before


@pytest.mark.parametrize("given", ["abc-1", "a" * 128])
async def test_sane_request_ids_are_kept(world: Any, given: str) -> None:
    answer = await world.ask("GET", "/v2", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "ü"])
async def test_other_request_ids_are_replaced(world: Any, given: str) -> None:
    ids = set()
    for _ in range(2):
        answer = await world.ask("GET", "/nowhere", headers={"X-Request-Id": given.encode()})
        ids.add(answer.headers["x-request-id"])
    assert len(ids) == 2
    assert given not in ids


async def test_paths_are_remembered_only_for_inference_and_only_to_a_bound(world: Any) -> None:
    x = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    await world.infer("double", x)
    await world.ask("GET", "/v2/models/double")
    assert list(world.gateway._shortcuts) == [b"/v2/models/double/infer"]
    assert (await world.ask("GET", "/v2/models/double/infer")).status_code == 405
    await world.ask("PUT", "/api/v1/models/double/aliases/latest", json={"version": 2})
    assert not world.gateway._shortcuts


async def test_other_protocols_are_left_alone(world: Any) -> None:
    assert isinstance(world.gateway.app, surface.Surface)
    await world.gateway.app({"type": "lifespan"}, None, None)
    assert world.gateway.routes() == {}


async def test_a_body_of_no_content_has_no_length(world: Any) -> None:
    sent: list[Any] = []

    async def write(message: Any) -> None:
        sent.append(message)

    await exchange.send(exchange.Answer(204), "1", write)
    assert sent[0]["headers"] == [(b"x-request-id", b"1")]
