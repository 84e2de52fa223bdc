"""How far a transfer is: a bar on a terminal, a line a phase elsewhere, or JSON lines. Never goes backwards."""

import os
import time
from collections.abc import Callable
from typing import Final

from tetherctl.human import clean, size, span
from tetherctl.output import Output, is_terminal

REFRESH: Final = 0.1
PLAIN_EVERY: Final = 5.0
BAR: Final = 24


class Progress:
    """The phases of one transfer of ``label``, counted in bytes."""

    def __init__(self, out: Output, form: str, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.out = out
        self.form = choose(form, out)
        self.label = clean(label)
        self.clock = clock
        self.name = ""
        self.total = 0
        self.done = 0
        self.started = 0.0
        self.first = 0
        self._shown = 0.0

    @property
    def percent(self) -> int:
        """Whole percents of the phase that are done."""
        return 100 if not self.total else min(100, self.done * 100 // self.total)

    def phase(self, name: str, total: int = 0, done: int = 0) -> None:
        """Begin a phase of ``total`` bytes of which ``done`` need not be moved again."""
        self.name, self.total, self.done, self.first = name, total, done, done
        self.started = self._shown = self.clock()
        self._show(final=False)

    def reach(self, done: int) -> None:
        """Say that ``done`` bytes of the phase are through; fewer than before changes nothing."""
        self.done = max(self.done, done)
        now = self.clock()
        if now - self._shown >= (PLAIN_EVERY if self.form == "plain" else REFRESH):
            self._shown = now
            self._show(final=False)

    def retry(self, attempt: int, reason: str) -> None:
        """Say that the connection is tried again."""
        if self.form == "json":
            self._json(retry=attempt, reason=reason)
        elif self.form != "none":
            self.out.progress(f"  {self.name:<8} retry {attempt}: {clean(reason)}")

    def finish(self) -> None:
        """End the phase."""
        self.done = self.total
        self._show(final=True)

    def _show(self, *, final: bool) -> None:
        if self.form == "json":
            self._json(done=self.done, total=self.total, complete=final)
        elif self.form == "bar":
            self.out.progress(self._bar(self._width(), final=final), live=not final)
        elif self.form == "plain" and (final or self.done > self.first):
            self.out.progress(self._plain(final=final))

    def _json(self, **fields: object) -> None:
        import msgspec

        event = {"schema": "tether.progress/v1", "what": self.label, "phase": self.name, **fields}
        self.out.progress(msgspec.json.encode(event).decode())

    def _plain(self, *, final: bool) -> str:
        if final:
            moved = f"  {size(self.total)} in {span(self.clock() - self.started)}" if self.total else ""
            return f"  {self.name:<8} done{moved}"
        return f"  {self.name:<8} {self.percent}%  {size(self.done)} of {size(self.total)}"

    def _bar(self, width: int, *, final: bool) -> str:
        if not self.total:  # nothing to measure: one question and its answer
            return f"  {self.name:<8} {'done' if final else '...'}"[: max(width - 1, 0)]
        filled = BAR * self.percent // 100
        bar = f"[{'#' * filled}{'-' * (BAR - filled)}]"
        parts = [f"  {self.name:<8}", bar, f"{self.percent:3d}%", f" {size(self.done)}/{size(self.total)}"]
        seconds = self.clock() - self.started
        rate = (self.done - self.first) / seconds if seconds > 0.5 else 0
        if rate and not final:
            parts += [f" {size(rate)}/s", f" eta {span((self.total - self.done) / rate)}"]
        elif final:
            parts.append(f" in {span(seconds)}")
        return " ".join(parts)[: max(width - 1, 0)]

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self.out.stderr.fileno()).columns if self.out.stderr else 80
        except (OSError, ValueError):
            return 80


def choose(form: str, out: Output) -> str:
    """Turn ``auto`` into what suits stderr: nothing for programs and --quiet, a bar on a terminal, else plain lines."""
    if form != "auto":
        return form
    if out.quiet or out.machine:
        return "none"
    return "bar" if is_terminal(out.stderr) and not out.dumb else "plain"
