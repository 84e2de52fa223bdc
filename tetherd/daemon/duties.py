"""Keeps the duties going that a daemon can serve without. Never ends it: what goes wrong there is nobody's request."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from tetherd.types import Seconds

Duty: TypeAlias = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Work that runs until cancelled; it calls what it is given once it is ready."""

PAUSE: Final[Seconds] = 5.0

_log = logging.getLogger("tetherd.daemon")


def enduring(duty: Duty, pause: Seconds = PAUSE) -> Duty:
    """Return a duty that starts again, ``pause`` seconds after every exception that nobody expected."""

    async def run(ready: Callable[[], None]) -> None:
        while True:
            try:
                return await duty(ready)
            except Exception:
                _log.exception("a duty met a bug; it starts again in %g s", pause, extra={"duty": duty.__qualname__})
            await asyncio.sleep(pause)

    return run
