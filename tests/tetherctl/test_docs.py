"""The generated files are the ones committed, and shells and mandoc accept them."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tetherctl.docs import documents
from tetherctl.reference import specs
from tetherctl.registry import COMMANDS, overview
from tetherctl.topics import TOPICS

ROOT = Path(__file__).parents[2]


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


@pytest.mark.parametrize("name", list(documents()))
def test_committed_files_are_fresh(name: str) -> None:
    assert (ROOT / name).read_text() == documents()[name], "run: python -m tetherctl.docs"


@pytest.mark.parametrize("path", list(COMMANDS))
def test_every_summary_is_what_the_command_says(path: str) -> None:
    module, _, name = COMMANDS[path].target.partition(":")
    function = getattr(import_module(f"tetherctl.commands.{module}"), name)
    assert function.__doc__.splitlines()[0].startswith(COMMANDS[path].summary.rstrip("."))


def test_overview_lists_every_command() -> None:
    assert all(path in overview("") for path in COMMANDS)
    assert len(specs()) == len(COMMANDS)


@pytest.mark.parametrize("topic", list(TOPICS))
def test_topics_fit_a_wide_terminal(topic: str) -> None:
    assert max(len(line) for line in TOPICS[topic]().splitlines()) <= 120


@needs("mandoc")
def test_man_page_is_clean() -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", "man/tetherctl.1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def shell_env(env: dict[str, str], place: Path) -> dict[str, str]:
    """An environment in which ``tetherctl`` is a command."""
    (place / "bin").mkdir()
    wrapper = place / "bin" / "tetherctl"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m tetherctl "$@"\n')
    wrapper.chmod(0o755)
    return env | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}"}


CASES = [
    ("tetherctl mod", {"models"}),
    ("tetherctl models pu", {"push", "pull"}),
    ("tetherctl -o json models ro", {"rollback"}),
    ("tetherctl models show di", {"digits"}),
    ("tetherctl infer --deadline 2s d", {"digits"}),
    ("tetherctl models ls -o js", {"json"}),
    ("tetherctl infer x --keep", {"--keep-going"}),
    ("tetherctl completion z", {"zsh"}),
]


@pytest.fixture
def pushed(ctl: Any, daemon: Any, digits: Path) -> None:
    assert ctl("models", "push", str(digits)).returncode == 0


@needs("bash")
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_bash(shell_env: dict[str, str], pushed: None, line: str, expected: set[str]) -> None:
    words = " ".join(f"'{word}'" for word in line.split())
    script = f"source completions/tetherctl.bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
    script += '_tetherctl; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=shell_env, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected
    assert done.stderr == ""


@needs("fish")
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_fish(shell_env: dict[str, str], pushed: None, line: str, expected: set[str]) -> None:
    script = f"source completions/tetherctl.fish; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "-N", "-c", script], cwd=ROOT, env=shell_env, capture_output=True, text=True, check=True
    )
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == expected


@needs("zsh")
def test_zsh_first_tab_works_when_autoloaded(shell_env: dict[str, str], pushed: None) -> None:
    import pty
    import select

    outer, inner = pty.openpty()
    env = shell_env | {"TERM": "dumb", "ZDOTDIR": shell_env["HOME"]}
    process = subprocess.Popen(
        ["zsh", "-f", "-i"], cwd=ROOT, env=env, stdin=inner, stdout=inner, stderr=inner, start_new_session=True
    )
    os.write(outer, b"fpath=($PWD/completions $fpath); autoload -Uz compinit; compinit -u -D; PS1=READY; echo go\n")
    seen = b""

    def until(wanted: bytes) -> None:
        nonlocal seen
        while wanted not in seen:
            assert select.select([outer], [], [], 10)[0], seen
            seen += os.read(outer, 4096)

    until(b"\ngo\r")
    until(b"READY")
    seen = b""
    os.write(outer, b"tetherctl models show di\t")
    until(b"digits")
    process.kill()
    process.wait()
    os.close(outer)
    os.close(inner)
