"""Starting up is a feature: no hot command may load what it does not need."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAVY = {
    "asyncio",
    "httpx",
    "numpy",
    "onnx",
    "onnxruntime",
    "pydantic",
    "pynng",
    "requests",
    "rich",
    "simdjson",
    "sqlalchemy",
    "ssl",
    "starlette",
    "textual",
    "torch",
    "uvicorn",
    "zeroconf",
}
MOST = 220
WATCHED = """
import sys
from tetherctl.__main__ import main
code = main()
sys.stderr.write("\\n" + " ".join(sys.modules))
sys.exit(code)
"""


def loaded(env: dict[str, str], *args: str) -> set[str]:
    command = [sys.executable, "-c", WATCHED, *args]
    done = subprocess.run(command, env=env, input="[1]", capture_output=True, text=True, timeout=20, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words",
    [
        "--version",
        "--help",
        "status",
        "status --json",
        "version",
        "models ls",
        "models show digits",
        "models versions digits",
        "models promote digits@1",
        "models load digits",
        "infer digits",
        "__complete models d",
        "help exit-codes",
        "config path",
    ],
)
def test_hot_commands_load_little(env: dict[str, str], ctl: Any, daemon: Any, digits: Path, words: str) -> None:
    assert ctl("models", "push", str(digits)).returncode == 0
    modules = loaded(env, *words.split())
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert len(modules) <= MOST


def test_version_loads_neither_typer_nor_msgspec(env: dict[str, str]) -> None:
    assert not {"typer", "msgspec", "socket", "tetherctl.app"} & loaded(env, "--version")


def test_a_command_loads_no_other(env: dict[str, str], daemon: Any) -> None:
    found = {name for name in loaded(env, "models", "ls") if name.startswith("tetherctl.commands.")}
    assert found == {"tetherctl.commands.models"}
