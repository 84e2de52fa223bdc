"""Showing: what is printed is TOML that reads back as the same settings."""

import re

import msgspec

from tetherd.config import layers, show
from tetherd.config.fields import SETTINGS
from tetherd.config.host import Host
from tetherd.config.parse import Settings, parse

FILE = """
[node]
roles = ["gateway", "worker", "orchestrator"]
[peers]
manager = "ipc:///run/other.sock"
[worker]
memory_limit = "33%"
[worker.models."a.b"]
isolation = "thread"
[worker.models.c]
runners = 2
"""


def reread(text: str, host: Host) -> Settings:
    return parse([layers.file(text, "t.toml")], host)


def test_the_default_file_sets_nothing_as_it_is(host: Host) -> None:
    text = show.default(parse([], host))
    assert {str(origin) for origin in reread(text, host).origins.values()} == {"default"}


def test_the_default_file_with_every_line_in_force_is_the_default(host: Host) -> None:
    text = re.sub(r"^#(?=\w)", "", show.default(parse([], host)), flags=re.MULTILINE)
    found = reread(text, host)
    assert found.config == parse([], host).config
    assert {origin.source for origin in found.origins.values()} == {"file"}


def test_the_default_file_explains_every_setting(host: Host) -> None:
    text = show.default(parse([], host))
    for key, setting in SETTINGS.items():
        if "*" not in key:
            assert f"# {setting.meaning}\n#{key[-1]} = " in text


def test_effective_settings_read_back_and_name_their_origin(host: Host) -> None:
    layered = [layers.file(FILE, "a.toml"), layers.environment({"TETHER__DRAIN__DEADLINE": "1500ms"})]
    settings = parse(layered, host)
    text = show.effective(settings)
    assert reread(text, host).config == settings.config
    assert 'manager = "ipc:///run/other.sock"  # a.toml:5\n' in text
    assert 'deadline = "1500ms"  # env TETHER__DRAIN__DEADLINE\n' in text
    assert 'level = "info"  # default\n' in text
    assert '[worker.models."a.b"]\nisolation = "thread"  # a.toml:9\n' in text


def test_a_hostile_file_name_stays_in_its_comment(host: Host) -> None:
    settings = parse([layers.file("[log]\nlevel = 'warn'", "a\n[log]\nlevel = 'debug'")], host)
    assert reread(show.effective(settings), host).config.log.level == "warn"


def test_entries_are_plain_values(host: Host) -> None:
    shown = {key: value for key, value, _ in show.entries(parse([layers.file(FILE, "t")], host))}
    assert shown["gateway", "max_body"] == "64MiB"
    assert shown["worker", "models", "c", "runners"] == 2
    assert msgspec.json.encode(list(shown.values()))
