"""Time for tests: a clock that is moved by hand, and an event loop that skips every wait.

No test waits for real time with it, and a test that could only hang says so instead.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from tetherd.types import Seconds

T = TypeVar("T")

_TURN: Final[Seconds] = 1e-7
"""What one turn of the loop takes: time that stood still could round a timer down to now, for ever."""


class Deadlock(AssertionError):
    """Every task waits, and no timer would ever wake one."""


class ManualClock:
    """Implements ports.Clock. Both its times move together, and only by ``advance``."""

    def __init__(self, now: Seconds = 1000.0) -> None:
        self.now = now

    def monotonic(self) -> Seconds:
        """See ports.Clock."""
        return self.now

    def wall(self) -> Seconds:
        """See ports.Clock."""
        return self.now

    def advance(self, seconds: Seconds) -> None:
        """Let time pass."""
        self.now += seconds


class LoopClock:
    """Implements ports.Clock by the time of the running event loop."""

    def monotonic(self) -> Seconds:
        """See ports.Clock."""
        return asyncio.get_running_loop().time()

    def wall(self) -> Seconds:
        """See ports.Clock."""
        return asyncio.get_running_loop().time()


class _Selector(selectors.SelectSelector):
    """Lets time jump to the next timer instead of waiting for it."""

    now: Seconds = 1000.0

    def select(self, timeout: Seconds | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += _TURN
        events = super().select(0)
        if not events:
            if timeout is None:
                raise Deadlock("every task waits for something that can no longer happen")
            self.now += timeout
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)
        self.set_default_executor(_AtOnce())

    def time(self) -> Seconds:
        return self._jumping.now


class _AtOnce(ThreadPoolExecutor):
    """Executes at once instead of in a thread: time must not jump while a thread works."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def simulate(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main()`` on an event loop of simulated time and return its result.

    Whenever every task waits, time jumps to the next timer. What should run in a thread runs on the loop. Raises
    Deadlock when there is no timer left to jump to. Nothing in it may wait for real sockets, threads or processes.
    """
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main())


def simulated(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Decorate a test so that it runs in simulated time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        simulate(lambda: test(*args, **kwargs))

    return run
