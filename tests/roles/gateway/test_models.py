"""The native API over models, and what it asks of manager and orchestrator."""

from typing import Any

import pytest

from tetherd.errors import Conflict, ModelLoadFailed
from tetherd.roles.gateway.operations import CHUNK
from tetherd.types import Digest
from tetherd.wire import messages as m

ROOT = "/api/v1/models"


async def test_listing(world: Any) -> None:
    listed = (await world.ask("GET", ROOT)).json()["models"]
    assert [model["name"] for model in listed] == sorted(model["name"] for model in listed)
    double = next(model for model in listed if model["name"] == "double")
    assert double | {"digest": "", "created": 0} == {
        "name": "double",
        "version": 1,
        "digest": "",
        "format": "onnx",
        "size": 10,
        "created": 0,
        "aliases": {"latest": 1, "next": 2},
        "state": "IDLE",
        "reason": "the first request loads it",
        "loaded": False,
        "versions": 2,
    }


async def test_showing(world: Any) -> None:
    world.orchestrator.runners = [
        m.Loaded("r1", "double", 2, world.manager.versions[-1].version, "FAILED", "out of memory", pid=7)
    ]
    document = (await world.ask("GET", f"{ROOT}/double@next")).json()
    assert document["version"] == 2
    assert document["state"] == "FAILED"
    assert document["reason"] == "out of memory"
    assert document["aliases"]["next"] == {"number": 2, "epoch": 1, "previous": None}
    first, second = document["versions"]
    assert (first["number"], first["state"]) == (1, "IDLE")
    assert second["runners"][0]["pid"] == 7
    assert second["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert second["files"][0]["path"] == "model.onnx"


async def test_unknown_names_come_with_a_suggestion(world: Any) -> None:
    answer = await world.ask("GET", f"{ROOT}/duble")
    assert answer.status_code == 404
    assert "'double'" in answer.json()["fix"]
    assert "latest, next" in (await world.ask("GET", f"{ROOT}/double@no")).json()["fix"]
    assert "1, 2" in (await world.ask("GET", f"{ROOT}/double@3")).json()["fix"]


async def test_one_shot_upload(world: Any) -> None:
    body = bytes(CHUNK + 5)
    made = await world.ask("PUT", f"{ROOT}/fresh", content=body)
    assert made.status_code == 201
    assert made.json()["number"] == 1
    assert world.manager.chunks == [CHUNK, 5]
    again = await world.ask("PUT", f"{ROOT}/fresh", content=body, headers={"Content-Type": "application/octet-stream"})
    assert again.status_code == 200
    x = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    assert (await world.infer("fresh", x)).status_code == 200  # the push is seen at once


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
async def test_uploads_of_another_type_are_refused(world: Any, kind: str) -> None:
    answer = await world.ask("PUT", f"{ROOT}/fresh", content=b"x", headers={"Content-Type": kind})
    assert answer.status_code == 415


async def test_publishing_blobs(world: Any) -> None:
    digest = Digest("sha256:" + "a" * 64)
    world.manager.blobs[digest] = b"model"
    files = [{"path": "model.onnx", "digest": digest, "size": 5}]
    made = await world.ask("POST", f"{ROOT}/fresh/versions", json={"files": files, "alias": "blue"})
    assert made.status_code == 201
    assert made.json()["files"] == files
    assert (await world.ask("GET", f"{ROOT}/fresh@blue")).json()["version"] == 1
    assert (await world.ask("POST", f"{ROOT}/fresh/versions", json={"files": files})).status_code == 200


async def test_a_push_tells_how_far_it_has_spread_and_succeeds_also_when_nobody_knows(world: Any) -> None:
    made = await world.ask("PUT", f"{ROOT}/fresh", content=b"m")
    assert made.json()["copies"] == {"held": 2, "wanted": 3}
    world.manager.copies = None
    again = await world.ask("PUT", f"{ROOT}/fresh", content=b"m")
    assert (again.status_code, again.json()["copies"]) == (200, None)


async def test_who_holds_a_model(world: Any) -> None:
    found = (await world.ask("GET", f"{ROOT}/double/holders")).json()
    assert (found["name"], found["wanted"]) == ("double", 3)
    assert [one["number"] for one in found["versions"]] == [1, 2]
    for one in found["versions"]:
        assert [(holder["name"], holder["primary"]) for holder in one["holders"]] == [("a", True), ("b", False)]
    assert (await world.ask("GET", f"{ROOT}/ghost/holders")).status_code == 404
    world.manager.copies = None
    assert (await world.ask("GET", f"{ROOT}/double/holders")).status_code == 503


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"files":[]}',
        b'{"files":[{"path":"a","digest":"sha256:../../x","size":1}]}',
        b'{"files":[{"path":"a","digest":"sha256:' + b"A" * 64 + b'","size":1}]}',
        b'{"files":[{"path":"a","digest":"sha256:' + b"a" * 63 + b'","size":1}]}',
        b'{"files":[{"path":"a","digest":"sha256:' + b"a" * 64 + b'","size":-1}]}',
        b'{"files":[{"path":"a","digest":"sha256:' + b"a" * 64 + b'","size":1}],"alias":"UP"}',
        b'{"files":1,"files":2}',
    ],
)
async def test_publications_that_make_no_sense(world: Any, body: bytes) -> None:
    assert (await world.ask("POST", f"{ROOT}/fresh/versions", content=body)).status_code == 400


