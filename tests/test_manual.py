"""The manual page says everything there is to say, is up to date, and is a manual page."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tetherd.config.fields import SETTINGS
from tetherd.manual import page

COMMITTED = Path(__file__).parent.parent / "man/tetherd.8"


def test_the_committed_page_is_this_one() -> None:
    assert COMMITTED.read_text() == page(), "write it anew: python -m tetherd.manual"


def test_it_names_every_command_and_every_setting() -> None:
    text = page()
    for command in ("run", "validate", "config", "version"):
        assert f".SS tetherd {command}\n" in text
    for key in SETTINGS:
        assert f"\\fB{'.'.join(key)}\\fR" in text
    assert "64MiB" in text


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_it_is_a_manual_page() -> None:
    lint = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", COMMITTED], capture_output=True, text=True, check=False
    )
    assert lint.stdout == ""
