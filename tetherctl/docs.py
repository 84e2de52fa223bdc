"""Writes what packages install beside the program: ``python -m tetherctl.docs [DIRECTORY]``."""

import sys
from pathlib import Path

from tetherctl.completions import SHELLS
from tetherctl.manpages import page

NAMES = {"bash": "tetherctl.bash", "zsh": "_tetherctl", "fish": "tetherctl.fish"}


def documents() -> dict[str, str]:
    """Return every generated file by its path in the repository."""
    scripts = {f"completions/{NAMES[shell]}": make() for shell, make in SHELLS.items()}
    return {**scripts, "man/tetherctl.1": page()}


def write(root: Path) -> None:
    """Write them all below ``root``."""
    for name, text in documents().items():
        place = root / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
