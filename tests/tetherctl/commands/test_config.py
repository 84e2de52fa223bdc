"""What is in force and where it was set, and what is wrong with a file before it is used."""

from pathlib import Path
from typing import Any

import msgspec


def loads(text: str) -> Any:
    return msgspec.json.decode(text)


def test_show_names_origins(ctl: Any, place: Path) -> None:
    items = loads(ctl("config", "show", "cli", "--json").stdout)["items"]
    assert {"key": "cli.output", "value": "json", "origin": "--output"} in items
    assert ctl("config", "show", "cli.nothing").returncode == 2
    assert loads(ctl("config", "path", "--json").stdout)["schema"] == "tether.config.path/v1"


def test_validate(ctl: Any, place: Path) -> None:
    bad = place / "tetherd.toml"
    bad.write_text("[gateway]\nlissten = 'x'\nlisten = 5\n")
    done = ctl("config", "validate", str(bad))
    assert done.returncode == 78
    assert "did you mean gateway.listen" in done.stderr
    assert len(loads(ctl("config", "validate", str(bad), "--json").stderr)["problems"]) == 2
    assert ctl("config", "validate", "-", stdin="").returncode == 0


def test_show_writes_sizes_and_what_is_unset_for_people(ctl: Any, place: Path) -> None:
    exact = {"TETHER__WORKER__MEMORY_LIMIT": "20186042369B"}
    assert "18.8GiB" in ctl("config", "show", "worker.memory_limit", **exact).stdout
    item = loads(ctl("config", "show", "worker.memory_limit", "--json", **exact).stdout)["items"][0]
    assert item["value"] == "20186042369B"
    assert "(unset)" in ctl("config", "show", "peers.manager").stdout
