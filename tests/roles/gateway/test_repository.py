"""The model repository extension, through the protocol's own client."""

from typing import Any

import pytest
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from tetherd.errors import ModelLoadFailed
from tetherd.wire import messages as m


async def test_unload_and_load(world: Any) -> None:
    async with triton.InferenceServerClient(world.address) as client:
        await client.unload_model("double")
        assert not await client.is_model_ready("double")
        index = {(line["name"], line["version"]): line for line in await client.get_model_repository_index()}
        assert index["double", "1"] == {"name": "double", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        assert index["add", "1"]["state"] == "READY"
        await client.load_model("double")
        assert await client.is_model_ready("double")


async def test_index_of_what_is_ready(world: Any) -> None:
    failed = world.manager.versions[0]
    world.orchestrator.runners = [m.Loaded("r", failed.model, 1, failed.version, "FAILED", "bad graph")]
    every = (await world.ask("POST", "/v2/repository/index")).json()
    ready = (await world.ask("POST", "/v2/repository/index", json={"ready": True})).json()
    assert {"name": failed.model, "version": "1", "state": "UNAVAILABLE", "reason": "bad graph"} in every
    assert len(ready) == len(every) - 1


async def test_load_with_files(world: Any) -> None:
    async with triton.InferenceServerClient(world.address) as client:
        await client.load_model("fresh", config="{}", files={"file:1/model.onnx": b"graph", "file:1/labels.txt": b"a"})
        assert await client.is_model_ready("fresh")
    assert [file.path for file in world.manager.versions[-1].files] == ["model.onnx", "labels.txt"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"file:1/model.onnx": "AAAA"},
        {"config": "no", "file:1/model.onnx": "AAAA"},
        {"config": 5, "file:1/model.onnx": "AAAA"},
        {"config": "{}", "file:1/model.onnx": "not base64!"},
        {"config": "{}", "file:x/model.onnx": "AAAA"},
        {"config": "{}", "file:model.onnx": "AAAA"},
        {"config": "{}", "file:1/model.onnx": 5},
        {"config": "{}"},
    ],
)
async def test_loads_that_are_refused(world: Any, parameters: dict[str, Any]) -> None:
    answer = await world.ask("POST", "/v2/repository/models/fresh/load", json={"parameters": parameters})
    assert answer.status_code == 400
    assert not world.manager.blobs


async def test_what_fails_to_load_says_so(world: Any) -> None:
    world.orchestrator.fail = ModelLoadFailed("bad graph")
    async with triton.InferenceServerClient(world.address) as client:
        with pytest.raises(InferenceServerException, match="failed to load 'double': bad graph"):
            await client.load_model("double")
        with pytest.raises(InferenceServerException, match="failed to load 'nothing'"):
            await client.load_model("nothing")


async def test_unloading_the_unknown(world: Any) -> None:
    assert (await world.ask("POST", "/v2/repository/models/nothing/unload")).status_code == 400
