"""The command line of the daemon: reads settings, starts it, stops it, and turns what went wrong into an exit code."""

import argparse
import asyncio
import errno
import logging
import os
import platform
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, get_args

from tetherd import __version__
from tetherd.config import load, show
from tetherd.config.environment import environment
from tetherd.config.layers import MAX_FILE
from tetherd.config.parse import Settings
from tetherd.config.schema import Config, LogFormat, LogLevel
from tetherd.drivers.host import directories, lock, logs
from tetherd.drivers.host.systemd import Notifier
from tetherd.errors import BadConfig, InUse, TetherError
from tetherd.types import ROLES

LOG = logging.getLogger("tetherd")

OK: Final = 0
FAILED: Final = 1
IN_USE: Final = 3
FORCED: Final = 4
CONFIG: Final = 78

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
GRACE: Final = 10.0
"""Seconds that stopping may take beyond the drain deadline before it is forced."""

_EXITS: Final = """\
exit codes: 0 stopped as asked; 1 failed; 2 wrong usage; 3 another process holds the state directory or an address;
4 stopped by force; 78 the configuration cannot be used
"""


class Serve(Protocol):
    """Runs the daemon until cancelled, and drains before it lets the cancellation through."""

    def __call__(self, config: Config, *, ready: Callable[[], None]) -> Awaitable[None]:
        """Call ``ready`` once requests can be served."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = command_line()
    chosen = parser.parse_args(arguments)
    if not hasattr(chosen, "command"):
        parser.print_help(sys.stderr)
        return 2
    try:
        return int(chosen.command(chosen))
    except BadConfig as error:
        _complain_of_settings(error)
        return CONFIG


def run(config: Config, serve: Serve) -> int:
    """Serve until a signal or a failure ends it; return the exit code."""
    with logs.writing(config.log.level, config.log.format, environment()):
        try:
            for directory in (config.node.state_dir, config.node.cache_dir, config.node.runtime_dir):
                directories.private(directory)
            with lock.hold(config.node.state_dir):
                _loop(config, serve)
        except Exception as error:
            return _complain(_cause(error))
    return OK


def _loop(config: Config, serve: Serve) -> None:
    import uvloop  # only this command needs it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_stopped(config, serve))


async def _until_stopped(config: Config, serve: Serve) -> None:
    notifier = Notifier(environment())
    task = asyncio.current_task()
    assert task
    stop = _Stop(task, notifier, config.drain.deadline)
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    watchdog = asyncio.create_task(notifier.watchdog())

    def ready() -> None:
        LOG.info("ready", extra={"node_name": config.node.name, "roles": config.node.roles, "version": __version__})
        notifier.ready()
        notifier.status(f"serving as {', '.join(config.node.roles)}")

    try:
        await serve(config, ready=ready)
    except asyncio.CancelledError:
        if not stop.asked:
            raise
    finally:
        watchdog.cancel()
    LOG.info("stopped")


class _Stop:
    """The first signal asks the daemon to stop; the second, or time running out, ends it at once."""

    def __init__(self, task: asyncio.Task[Any], notifier: Notifier, deadline: float) -> None:
        self.asked = False
        self._task = task
        self._notifier = notifier
        self._deadline = deadline

    def __call__(self, number: int) -> None:
        """Take the first signal."""
        self.asked = True
        name = signal.Signals(number).name
        LOG.info("stopping: finishing what is in flight", extra={"signal": name, "deadline_s": self._deadline})
        loop = asyncio.get_running_loop()
        for each in SIGNALS:
            loop.remove_signal_handler(each)
            # Not through the loop: the second signal must also end a daemon whose loop does not turn any more.
            signal.signal(each, lambda again, _: _force(f"a second signal ({signal.Signals(again).name})"))
        loop.call_later(self._deadline + GRACE, _force, "stopping took too long")
        self._notifier.stopping(self._deadline + GRACE)
        self._notifier.status("stopping")
        self._task.cancel()


def _force(why: str) -> None:
    os.write(2, f"tetherd: {why}: stopped by force, requests in flight are lost\n".encode())
    os._exit(FORCED)


def _cause(error: BaseException) -> BaseException:
    """Return what ended the daemon: a task group wraps it once per level."""
    while isinstance(error, BaseExceptionGroup):
        known = error.subgroup(TetherError)
        error = (known or error).exceptions[0]
    return error


def _complain(error: BaseException) -> int:
    if isinstance(error, TetherError):
        LOG.critical("%s", error.message, extra={"code": error.code, "fix": error.fix})
        return CONFIG if isinstance(error, BadConfig) else IN_USE if isinstance(error, InUse) else FAILED
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        LOG.critical("an address is taken: %s", error, extra={"fix": "stop who uses it, or set another address"})
        return IN_USE
    LOG.critical("the daemon failed", exc_info=error)
    return FAILED


def _complain_of_settings(error: BadConfig) -> None:
    for problem in error.details["problems"]:
        place = problem["source"] + (f":{problem['column']}" if problem["column"] else "")
        what = ": ".join(part for part in (place, problem["key"], problem["message"]) if part)
        sys.stderr.write(f"tetherd: {what}\n  fix: {problem['fix']}\n")


def _run(chosen: argparse.Namespace) -> int:
    settings = _settings(chosen)
    from tetherd.daemon import serve  # the other commands need not load it

    return run(settings.config, serve)


def _validate(chosen: argparse.Namespace) -> int:
    file = chosen.file or chosen.config
    if file == "-":
        load.load_text(sys.stdin.buffer.read(MAX_FILE + 1), "stdin")
    else:
        load.load(Path(file) if file else None)
    _print("the configuration is valid\n")
    return OK


def _config(chosen: argparse.Namespace) -> int:
    text = show.default(load.defaults()) if chosen.default else show.effective(_settings(chosen))
    _print(text)
    return OK


def _version(chosen: argparse.Namespace) -> int:
    python, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    if chosen.json:
        import json

        _print(json.dumps({"version": __version__, "python": python, "platform": system}) + "\n")
    else:
        _print(f"tetherd {__version__} (Python {python}, {system})\n")
    return OK


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader had enough; end as every other program does then
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)


def _settings(chosen: argparse.Namespace) -> Settings:
    named: dict[tuple[str, ...], tuple[str, Any]] = {}
    if chosen.role:
        named["node", "roles"] = ("--role", chosen.role)
    if chosen.no_mdns:
        named["cluster", "mdns"] = ("--no-mdns", False)
    if chosen.log_level:
        named["log", "level"] = ("--log-level", chosen.log_level)
    if chosen.log_format:
        named["log", "format"] = ("--log-format", chosen.log_format)
    return load.load(Path(chosen.config) if chosen.config else None, chosen.set, named)


def command_line() -> argparse.ArgumentParser:
    """Return the parser of every command and option."""
    parser = argparse.ArgumentParser("tetherd", description="The Tether daemon.", epilog=_EXITS, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    run_parser = commands.add_parser("run", help="serve until told to stop", allow_abbrev=False)
    _add_settings(run_parser)
    run_parser.set_defaults(command=_run)
    validate = commands.add_parser("validate", help="say everything that is wrong with a configuration")
    where = validate.add_mutually_exclusive_group()
    where.add_argument("file", nargs="?", metavar="FILE", help="the file to look at; - is standard input")
    where.add_argument("--config", metavar="FILE", help="the same")
    validate.set_defaults(command=_validate)
    config = commands.add_parser("config", help="print settings as TOML", allow_abbrev=False)
    which = config.add_mutually_exclusive_group(required=True)
    which.add_argument("--default", action="store_true", help="every setting, explained, at its default")
    which.add_argument("--effective", action="store_true", help="every setting in force and where it was set")
    _add_settings(config)
    config.set_defaults(command=_config)
    version = commands.add_parser("version", help="print the version")
    version.add_argument("--json", action="store_true", help="as one JSON document")
    version.set_defaults(command=_version)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    levels, forms = get_args(LogLevel), get_args(LogFormat)
    parser.add_argument("--config", metavar="FILE", help="the configuration file (default: tetherd.toml, if there)")
    parser.add_argument(
        "--role", action="append", metavar="ROLE", help=f"host this role: {', '.join(ROLES)}; repeat it"
    )
    parser.add_argument("--no-mdns", action="store_true", help="find no nodes by multicast (cluster.mdns = false)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeat it")
    parser.add_argument("--log-level", metavar="LEVEL", help=", ".join(levels))
    parser.add_argument("--log-format", metavar="FORMAT", help=", ".join(forms))


if __name__ == "__main__":
    sys.exit(main())
