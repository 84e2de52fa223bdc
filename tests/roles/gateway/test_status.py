"""Health and status tell the truth, and how versions stand."""

from typing import Any

import pytest

from tetherd.drivers.host.clock import SystemClock
from tetherd.errors import Unreachable
from tetherd.roles.gateway.fleet import Fleet
from tetherd.roles.gateway.status import Facts, Status
from tetherd.wire import messages as m


async def test_ready_means_that_a_request_could_be_served(world: Any) -> None:
    assert (await world.ask("GET", "/health")).status_code == 200
    assert (await world.ask("GET", "/health/ready")).json() == {"status": "ready"}
    world.orchestrator.workers = False
    answer = await world.ask("GET", "/health/ready")
    assert answer.status_code == 503
    assert answer.json()["reason"] == "no worker is connected"
    assert (await world.ask("GET", "/health/live")).status_code == 200


async def test_an_orchestrator_that_is_away(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unreachable("gone")

    monkeypatch.setattr(world.orchestrator, "call", away)
    assert "orchestrator" in (await world.ask("GET", "/health")).json()["reason"]
    status = (await world.ask("GET", "/api/v1/status")).json()
    assert status["orchestrator"] == {"reachable": False}
    assert (await world.ask("GET", "/api/v1/models/double")).json()["state"] == "UNAVAILABLE"
    assert (await world.ask("GET", "/v2/models/stats")).status_code == 503


async def test_before_the_first_catalog(worlds: Any) -> None:
    async with worlds() as world:
        world.gateway._view.epoch = -1
        world.gateway._view.models.clear()
        assert "catalog" in (await world.ask("GET", "/health")).json()["reason"]
        assert (await world.ask("GET", "/api/v1/models/double")).status_code == 503


async def test_a_host_that_may_serve_nobody_is_not_ready() -> None:
    clock = SystemClock()
    status = Status(facts=Facts(version="1", node="n", roles=(), pid=1, barred="it was sent away"), clock=clock)
    assert await status.reason() == "it was sent away"


async def test_status(world: Any) -> None:
    document = (await world.ask("GET", "/api/v1/status")).json()
    assert (document["version"], document["node"], document["roles"]) == ("9.9", "n1", ["gateway"])
    assert document["ready"] is True
    assert document["models"] == len({version.model for version in world.manager.versions})
    assert document["workers"][0]["worker"] == "w1"
    assert document["queues"][0]["waiting"] == 1
    assert document["uptime_s"] > 0


async def test_status_names_the_models_that_are_not_served(world: Any) -> None:
    assert (await world.ask("GET", "/api/v1/status")).json()["troubled"] == []
    await world.ask("POST", "/api/v1/models/double/unload")
    (one,) = (await world.ask("GET", "/api/v1/status")).json()["troubled"]
    assert (one["name"], one["state"]) == ("double", "UNLOADED")


def fleet(state: str | None, *, unloaded: bool = False, workers: bool = True, reason: str = "") -> Fleet:
    runners = [m.Loaded("r", "m", 1, "v", state, reason)] if state else []  # type: ignore[arg-type]
    worker = m.WorkerState("w", "n", 1, 1, 1, 0, 0, not workers, runners)
    return Fleet(m.FleetState([worker], [], []), None, {"m"} if unloaded else ())


@pytest.mark.parametrize(
    ("seen", "state", "serves"),
    [
        (fleet("READY"), "READY", True),
        (fleet("LOADING"), "LOADING", True),
        (fleet("UNLOADING"), "UNLOADING", False),
        (fleet("FAILED", reason="why"), "FAILED", False),
        (fleet(None), "IDLE", True),
        (fleet(None, workers=False), "UNAVAILABLE", False),
        (fleet("UNLOADING", unloaded=True), "UNLOADED", False),
        (Fleet(None), "UNAVAILABLE", False),
    ],
)
def test_standings(world: Any, seen: Fleet, state: str, serves: bool) -> None:
    version = world.manager.versions[0]
    version.model, version.version = "m", "v"
    standing = seen.standing(version)
    assert (standing.state, standing.serves) == (state, serves)
    if state == "FAILED":
        assert standing.reason == "why"
