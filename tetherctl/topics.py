"""The texts behind ``tetherctl help TOPIC``; those on errors and options are made from the code they describe."""

from collections.abc import Callable
from typing import Final

from tetherctl.errors import LOCAL
from tetherctl.human import align
from tetherctl.settings import GLOBALS
from tetherd.errors import BY_CODE

EXIT_CODES: Final = (
    (0, "done", ""),
    (1, "the operation failed", "maybe"),
    (2, "the command line or the input is wrong", "no"),
    (3, "no such model, version or file", "no"),
    (4, "not allowed", "no"),
    (5, "the daemon cannot be reached", "yes"),
    (6, "out of time", "yes"),
    (7, "conflict: it exists, changed, or is in use", "no"),
    (8, "refused for now: queue full, nothing can serve it", "yes"),
    (9, "partial: some targets failed", "yes, those"),
    (11, "integrity: bytes are not what their digest promised", "no"),
    (70, "an error inside tether; a report file is named", ""),
    (78, "the configuration cannot be used", "no"),
    (130, "interrupted (Ctrl-C)", ""),
    (141, "whoever read the output went away", ""),
    (143, "terminated (SIGTERM)", ""),
)

QUICKSTART: Final = """\
Try tether on this machine:

  tetherd run                                        all roles in one daemon, on loopback
  tetherctl models push models/digits/               upload a model; its name is the folder's
  tetherctl infer digits < models/digits/example.json
  tetherctl status                                   who serves what
  tetherctl models ls

Make several machines one network:

  tetherctl cluster init --name home                 on the first one
  tetherctl cluster token --role worker > join.txt   a token for one more host, good for ten minutes
  tetherctl cluster join < join.txt                  on that host, whose worker serves from then on
  tetherctl nodes ls

Every command takes -o json for programs, and --help for its options."""

OUTPUT: Final = """\
Data goes to stdout, everything else to stderr.

  -o table    aligned columns for people (default); may change between versions
  -o json     one JSON document with a "schema", for example tether.models.list/v1
  -o ndjson   one JSON object a line; the last is {"schema": ".../end", "count": n}
  -o name     identifiers only, one a line

Times are RFC 3339 in UTC, lengths of time milliseconds, sizes bytes. Within a schema version fields are only added.
With -o json or ndjson, an error is one JSON object on stderr (tether.error/v1) and stderr holds nothing else.
infer prints the answer as the daemon gave it; -o json adds the schema to it."""

ENVIRONMENT: Final = """\
  TETHER_ENDPOINT      unix:///path/control.sock or http://host:port
  TETHER_OUTPUT        table, json, ndjson or name
  TETHER_TIMEOUT       500ms, 10s, 2m
  TETHER_JOIN_TOKEN    the token for cluster join, unless --token-file is given
  NO_COLOR             set: no colour           FORCE_COLOR   set: colour also off a terminal
  TERM=dumb            no colour, no progress bar
  XDG_CONFIG_HOME      where tether/cli.toml is looked for, instead of ~/.config
  XDG_RUNTIME_DIR      where tether/control.sock is looked for first

A flag beats the environment, which beats cli.toml (keys: endpoint, output, timeout, color).
Without an endpoint, the first control socket that exists is used: this user's daemon's, then the system's."""


def exit_codes() -> str:
    """Return the table of exit codes."""
    rows = [[str(code), meaning, again] for code, meaning, again in EXIT_CODES]
    return "\n".join(align(["code", "meaning", "try again?"], rows, {0}))


def errors() -> str:
    """Return the table of error codes, made from the error classes."""
    kinds = {kind.code: kind for kind in (*BY_CODE.values(), *LOCAL)}
    rows = [[kind.code, str(kind.exit_code), _first_line(kind.__doc__)] for _, kind in sorted(kinds.items())]
    return "\n".join(align(["code", "exit", "meaning"], rows, {1}))


def _first_line(doc: str | None) -> str:
    return (doc or "").partition("\n")[0].replace("``", "")


def globals_() -> str:
    """Return the table of global options, made from their declaration."""
    rows = []
    for option in GLOBALS:
        values = f" ({', '.join(option.choices)})" if option.choices else ""
        rows.append([f"{', '.join(option.flags)} {option.metavar}".rstrip(), f"{option.help}{values}"])
    rows += [["-h, --help", "Explain the command."], ["-V, --version", "Print the version."]]
    return "\n".join(align(["option", "meaning"], rows, set()))


TOPICS: Final[dict[str, Callable[[], str]]] = {
    "environment": lambda: ENVIRONMENT,
    "exit-codes": exit_codes,
    "output": lambda: OUTPUT,
    "errors": errors,
    "globals": globals_,
    "quickstart": lambda: QUICKSTART,
}


def topics() -> list[str]:
    """Return the names of all topics."""
    return list(TOPICS)
