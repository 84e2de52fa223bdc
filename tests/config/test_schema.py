"""The schema: values that no code can change, and what a model inherits from its worker."""

import pytest

from tetherd.config.schema import Drain, ModelSettings, Worker


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Drain().deadline = 1.0  # type: ignore[misc]


def test_a_model_is_hosted_as_the_worker_says_unless_it_says_otherwise() -> None:
    own = ModelSettings(isolation="thread", runners=2, threads=1)
    worker = Worker(memory_limit=2**30, max_concurrency=4, runners=3, threads=2, models={"digits": own})
    assert worker.settings("digits") == own
    assert worker.settings("other") == ModelSettings(isolation="process", runners=3, threads=2)
