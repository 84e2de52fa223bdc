"""The installer: what it would do, that a dry run does nothing, and that it removes only what is its own."""

import os
import subprocess
from pathlib import Path

import pytest

from tetherd import __version__

ROOT = Path(__file__).parents[1]


def install(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    command = ["sh", str(ROOT / "install.sh"), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", ["--try", "--user", "--uninstall"])
def test_a_dry_run_does_nothing(mode: str, tmp_path: Path) -> None:
    before = (ROOT / ".try").exists()
    done = install(mode, "--dry-run", "--purge", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("+ ", "preparing"))
    assert list(tmp_path.iterdir()) == []
    assert (ROOT / ".try").exists() == before


def test_a_user_gets_the_programs_completions_and_manual(tmp_path: Path) -> None:
    shown = install("--user", "--dry-run", home=tmp_path).stdout
    for name in ("tetherd", "tetherctl"):
        assert (
            f"+ ln -sfn {tmp_path}/.local/share/tether/{__version__}/bin/{name} {tmp_path}/.local/bin/{name}\n" in shown
        )
    assert f"{tmp_path}/.local/share/bash-completion/completions/tetherctl\n" in shown
    assert f"{tmp_path}/.local/share/man/man1/tetherctl.1\n" in shown


@pytest.mark.parametrize(("arguments", "code"), [(["--nope"], 2), ([], 2), (["--help"], 0), (["--try", "--user"], 1)])
def test_wrong_usage_is_told(arguments: list[str], code: int, tmp_path: Path) -> None:
    done = install(*arguments, home=tmp_path)
    assert done.returncode == code
    assert "usage: ./install.sh" in done.stdout + done.stderr or "fix: choose one" in done.stderr


def test_a_python_that_is_too_old_is_told(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("dirname", "sed", "mkdir"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    environ = {"HOME": str(tmp_path), "PATH": str(tools)}
    command = ["/bin/sh", str(ROOT / "install.sh"), "--user"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "fix: install one" in done.stderr


@pytest.mark.skipif(os.getuid() == 0 and Path("/opt/tether").exists(), reason="would remove a real installation")
def test_removing_leaves_alone_what_is_not_its_own(tmp_path: Path) -> None:
    links = tmp_path / ".local/bin"
    links.mkdir(parents=True)
    (links / "tetherd").symlink_to("/usr/bin/true")
    (links / "tetherctl").symlink_to(tmp_path / ".local/share/tether/0.0.1/bin/tetherctl")
    (tmp_path / ".local/state/tether").mkdir(parents=True)
    assert install("--uninstall", home=tmp_path).returncode == 0
    assert [path.name for path in links.iterdir()] == ["tetherd"]
    assert (tmp_path / ".local/state/tether").exists(), "models are only removed when --purge is given"
    assert install("--uninstall", "--purge", home=tmp_path).returncode == 0
    assert not (tmp_path / ".local/state/tether").exists()