async def test_missing_blobs(world: Any) -> None:
    files = [{"path": "model.onnx", "digest": "sha256:" + "b" * 64, "size": 5}]
    assert (await world.ask("POST", f"{ROOT}/fresh/versions", json={"files": files})).status_code == 404


async def test_an_alias_moves_only_to_what_is_ready(world: Any) -> None:
    world.orchestrator.fail = ModelLoadFailed("bad graph")
    answer = await world.ask("PUT", f"{ROOT}/double/aliases/latest", json={"version": 2})
    assert answer.status_code == 503
    assert world.manager.aliases["double", "latest"].number == 1
    world.orchestrator.fail = None
    moved = await world.ask("PUT", f"{ROOT}/double/aliases/latest", json={"version": 2})
    assert moved.json() == {"model": "double", "alias": "latest", "number": 2, "epoch": 2, "previous": 1}
    absent = await world.ask("PUT", f"{ROOT}/double/aliases/latest", json={"version": 9})
    assert (absent.status_code, absent.json()["fix"]) == (404, "it has 1, 2")
    assert (await world.ask("PUT", f"{ROOT}/double/aliases/latest", json={"version": "2"})).status_code == 400
    assert (await world.ask("PUT", f"{ROOT}/double/aliases/La", json={"version": 2})).status_code == 400


async def test_rollback_loads_first(world: Any) -> None:
    await world.ask("PUT", f"{ROOT}/double/aliases/latest", json={"version": 2})
    back = await world.ask("POST", f"{ROOT}/double/aliases/latest/rollback")
    assert back.json()["number"] == 1
    loaded = [asked.number for asked, *_ in world.orchestrator.asked if isinstance(asked, m.Ensure)]
    assert loaded == [2, 1]


async def test_conflicts_carry_the_state(world: Any) -> None:
    def refuse(_: Any) -> None:
        raise Conflict("somebody was faster", details={"epoch": 5})

    world.manager.on_movealias = refuse
    answer = await world.ask("PUT", f"{ROOT}/double/aliases/latest", json={"version": 2, "expected_epoch": 1})
    assert answer.status_code == 409
    assert answer.json()["details"] == {"epoch": 5}


async def test_load_and_unload(world: Any) -> None:
    assert (await world.ask("POST", f"{ROOT}/double@2/load")).json() == {
        "name": "double",
        "version": 2,
        "state": "READY",
    }
    assert (await world.ask("POST", f"{ROOT}/double/unload")).json() == {"name": "double", "state": "UNLOADED"}
    assert (await world.ask("GET", f"{ROOT}/double")).json()["state"] == "UNLOADED"
    asked = len(world.orchestrator.asked)
    for path in ("/api/v1/inference/double", "/v2/models/double/infer", "/v2/models/double/versions/2/infer"):
        refused = await world.ask("POST", path, json={"inputs": [], "id": ""})
        assert (refused.status_code, refused.json()["code"]) == (503, "MODEL_UNLOADED")
    assert len(world.orchestrator.asked) == asked
    await world.ask("POST", f"{ROOT}/double/load")
    assert (await world.ask("GET", f"{ROOT}/double")).json()["state"] != "UNLOADED"


@pytest.mark.parametrize("reference", ["double@2", "double@latest"])
async def test_a_single_version_is_not_unloaded(world: Any, reference: str) -> None:
    answer = await world.ask("POST", f"{ROOT}/{reference}/unload")
    assert (answer.status_code, answer.json()["fix"]) == (400, "name the model only: double")
    assert world.manager.unloaded == []


@pytest.mark.parametrize(("reference", "number"), [("double", 0), ("double@2", 2)])
async def test_removing(world: Any, reference: str, number: int) -> None:
    assert (await world.ask("DELETE", f"{ROOT}/{reference}")).status_code == 204
    assert (await world.ask("GET", f"{ROOT}/{reference}")).status_code == 404
    released = world.orchestrator.asked[-1][0]
    released = next(asked for asked, *_ in world.orchestrator.asked if isinstance(asked, m.Release))
    assert (released.model, released.number, released.refuse) == ("double", number, False)


async def test_an_alias_is_not_removed_with_a_version(world: Any) -> None:
    assert (await world.ask("DELETE", f"{ROOT}/double@next")).status_code == 400
    assert (await world.ask("DELETE", f"{ROOT}/nothing")).status_code == 404


async def test_manifest(world: Any) -> None:
    answer = await world.ask("GET", f"{ROOT}/double@1/manifest")
    assert answer.headers["content-type"] == "application/vnd.oci.image.manifest.v1+json"
    assert answer.content == b"{}"
