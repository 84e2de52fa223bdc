"""An error as the JSON document that every HTTP answer with a status of 400 or more carries."""

from typing import Any

import orjson

from tetherd.errors import TetherError


def document(error: TetherError) -> bytes:
    """Return ``{"error", "code", "retryable"}`` and, where the error has any, ``fix`` and ``details``."""
    problem: dict[str, Any] = {"error": error.message, "code": error.code, "retryable": error.retryable}
    if error.fix:
        problem["fix"] = error.fix
    if error.details:
        problem["details"] = error.details
    return orjson.dumps(problem, default=str)
