"""Whatever runs until it is cancelled and says when it is ready: a server, a daemon."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any


@contextlib.asynccontextmanager
async def running(run: Callable[[Callable[[], None]], Coroutine[Any, Any, None]]) -> AsyncIterator[asyncio.Task[None]]:
    """Run it, once it is ready, until the end of the block. Raises what it raises before."""
    ready = asyncio.Event()
    task = asyncio.create_task(run(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if task.done():
            task.result()
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
