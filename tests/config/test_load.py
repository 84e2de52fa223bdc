"""Loading: which file is read, and which are refused."""

import os
from pathlib import Path

import pytest

from tetherd.config import load
from tetherd.errors import BadConfig


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("TETHER__"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path / "etc"))


def refused(path: Path) -> str:
    with pytest.raises(BadConfig) as caught:
        load.load(path)
    return str(caught.value.message)


def test_file_then_environment_then_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.toml"
    path.write_text('[log]\nlevel = "warn"\nformat = "json"\n[drain]\ndeadline = "1s"\n')
    monkeypatch.setenv("TETHER__LOG__LEVEL", "error")
    monkeypatch.setenv("TETHER__LOG__FORMAT", "pretty")
    settings = load.load(path, ["log.format=auto"])
    assert settings.config.log.level == "error"
    assert settings.config.log.format == "auto"
    assert settings.config.drain.deadline == 1.0


def test_the_default_file_is_read_if_it_is_there(tmp_path: Path) -> None:
    assert load.load(None).config.log.level == "info"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/tetherd.toml").write_text('[log]\nlevel = "debug"')
    assert load.load(None).config.log.level == "debug"
    assert load.defaults().config.log.level == "info"


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.toml")
    assert "cannot be read" in refused(tmp_path)


def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.touch()
    path.chmod(0o666)
    assert "everybody may write" in refused(path)
    path.chmod(0o664)
    load.load(path)


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "more than 1 MiB" in refused(path)


def test_text_is_utf8_with_or_without_a_mark() -> None:
    assert load.load_text(b'\xef\xbb\xbf[log]\nlevel = "warn"', "t").config.log.level == "warn"
    with pytest.raises(BadConfig, match="t:2:9: not UTF-8"):
        load.load_text(b'[log]\nlevel = \xff"', "t")
