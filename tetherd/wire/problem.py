"""An error as the JSON document that every HTTP answer with a status of 400 or more carries."""

from typing import Any

import orjson

from tetherd.errors import TetherError


def document(error: TetherError) -> bytes:
    """Return ``{"error", "code", "fix", "retryable"}`` and, where the error has any, ``details``."""
    problem: dict[str, Any] = {
        "error": error.message,
        "code": error.code,
        "fix": error.fix,
        "retryable": error.retryable,
    }
    if error.details:
        problem["details"] = error.details
    return orjson.dumps(problem, default=str)
