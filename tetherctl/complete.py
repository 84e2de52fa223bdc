"""Answers a shell's question for identifiers while a word is typed: quickly, or not at all."""

from typing import Final

from tetherctl.human import clean
from tetherctl.session import Session
from tetherd.errors import TetherError

PATIENCE: Final = 0.3


def answer(session: Session, words: list[str]) -> int:
    """Print the model names that start with the last of ``words``, one a line. Says nothing on any failure."""
    prefix = words[-1] if words else ""
    try:
        models = session.connect(PATIENCE).json("GET", "/api/v1/models")["models"]
        for name in sorted(str(item["name"]) for item in models):
            if name.startswith(prefix):
                session.out.say(clean(name))
    except (TetherError, OSError, LookupError, TypeError):
        return 1
    return 0
