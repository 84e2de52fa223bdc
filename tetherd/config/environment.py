"""The one place that reads the process environment; everything else is handed it."""

import os
from collections.abc import Mapping


def environment() -> Mapping[str, str]:
    """Return the environment of this process."""
    return os.environ
