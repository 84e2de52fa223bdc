"""Every command: its place in the tree, where its code is, and its summary. Imports none of them."""

from difflib import get_close_matches
from typing import Final, NamedTuple

from tetherctl.errors import Usage


class Entry(NamedTuple):
    """One command: ``module:function``, a summary for lists, the heading it is listed under."""

    target: str
    summary: str
    section: str


GROUPS: Final = {
    "models": "Push, list and steer models.",
    "cluster": "Found a network of hosts, let hosts in, join one.",
    "nodes": "Look at the nodes of the network and send them away.",
    "config": "Look at the configuration in effect.",
}

COMMANDS: Final = {
    "infer": Entry("infer:infer", "Run a model on JSON from stdin or a file.", "Use"),
    "models ls": Entry("models:ls", "List models.", "Models"),
    "models show": Entry("models:show", "Show one model: versions, aliases, signature, runners.", "Models"),
    "models push": Entry("push:push", "Upload a model and make it a new version.", "Models"),
    "models pull": Entry("pull:pull", "Download a version's files.", "Models"),
    "models versions": Entry("models:versions", "List the versions of a model.", "Models"),
    "models promote": Entry("models:promote", "Point an alias at a version.", "Models"),
    "models rollback": Entry("models:rollback", "Point an alias back at where it was before.", "Models"),
    "models load": Entry("models:load", "Load a version now and keep it loaded.", "Models"),
    "models unload": Entry("models:unload", "Stop a model with all its versions and refuse work for it.", "Models"),
    "models rm": Entry("models:rm", "Remove a model or one version of it.", "Models"),
    "cluster init": Entry("cluster:init", "Found a network with this host as its first node.", "Fleet"),
    "cluster token": Entry("cluster:token", "Make a token with which one host can join.", "Fleet"),
    "cluster join": Entry("cluster:join", "Join a network with a token.", "Fleet"),
    "cluster members": Entry("cluster:members", "List the members of the network.", "Fleet"),
    "cluster leave": Entry("cluster:leave", "Leave the network.", "Fleet"),
    "cluster keys": Entry("cluster:keys", "Show the keys that members share.", "Fleet"),
    "cluster ca": Entry("cluster:ca", "Show the keys that the network trusts.", "Fleet"),
    "nodes ls": Entry("nodes:ls", "List the nodes of the network.", "Fleet"),
    "nodes show": Entry("nodes:show", "Show one node.", "Fleet"),
    "nodes label": Entry("nodes:label", "Set labels of a node, or remove them.", "Fleet"),
    "nodes revoke": Entry("nodes:revoke", "Send a node away.", "Fleet"),
    "nodes forget": Entry("nodes:forget", "Strike a node off the list.", "Fleet"),
    "status": Entry("status:status", "Show whether inference can be served, and by whom.", "Observe"),
    "doctor": Entry("diagnosis:doctor", "Examine this host and its network, and say what to do.", "Observe"),
    "doctor peer": Entry("peer:peer", "Say why another node cannot be reached at an address.", "Observe"),
    "netcheck": Entry("diagnosis:netcheck", "Show how this host finds others, and what was dropped.", "Observe"),
    "ping": Entry("diagnosis:ping", "Ask a node for a sign of life, and show the path to it.", "Observe"),
    "config show": Entry("config:show", "Print effective settings and where each comes from.", "Configure"),
    "config path": Entry("config:path", "Print every file and directory in use.", "Configure"),
    "config validate": Entry("config:validate", "Check configuration files without using them.", "Configure"),
    "version": Entry("meta:version", "Print the versions of this tool and of the daemon.", "Meta"),
    "completion": Entry("meta:completion", "Print a completion script for bash, zsh or fish.", "Meta"),
    "help": Entry("meta:help_", "Explain a command or a topic.", "Meta"),
}

_ELSEWHERE: Final = {"logs": "status", "health": "status"}
"""What other tools call it."""

EXAMPLES: Final = """\
  tetherctl models push models/digits/
  tetherctl infer digits < models/digits/example.json
  tetherctl status"""


def route(words: list[str]) -> tuple[str, list[str]]:
    """Split the words of a command line into the command (or group, or nothing) they name and its own arguments.

    Raises Usage for a command that does not exist.
    """
    if not words or words[0] in {"-h", "--help"}:
        return "", words
    first, *rest = words
    if rest and f"{first} {rest[0]}" in COMMANDS:
        return f"{first} {rest[0]}", rest[1:]
    if first in COMMANDS:
        return first, rest
    if first not in GROUPS:
        raise _unknown(first, "", [*_names(""), *_names("models")])
    if not rest or rest[0] in {"-h", "--help"}:
        return first, rest
    path = f"{first} {rest[0]}"
    if path not in COMMANDS:
        raise _unknown(rest[0], first, _names(first))
    return path, rest[1:]


def _names(group: str) -> list[str]:
    if group:
        return [path.split()[1] for path in COMMANDS if path.startswith(f"{group} ")]
    return list(dict.fromkeys(path.split()[0] for path in COMMANDS))


def _unknown(word: str, group: str, known: list[str]) -> Usage:
    where = f"tetherctl {group}".rstrip()
    kind = "option" if word.startswith("-") else "command"
    close = [_ELSEWHERE[word]] if word in _ELSEWHERE and not group else get_close_matches(word, known, 1)
    if not close:
        return Usage(f"{where} has no {kind} {word[:80]!r}", fix=f"{where} --help lists what there is")
    found = close[0] if group or close[0] in _names("") else f"models {close[0]}"
    return Usage(f"{where} has no {kind} {word[:80]!r}", fix=f"did you mean: {where} {found}")


def overview(group: str) -> str:
    """Return the help of the whole tool (``group`` empty) or of one group."""
    paths = [path for path in COMMANDS if not group or path.startswith(f"{group} ")]
    width = max(len(path) for path in paths)
    lines = [f"Usage: tetherctl {group or '[GLOBAL OPTIONS]'} COMMAND ...", ""]
    lines += [GROUPS[group]] if group else ["Run models on your own machines.", "", EXAMPLES]
    section = ""
    for path in paths:
        entry = COMMANDS[path]
        if entry.section != section:
            section = entry.section
            lines += ["", f"{section}:"]
        lines.append(f"  {path.ljust(width)}  {entry.summary}")
    lines += ["", "Global options (anywhere on the line): tetherctl help globals"]
    lines += [
        "More: tetherctl COMMAND --help, tetherctl help TOPIC (environment, exit-codes, output, errors, quickstart)"
    ]
    return "\n".join(lines)
