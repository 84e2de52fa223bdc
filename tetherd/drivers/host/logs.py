"""Log lines on stderr, as pino writes them, so that pino-pretty and every collector that knows pino can read them.

A line is made where it is logged and written by a thread of its own: a slow reader of stderr never stops the event
loop. Nothing here grows without bound: lines that come too fast are counted instead, and so are those that find the
queue full.
"""

import json
import logging
import os
import queue
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from pythonjsonlogger.orjson import OrjsonFormatter

from tetherd.config.schema import LogFormat, LogLevel
from tetherd.errors import TetherError
from tetherd.ports import REQUEST_ID
from tetherd.types import Seconds

PER_CAUSE: Final = 100
"""Lines per second that one place in the code may write."""
QUEUED: Final = 10_000
"""Lines that may wait for stderr."""
LONGEST: Final = 8192
"""Characters of a message or a stack that are written."""

RESERVED: Final = frozenset({"level", "time", "pid", "hostname", "name", "msg", "err", "v"})
"""Fields with a meaning in pino; an extra field of such a name is written with an underscore after it."""

Cause: TypeAlias = tuple[str, int]

_LEVELS: Final[dict[LogLevel, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_COLOURS: Final = {
    "DEBUG": "\x1b[2m",
    "INFO": "\x1b[32m",
    "WARN": "\x1b[33m",
    "ERROR": "\x1b[31m",
    "FATAL": "\x1b[31;1m",
}
_NAMES: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}
_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Bound:
    """Admits at most ``limit`` lines per cause and second, and counts the others."""

    def __init__(self, limit: int = PER_CAUSE) -> None:
        self._limit = limit
        self._until: Seconds = 0.0
        self._seen: dict[Cause, int] = {}

    @property
    def pending(self) -> bool:
        """Whether lines were suppressed that nobody was told of yet."""
        return any(seen > self._limit for seen in self._seen.values())

    def admit(self, cause: Cause) -> bool:
        """Return whether one more line of that cause may be written in this second."""
        seen = self._seen[cause] = self._seen.get(cause, 0) + 1
        return seen <= self._limit

    def roll(self, now: Seconds) -> dict[Cause, int]:
        """Start a new second if the last is over, and return how many lines of each cause it suppressed."""
        if now < self._until:
            return {}
        suppressed = {cause: seen - self._limit for cause, seen in self._seen.items() if seen > self._limit}
        self._until = now + 1.0
        self._seen.clear()
        return suppressed


class Json(OrjsonFormatter):
    """One pino line per record."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal
        self._process = {"pid": os.getpid(), "hostname": os.uname().nodename}

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, without its end."""
        line = super().format(record)
        return f"<{_priority(record.levelno)}>{line}" if self._journal else line

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Fill in what pino would: its levels are Python's plus 10, its times are milliseconds since the epoch."""
        log_data.update(level=record.levelno + 10, time=int(record.created * 1000), **self._process, name=record.name)
        if request_id := REQUEST_ID.get():
            log_data["request_id"] = request_id
        log_data["msg"] = _bounded(record.message)
        log_data.update(_extra(record))
        log_data.update({_free(str(key)): value for key, value in message_dict.items() if key != "exc_info"})
        if record.exc_info and record.exc_info[1]:
            log_data["err"] = _error(record.exc_info[1])

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return the line; whatever someone logs, there is one."""
        try:
            return super().jsonify_log_record(log_data)
        except TypeError:  # half a surrogate pair, a number beyond 64 bits, a cycle
            plain = {key: each if isinstance(each, int | str) else repr(each) for key, each in log_data.items()}
            return json.dumps(plain)


class Pretty(logging.Formatter):
    """Lines for a person at a terminal; nothing that is logged can move the cursor or change colours."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line, with the stack of an unexpected exception below it."""
        level = _NAMES.get(record.levelname, record.levelname)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{int(record.msecs):03d}"
        extra = _extra(record)
        if request_id := REQUEST_ID.get():
            extra.setdefault("request_id", request_id)
        name = record.name.removeprefix("tetherd.")
        fields = "".join(f" {key}={_plain(str(value))}" for key, value in extra.items())
        shown = f"{_COLOURS.get(level, '')}{level:5}\x1b[0m" if self._colour else f"{level:5}"
        line = f"{clock} {shown} {name}: {_plain(_bounded(record.getMessage()))}{fields}"
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, TetherError):
            return f"{line}: {_plain(error.message)}"
        return f"{line}\n{_plain(_stack(error), keep=chr(10))}" if error else line


