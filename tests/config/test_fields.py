"""The table of settings: complete, documented, and with defaults that its own forms accept."""

import msgspec
import pytest

from tetherd.config import fields
from tetherd.config.fields import ANY, SETTINGS, Setting


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: ".".join(setting.key))
def test_every_setting_says_what_it_means(setting: Setting) -> None:
    assert setting.meaning.endswith(".")
    assert len(setting.meaning) <= 120


def test_units_live_in_types_and_not_in_names() -> None:
    assert not [key for key in SETTINGS if key[-1].endswith(("_s", "_ms", "_bytes", "_mb", "_seconds"))]


def test_only_what_depends_on_the_host_has_no_default() -> None:
    assert {".".join(key) for key, setting in SETTINGS.items() if setting.default is msgspec.NODEFAULT} == {
        "node.name",
        "node.state_dir",
        "node.cache_dir",
        "node.runtime_dir",
        "rpc.listen",
        "control.socket",
        "worker.memory_limit",
        "worker.max_concurrency",
    }


def test_names_that_users_choose_are_looked_up_by_a_star() -> None:
    found = fields.lookup(("worker", "models", "digits", "threads"))
    assert found is not None
    assert found.key == ("worker", "models", ANY, "threads")
    assert fields.lookup(("worker", "models", "digits")) is None
    assert fields.is_section(("worker", "models", "digits"))
    assert fields.is_section(("gateway",))
    assert not fields.is_section(("gateway", "listen"))
    assert not fields.is_section(("gatway",))
