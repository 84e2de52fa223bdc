"""The only module that prints: data on stdout, everything else on stderr, in the form that was asked for."""

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TextIO

import msgspec

from tetherctl.human import align, clean, clean_json
from tetherctl.settings import Settings
from tetherd.errors import TetherError

RED: Final = "31"
BOLD: Final = "1"
DIM: Final = "2"
MACHINE: Final = frozenset({"json", "ndjson"})


class StdoutClosed(Exception):
    """Whoever read our output has gone; there is nobody left to tell."""


class Column(NamedTuple):
    """One column of a human table: its title, how to say its cell, and whether that is a number."""

    title: str
    cell: Callable[[Any], object]
    number: bool = False


class Output:
    """Writes one command's results. ``form`` is table, json, ndjson or name."""

    def __init__(self, settings: Settings, stdout: TextIO | None, stderr: TextIO | None) -> None:
        self.adopt(settings)
        self.stdout = stdout
        self.stderr = stderr
        self.live = ""  # the progress line that stands on stderr and must be cleared before anything else is said
        for stream in (stdout, stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace", line_buffering=False)

    def adopt(self, settings: Settings) -> None:
        """Follow these settings from now on."""
        self.form = settings.output
        self.quiet = settings.quiet
        self.verbose = settings.verbose
        self.color = settings.color
        self.dumb = settings.dumb

    @property
    def machine(self) -> bool:
        """Whether a program reads this: then stderr carries nothing but one error object."""
        return self.form in MACHINE

    def say(self, text: str = "") -> None:
        """Write one line of data for people; ``text`` is already safe to show."""
        self.write(text + "\n")

    def write(self, text: str) -> None:
        """Write to stdout. Raises StdoutClosed, and OSError when the disk under it is full."""
        if self.stdout is None:
            return
        try:
            self.stdout.write(text)
        except BrokenPipeError:
            raise StdoutClosed from None

    def write_bytes(self, data: bytes) -> None:
        """Write bytes to stdout as they are."""
        if self.stdout is None:
            return
        try:
            self.stdout.flush()
            self.stdout.buffer.write(data)
        except BrokenPipeError:
            raise StdoutClosed from None

    def flush(self) -> None:
        """Make everything said so far arrive. Raises StdoutClosed."""
        try:
            if self.stdout:
                self.stdout.flush()
        except BrokenPipeError:
            raise StdoutClosed from None

    def note(self, text: str) -> None:
        """Say something beside the data; not with --quiet, nor to a program."""
        if not self.quiet and not self.machine:
            self._err(text + "\n")

    def detail(self, text: str) -> None:
        """Say something that only --verbose asks for."""
        if self.verbose and not self.machine:
            self._err(text + "\n")

    def progress(self, text: str, *, live: bool = False) -> None:
        """Write a line of progress; a ``live`` one is replaced by the next."""
        if live:
            self._raw(f"\r\x1b[K{text}")
            self.live = text
        else:
            self._err(text + "\n")

    def end_line(self) -> None:
        """Leave the live line of progress behind, so that the shell's prompt stands on its own line."""
        if self.live:
            self.live = ""
            self._raw("\n")

    def _err(self, text: str) -> None:
        if self.live:
            text, self.live = f"\r\x1b[K{text}", ""
        self._raw(text)

    def _raw(self, text: str) -> None:
        try:
            if self.stderr:
                self.stderr.write(text)
                self.stderr.flush()
        except OSError:
            self.stderr = None  # nobody reads our messages: the data may still matter

    def json(self, document: Any, *, pretty: bool = False) -> None:
        """Write one JSON value and a line break."""
        text = layout(document) if pretty else msgspec.json.encode(document).decode()
        encoding = (self.stdout.encoding or "ascii") if self.stdout else "ascii"
        self.write(clean_json(text, ascii_only=encoding.lower().replace("-", "") != "utf8") + "\n")

    def record(self, schema: str, document: dict[str, Any], lines: Iterable[str], name: str) -> None:
        """Write one thing: ``lines`` for people, the document with its schema id for programs, or its ``name``."""
        if self.form == "table":
            for line in lines:
                self.say(line)
        elif self.form == "name":
            self.say(clean(name))
        else:
            self.json({"schema": schema, **document}, pretty=self.form == "json" and is_terminal(self.stdout))
            if self.form == "ndjson":
                self.json({"schema": f"{schema}/end", "count": 1})

    def listing(
        self,
        schema: str,
        items: Sequence[dict[str, Any]],
        columns: Sequence[Column],
        name: Callable[[dict[str, Any]], str],
        summary: str,
    ) -> None:
        """Write a list: a table with a summary on stderr, one document, one object a line, or names alone."""
        if self.form == "table":
            self.table(items, columns)
            self.note(summary)
        elif self.form == "name":
            for item in items:
                self.say(clean(name(item)))
        elif self.form == "json":
            self.json({"schema": schema, "items": items}, pretty=is_terminal(self.stdout))
        else:
            for item in items:
                self.json(item)
            self.json({"schema": f"{schema}/end", "count": len(items)})

    def table(self, items: Sequence[Any], columns: Sequence[Column]) -> None:
        """Write aligned columns; nothing at all for no rows."""
        if items:
            rows = [[clean(column.cell(item)) for column in columns] for item in items]
            right = {i for i, column in enumerate(columns) if column.number}
            head, *body = align([column.title for column in columns], rows, right)
            for line in (self.paint(head, BOLD, self.stdout), *body):
                self.say(line)

    def paint(self, text: str, code: str, stream: TextIO | None) -> str:
        """Return ``text`` in a colour where ``stream`` shows colours."""
        shown = self.color == "always" or (self.color == "auto" and is_terminal(stream))
        return f"\x1b[{code}m{text}\x1b[0m" if shown else text

    def fail(self, error: TetherError) -> None:
        """Report an error on stderr: what, why, code, and last what to do."""
        if self.machine:
            document = {
                "schema": "tether.error/v1",
                "error": error.message,
                "code": error.code,
                "exit": error.exit_code,
            }
            document |= {"why": error.details.get("why", ""), "fix": error.fix, "retryable": error.retryable}
            document |= {key: value for key, value in error.details.items() if key != "why"}
            if error.retry_after is not None:
                document["retry_after_ms"] = int(error.retry_after * 1000)
            self._err(clean_json(msgspec.json.encode(document).decode(), ascii_only=True) + "\n")
            return
        lines = [f"{self.paint('error:', RED, self.stderr)} {clean(error.message)}"]
        if why := error.details.get("why"):
            lines.append(f"  why:  {clean(why)}")
        lines += [f"    - {clean(problem)}" for problem in _problems(error)]
        again = f"   try again in {error.retry_after:g} s" if error.retry_after is not None else ""
        lines.append(f"  code: {clean(error.code)}   exit {error.exit_code}{again}")
        if error.fix:
            lines.append(f"  fix:  {clean(error.fix)}")
        self._err("\n".join(lines) + "\n")

    def confirm(self, question: str) -> bool:
        """Ask on the terminal; anything but yes is no."""
        self._err(f"{question} [y/N] ")
        return bool(sys.stdin) and sys.stdin.readline().strip().lower() in {"y", "yes"}


def _problems(error: TetherError) -> list[str]:
    """Return one line for each of several causes, where the error has several."""
    listed = error.details.get("problems", [])
    if not isinstance(listed, list) or len(listed) < 2:
        return []
    return [f"{p.get('source', '')}: {p.get('key', '')}: {p.get('message', '')}; {p.get('fix', '')}" for p in listed]


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a person looks at ``stream``."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def layout(value: Any, indent: str = "") -> str:
    """Return a JSON value over several lines, with a list of plain values kept on one."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{msgspec.json.encode(str(k)).decode()}: {layout(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(inner + layout(item, inner) for item in value) + f"\n{indent}]"
    return msgspec.json.encode(value).decode()
