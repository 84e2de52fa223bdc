"""The environment: the process's own, live."""

import pytest

from tetherd.config.environment import environment


def test_it_is_the_environment_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER__NODE__NAME", "w-1")
    assert environment()["TETHER__NODE__NAME"] == "w-1"