class Writer(logging.Handler):
    """Writes lines to a file descriptor from a thread of its own, each with one call, so that processes that share
    stderr do not tear each other's lines apart."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._bound = Bound()
        self._lost = 0
        self._waiting: queue.Queue[bytes | None] = queue.Queue(QUEUED)
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record; never waits."""
        try:
            self._sweep()
            if self._bound.admit((record.pathname, record.lineno)):
                self._put(record)
            elif self._waiting.empty():
                self._waiting.put_nowait(b"")  # so that the thread knows there is a count to report
        except Exception:  # logging must not break what it reports on
            self.handleError(record)

    def close(self) -> None:
        """Write what still waits, as far as that takes no more than two seconds."""
        if self._thread.is_alive():
            self._sweep(final=True)
            try:
                self._waiting.put(None, timeout=1)
            except queue.Full:
                return
            self._thread.join(timeout=2)
        super().close()

    def _put(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait((self.format(record) + "\n").encode("utf-8", "backslashreplace"))
        except queue.Full:
            self._lost += 1

    def _sweep(self, *, final: bool = False) -> None:
        for (path, line), count in self._bound.roll(float("inf") if final else time.monotonic()).items():
            place = f"{os.path.basename(path)}:{line}"  # noqa: PTH119  a word for a message, not a path to use
            self._put(_own_record(f"{count} more lines like this were not written", cause=place))
        if self._lost and not self._waiting.full():
            lost, self._lost = self._lost, 0
            self._put(_own_record(f"{lost} lines were lost: whoever reads stderr is too slow"))

    def _report(self) -> None:
        self.acquire()
        try:
            self._sweep()
        finally:
            self.release()

    def _write(self) -> None:
        while True:
            try:
                line = self._waiting.get(timeout=1 if self._bound.pending or self._lost else None)
            except queue.Empty:
                self._report()
                continue
            if line is None:
                return
            _write_all(self._fd, line)


@contextmanager
def writing(level: LogLevel, form: LogFormat, environ: Mapping[str, str], fd: int = 2) -> Iterator[Writer]:
    """Send every log line of this process to ``fd`` while the context lasts."""
    writer = Writer(fd)
    writer.setFormatter(_formatter(form, environ, fd))
    root = logging.getLogger()
    before, before_level = root.handlers[:], root.level
    root.handlers[:] = [writer]
    root.setLevel(_LEVELS[level])
    logging.captureWarnings(True)
    try:
        yield writer
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before
        root.setLevel(before_level)
        writer.close()


def _formatter(form: LogFormat, environ: Mapping[str, str], fd: int) -> logging.Formatter:
    terminal = os.isatty(fd)
    if form == "pretty" or (form == "auto" and terminal):
        return Pretty(colour=terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb")
    return Json(journal=_is_journal(environ.get("JOURNAL_STREAM", ""), fd))


def _is_journal(stream: str, fd: int) -> bool:
    # The variable is inherited by everything the service starts; only the very same pipe leads to the journal.
    found = os.fstat(fd)
    return stream == f"{found.st_dev}:{found.st_ino}"


def _write_all(fd: int, line: bytes) -> None:
    try:
        while line:
            line = line[os.write(fd, line) :]
    except OSError:  # nobody reads stderr any more; there is nowhere left to say so
        return


def _own_record(message: str, **extra: str) -> logging.LogRecord:
    fields = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": message}
    return logging.makeLogRecord(fields | extra)


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {_free(key): value for key, value in record.__dict__.items() if key not in _OWN}


def _free(key: str) -> str:
    return f"{key}_" if key in RESERVED else key


def _error(error: BaseException) -> dict[str, str]:
    described = {"type": type(error).__name__, "message": _bounded(str(error)), "stack": _bounded(_stack(error))}
    return described | ({"code": error.code, "fix": error.fix} if isinstance(error, TetherError) else {})


def _stack(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text) - LONGEST} more characters)"


def _plain(text: str, keep: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)
