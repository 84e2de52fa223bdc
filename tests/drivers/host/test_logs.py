"""Log lines: the exact shape pino writes, request ids, bounds, and that nothing logged can break or block anything."""

import asyncio
import json
import logging
import os
import pty
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tetherd.config.schema import LogFormat, LogLevel
from tetherd.drivers.host import logs
from tetherd.drivers.host.logs import Bound, Pretty
from tetherd.errors import QueueFull
from tetherd.ports import REQUEST_ID

LOG = logging.getLogger("tetherd.gateway")


@contextmanager
def written(
    level: LogLevel = "debug", form: LogFormat = "json", environ: dict[str, str] | None = None
) -> Iterator[list[str]]:
    """Collect what is written to a pipe while the context lasts."""
    reader, writer = os.pipe()
    lines: list[str] = []
    with os.fdopen(reader, encoding="utf-8") as source:
        collector = threading.Thread(target=lambda: lines.extend(source))
        collector.start()
        try:
            with logs.writing(level, form, environ or {}, writer):
                yield lines
        finally:
            os.close(writer)
            collector.join()


def test_a_line_is_what_pino_writes() -> None:
    before = int(time.time() * 1000)
    with written() as lines:
        LOG.info("listening on %s", "127.0.0.1:3000", extra={"port": 3000, "model": "digits"})
    (line,) = lines
    found = json.loads(line)
    assert before <= found.pop("time") <= int(time.time() * 1000)
    assert found == {
        "level": 30,
        "pid": os.getpid(),
        "hostname": os.uname().nodename,
        "name": "tetherd.gateway",
        "msg": "listening on 127.0.0.1:3000",
        "port": 3000,
        "model": "digits",
    }
    assert list(json.loads(line))[:5] == ["level", "time", "pid", "hostname", "name"]


def test_levels_are_pinos() -> None:
    with written() as lines:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            LOG.log(level, "x")
    assert [json.loads(line)["level"] for line in lines] == [20, 30, 40, 50, 60]


def test_lines_below_the_level_are_not_written() -> None:
    with written("warn") as lines:
        LOG.info("no")
        LOG.warning("yes")
    assert [json.loads(line)["msg"] for line in lines] == ["yes"]


def test_an_exception_is_err() -> None:
    with written() as lines:
        try:
            raise QueueFull("too much waits", fix="wait")
        except QueueFull:
            LOG.exception("failed")
    err = json.loads(lines[0])["err"]
    assert err.pop("stack").startswith("Traceback (most recent call last):\n")
    assert err == {"type": "QueueFull", "message": "too much waits", "code": "QUEUE_FULL", "fix": "wait"}
    assert "exc_info" not in json.loads(lines[0])


async def test_every_line_of_a_request_carries_its_id() -> None:
    async def serve(request_id: str) -> None:
        REQUEST_ID.set(request_id)
        LOG.info("one")
        await asyncio.sleep(0)
        LOG.info("two")

    with written() as lines:
        await asyncio.gather(serve("a"), serve("b"))
        LOG.info("none")
    found = [(each["msg"], each.get("request_id")) for each in map(json.loads, lines)]
    assert sorted(found[:4]) == [("one", "a"), ("one", "b"), ("two", "a"), ("two", "b")]
    assert found[4] == ("none", None)


def test_fields_of_pino_cannot_be_overwritten() -> None:
    with written() as lines:
        LOG.info("x", extra={"level": "high", "time": "noon", "pid": 0, "err": "e", "request_id": "own"})
    found = json.loads(lines[0])
    assert (found["level"], found["pid"]) == (30, os.getpid())
    kept = {key: found[key] for key in ("level_", "time_", "pid_", "err_", "request_id")}
    assert kept == {"level_": "high", "time_": "noon", "pid_": 0, "err_": "e", "request_id": "own"}


def test_whatever_is_logged_gives_one_line() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with written() as lines:
        for value in ("a\nb\x1b[31m", "\udc80", 2**70, cycle, float("nan"), b"\xff", object(), {1: 2}):
            LOG.info("value %s", value, extra={"value": value})
        LOG.info({"msg": "a dictionary", "model": "digits"})
    found = [json.loads(line) for line in lines]
    assert len(found) == 9
    assert found[0]["value"] == "a\nb\x1b[31m"
    assert found[8] | {"msg_": "a dictionary", "model": "digits"} == found[8]


def test_long_messages_are_cut() -> None:
    with written() as lines:
        LOG.info("x" * 100_000)
    assert json.loads(lines[0])["msg"] == "x" * logs.LONGEST + f"... ({100_000 - logs.LONGEST} more characters)"


