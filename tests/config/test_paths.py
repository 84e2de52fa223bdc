"""Directories: the service manager's win, root has the system's, everybody else their own."""

import subprocess
import sys
from pathlib import Path

from tetherd.config.paths import Paths, find

HOME = Path("/home/ada")


def test_root_uses_the_directories_of_the_system() -> None:
    assert find({"XDG_STATE_HOME": "/elsewhere"}, uid=0, home=Path("/root")) == Paths(
        Path("/var/lib/tether"), Path("/var/cache/tether"), Path("/run/tether"), Path("/etc/tether")
    )


def test_a_user_has_their_own() -> None:
    assert find({}, uid=1000, home=HOME) == Paths(
        HOME / ".local/state/tether",
        HOME / ".cache/tether",
        HOME / ".local/state/tether/run",  # never a shared temporary directory
        HOME / ".config/tether",
    )


def test_xdg_variables_move_them_if_they_are_absolute() -> None:
    environ = {
        "XDG_STATE_HOME": "/s",
        "XDG_CACHE_HOME": "relative",
        "XDG_RUNTIME_DIR": "/run/user/1000",
        "XDG_CONFIG_HOME": "",
    }
    assert find(environ, uid=1000, home=HOME) == Paths(
        Path("/s/tether"), HOME / ".cache/tether", Path("/run/user/1000/tether"), HOME / ".config/tether"
    )


def test_the_service_manager_wins() -> None:
    environ = {
        "STATE_DIRECTORY": "/var/lib/one:/var/lib/two",
        "CACHE_DIRECTORY": "/var/cache/one",
        "RUNTIME_DIRECTORY": "/run/one",
        "CONFIGURATION_DIRECTORY": "/etc/one",
        "XDG_STATE_HOME": "/s",
    }
    for uid in (0, 1000):
        assert find(environ, uid=uid, home=HOME) == Paths(
            Path("/var/lib/one"), Path("/var/cache/one"), Path("/run/one"), Path("/etc/one")
        )


def test_files_within_them() -> None:
    paths = find({}, uid=0, home=HOME)
    assert paths.config_file == Path("/etc/tether/tetherd.toml")
    assert paths.control_socket == Path("/run/tether/control.sock")


def test_it_is_cheap_to_import() -> None:
    code = (
        "import sys, pathlib, collections.abc, typing; before = set(sys.modules);"
        "import tetherd.config.paths; print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["tetherd", "tetherd.config", "tetherd.config.paths"]
