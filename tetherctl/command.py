"""One command as typer runs it, with the one rule that typer lacks: an option is not set twice."""

from typing import Any

from typer.core import TyperCommand

from tetherctl.errors import Usage


class Command(TyperCommand):
    """A typer command that refuses an option set twice to different values, unless it may be repeated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as typer does. Raises Usage."""
        refuse_twice(self.params, args)
        return super().parse_args(ctx, args)


def refuse_twice(params: Any, args: list[str]) -> None:
    """Raise Usage when ``args`` set one of ``params`` twice to different values."""
    options = {flag: param for param in params for flag in param.opts if flag.startswith("-")}
    seen: dict[str, str] = {}
    words = iter(args)
    for word in words:
        if word == "--":
            return
        flag, equals, value = word.partition("=")
        param = options.get(flag)
        if param is None or getattr(param, "is_flag", False) or getattr(param, "multiple", False):
            continue
        value = value if equals else next(words, "")
        if seen.setdefault(param.name, value) != value:
            raise Usage(f"{flag} is set twice: {seen[param.name]!r} and {value!r}", fix="keep one of them")