def test_the_journal_gets_priorities_only_where_it_listens() -> None:
    reader, writer = os.pipe()
    found = os.fstat(writer)
    ours = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
    for environ in (ours, {"JOURNAL_STREAM": "1:1"}, {}):
        with logs.writing("debug", "auto", environ, writer):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
                LOG.log(level, "x")
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as source:
        starts = [line[:3] for line in source]
    assert starts == ["<7>", "<6>", "<4>", "<3>", "<2>", *['{"l'] * 10]


def test_a_flood_is_counted_instead_of_written() -> None:
    with written() as lines:
        for index in range(logs.PER_CAUSE + 50):
            LOG.warning("again %d", index)
        LOG.warning("something else")
    messages = [json.loads(line)["msg"] for line in lines]
    assert messages[logs.PER_CAUSE - 1 :] == [
        f"again {logs.PER_CAUSE - 1}",
        "something else",
        "50 more lines like this were not written",
    ]
    assert json.loads(lines[-1])["cause"].startswith("test_logs.py:")


def test_the_count_of_a_flood_is_told_even_if_silence_follows() -> None:
    reader, writer = os.pipe()
    with logs.writing("debug", "json", {}, writer):
        for index in range(logs.PER_CAUSE + 1):
            LOG.warning("again %d", index)
        found = b""
        while b"1 more lines like this" not in found:
            assert select.select([reader], [], [], 5)[0], "nothing was told within five seconds"
            found += os.read(reader, 65536)
    os.close(writer)
    os.close(reader)


def test_the_bound_is_per_cause_and_second() -> None:
    bound, one, two = Bound(2), ("f", 1), ("f", 2)
    assert bound.roll(10.0) == {}
    assert [bound.admit(one) for _ in range(4)] == [True, True, False, False]
    assert bound.admit(two)
    assert bound.pending
    assert bound.roll(10.9) == {}
    assert bound.roll(11.0) == {one: 2}
    assert not bound.pending
    assert bound.admit(one)


def test_a_reader_that_does_not_read_stops_nobody() -> None:
    reader, writer = os.pipe()
    with logs.writing("debug", "json", {}, writer) as handler:
        handler._bound = Bound(10**9)
        started = time.monotonic()
        for _ in range(logs.QUEUED + 2000):
            LOG.info("x")
        assert time.monotonic() - started < 5
        collected: list[bytes] = []
        collector = threading.Thread(target=lambda: collected.extend(iter(lambda: os.read(reader, 2**16), b"")))
        collector.start()
        while not handler._waiting.empty():
            time.sleep(0.01)
        LOG.info("last")
    os.close(writer)
    collector.join()
    os.close(reader)
    messages = [json.loads(line)["msg"] for line in b"".join(collected).splitlines()]
    assert messages[-1] == "last"
    lost = [int(message.split()[0]) for message in messages if "lines were lost" in message]
    assert sum(lost) > 0
    assert sum(lost) + messages.count("x") == logs.QUEUED + 2000


def test_a_closed_stderr_stops_nobody() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with logs.writing("debug", "json", {}, writer):
        LOG.info("x")
    os.close(writer)


def test_a_terminal_gets_lines_for_people() -> None:
    leader, follower = pty.openpty()
    with logs.writing("info", "auto", {"NO_COLOR": "1"}, follower):
        LOG.info("serving", extra={"model": "digits"})
    shown = os.read(leader, 4096).decode()
    os.close(leader)
    os.close(follower)
    assert shown[12:].rstrip() == " INFO  gateway: serving model=digits"


def test_pretty_lines_cannot_command_the_terminal() -> None:
    record = logging.makeLogRecord({"name": "tetherd.x", "msg": "a\x1b[2J\u202e\nb", "levelname": "WARNING", "k": "\r"})
    line = Pretty(colour=False).format(record)
    assert line.endswith("WARN  x: a\\x1b[2J\\u202e\\nb k=\\r")
    assert "\x1b[33mWARN \x1b[0m" in Pretty(colour=True).format(record)


def test_pretty_lines_show_the_stack_of_a_surprise_only() -> None:
    shown = []
    for error in (QueueFull("too much waits"), ValueError("surprise")):
        record = logging.makeLogRecord({"name": "t", "msg": "failed", "exc_info": (type(error), error, None)})
        shown.append(Pretty(colour=False).format(record))
    assert shown[0].endswith("t: failed: too much waits")
    assert shown[1].endswith("t: failed\nValueError: surprise")


def test_logging_is_as_it_was_afterwards() -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    with written("error"):
        assert root.level == logging.ERROR
    assert (root.handlers, root.level) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "logs"]
