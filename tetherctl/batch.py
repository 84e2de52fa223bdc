"""Many requests at once, answers in the order of the questions."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

import msgspec

from tetherctl.client import Client
from tetherctl.errors import Partial
from tetherctl.session import Session
from tetherd.errors import TetherError, TooLarge

MAX_LINE: Final = 64 * 1024 * 1024


class Slot:
    """One line of input and, once ``done`` is set, its answer or what went wrong."""

    def __init__(self, number: int, line: bytes) -> None:
        self.number = number
        self.line = line
        self.answer = b""
        self.error: Exception | None = None
        self.done = threading.Event()


def run_batch(
    session: Session, ask: Callable[[Client, bytes], bytes], stream: BinaryIO, width: int, *, keep_going: bool
) -> int:
    """Answer every line; return the exit code. Raises the first line's error, or Partial with ``keep_going``."""
    session.connect()  # an endpoint that cannot be found is one error, not one a line
    total = failed = 0
    for slot in in_order(stream, session.connect, ask, width):
        total += 1
        if slot.error is None:
            _print(session, slot)
            continue
        if not isinstance(slot.error, TetherError):
            raise slot.error
        failed += 1
        slot.error.message = f"line {slot.number}: {slot.error.message}"
        if not keep_going:
            raise slot.error
        session.out.json({"error": slot.error.message, "code": slot.error.code, "line": slot.number})
        session.out.flush()
    if session.out.machine:
        session.out.json({"schema": "tether.infer/v1/end", "count": total, "failed": failed})
    if failed:
        raise Partial(f"{failed} of {total} lines failed", fix="the answers of those lines carry the reasons")
    return 0


def _print(session: Session, slot: Slot) -> None:
    session.out.json(msgspec.json.decode(slot.answer))
    session.out.flush()


def in_order(
    stream: BinaryIO, connect: Callable[[], Client], ask: Callable[[Client, bytes], bytes], width: int
) -> Iterator[Slot]:
    """Yield the lines' slots, answered, in order; at most ``2 * width`` lines are held at a time."""
    waiting: queue.Queue[Slot | None] = queue.Queue(maxsize=2 * width)
    tasks: queue.SimpleQueue[Slot] = queue.SimpleQueue()

    def work() -> None:
        client = connect()
        while True:
            slot = tasks.get()
            _answer(slot, client, ask)

    def read() -> None:
        for slot in lines(stream):
            waiting.put(slot)
            if slot.error:
                slot.done.set()
            else:
                tasks.put(slot)
        waiting.put(None)

    # Daemon threads: an interrupt must not wait for answers that may take minutes.
    for target in (read, *[work] * width):
        threading.Thread(target=target, daemon=True).start()
    while slot := waiting.get():
        slot.done.wait()
        yield slot


def _answer(slot: Slot, client: Client, ask: Callable[[Client, bytes], bytes]) -> None:
    from tetherctl.commands.infer import check_json

    try:
        check_json(slot.line, "the line")
        slot.answer = ask(client, slot.line)
    except Exception as error:
        slot.error = error
    finally:
        slot.done.set()


def lines(stream: BinaryIO) -> Iterator[Slot]:
    """Yield a slot for every line that is not blank; reading stops at one that is too long or cannot be read."""
    number = 0
    while True:
        number += 1
        try:
            line: Any = stream.readline(MAX_LINE + 1)
        except OSError as broken:
            yield _failed(number, broken)
            return
        except ValueError:  # closed by whoever stopped asking; a word about it would be said while the process ends
            return
        if len(line) > MAX_LINE:
            yield _failed(
                number, TooLarge(f"longer than {MAX_LINE >> 20} MiB", fix="split it; is it one JSON value a line?")
            )
            return
        if not line:
            return
        if line.strip():
            yield Slot(number, line)


def _failed(number: int, error: Exception) -> Slot:
    slot = Slot(number, b"")
    slot.error = error
    return slot
