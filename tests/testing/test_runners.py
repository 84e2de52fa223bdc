"""The fakes of runners: what they do beside what the roles' tests make of them."""

import pytest

from tetherd.errors import Unavailable
from tetherd.testing import Cluster, simulated
from tetherd.testing.runners import FakeEngine
from tetherd.types import Signature, Tensor, TensorSpec


def test_an_engine_answers_with_its_inputs_under_its_outputs_names() -> None:
    specs = tuple(TensorSpec(name, "UINT8", (-1,)) for name in ("x", "z", "y"))
    engine = FakeEngine(Signature(specs[:2], specs[2:]))
    inputs = [Tensor("x", "UINT8", (1,), b"a"), Tensor("z", "UINT8", (1,), b"b")]
    outputs, spent = engine.execute(inputs, 1.0)
    assert outputs == [Tensor("y", "UINT8", (1,), b"a")]
    assert spent == (0, 1_000_000, 0)
    assert engine.executed == [inputs]
    assert engine.watch(9e9) == 0.0


@simulated
async def test_runners_keep_what_they_hold_until_their_gate_opens() -> None:
    async with Cluster() as cluster:
        await cluster.infer(0)
        runner = cluster.runners()[0]
        runner.gate.clear()
        with pytest.raises(Exception, match="time"):
            await cluster.infer(1, patience=1.0)
        runner.gate.set()
        assert len(runner.seen) == 2


@simulated
async def test_a_launcher_follows_its_fates_and_then_serves() -> None:
    async with Cluster() as cluster:
        launcher = cluster.launchers[0]
        launcher.fates.extend(["refuse", "dead"])
        with pytest.raises(Unavailable):
            await launcher.launch()
        assert (await launcher.launch()).fate == "dead"
        assert (await launcher.launch()).fate == "serve"
