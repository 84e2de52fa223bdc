"""Open Inference v2 beside inference, through the protocol's own client."""

from typing import Any

import pytest
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from tetherd.wire import messages as m
from tetherd.wire.openinference import EXTENSIONS


async def test_health(world: Any) -> None:
    async with triton.InferenceServerClient(world.address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("double")
        assert await client.is_model_ready("double", "2")
        assert not await client.is_model_ready("double", "3")
        world.orchestrator.workers = False
        assert not await client.is_server_ready()
        assert not await client.is_model_ready("double")
    assert (await world.ask("GET", "/v2/health/ready")).status_code == 400
    assert (await world.ask("GET", "/v2/health/live")).content == b""


async def test_metadata(world: Any) -> None:
    async with triton.InferenceServerClient(world.address) as client:
        server = await client.get_server_metadata()
        model = await client.get_model_metadata("double", "2")
    assert server == {"name": "tether", "version": "9.9", "extensions": list(EXTENSIONS)}
    assert model == {
        "name": "double",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }


async def test_config(world: Any) -> None:
    async with triton.InferenceServerClient(world.address) as client:
        add = await client.get_model_config("add")
        text = await client.get_model_config("echo-bytes")
    assert add["max_batch_size"] == 64
    assert add["input"][0] == {"name": "a", "data_type": "TYPE_FP32", "dims": [4], "optional": False}
    assert add["output"][0] == {"name": "y", "data_type": "TYPE_FP32", "dims": [4], "label_filename": "labels.txt"}
    assert text["max_batch_size"] == 0
    assert text["input"][0]["data_type"] == "TYPE_STRING"
    assert text["input"][0]["dims"] == [-1]


async def test_statistics(world: Any) -> None:
    version = world.manager.versions[-1].version
    one = m.Durations(1, 10)
    world.orchestrator.stats = [
        m.VersionStats("double", 2, version, 5, 7, 3, success=one, batches=[m.BatchStats(4, one, one, one)]),
        m.VersionStats("add", 1, version),
    ]
    world.orchestrator.runners = [m.Loaded("r", "double", 2, version, "READY", bytes=9)]
    async with triton.InferenceServerClient(world.address) as client:
        every = await client.get_inference_statistics()
        double = (await client.get_inference_statistics("double"))["model_stats"]
        first = (await client.get_inference_statistics("double", "1"))["model_stats"]
    assert [counted["name"] for counted in every["model_stats"]] == ["double", "add"]
    assert first == []
    assert len(double) == 1
    assert double[0]["version"] == "2"
    assert (double[0]["last_inference"], double[0]["inference_count"], double[0]["execution_count"]) == (5, 7, 3)
    assert double[0]["inference_stats"]["success"] == {"count": 1, "ns": 10}
    assert double[0]["batch_stats"][0]["batch_size"] == 4
    assert double[0]["memory_usage"] == [{"type": "CPU", "id": 0, "byte_size": 9}]


@pytest.mark.parametrize("what", ["", "/config", "/stats", "/ready"])
async def test_unknown_models_and_versions(world: Any, what: str) -> None:
    unknown = await world.ask("GET", f"/v2/models/nothing{what}")
    assert unknown.status_code == 400
    assert unknown.json()["error"] == "Request for unknown model: 'nothing' is not found"
    assert (await world.ask("GET", f"/v2/models/double/versions/9{what}")).status_code == 404


async def test_errors_reach_the_client(world: Any) -> None:
    async with triton.InferenceServerClient(world.address) as client:
        with pytest.raises(InferenceServerException, match="unknown model"):
            await client.get_model_metadata("nothing")
