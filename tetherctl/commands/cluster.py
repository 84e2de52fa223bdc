"""``tetherctl cluster``: found a network, let hosts in, join one, leave it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

from typer import Argument, Context, Option

from tetherctl.errors import LocalIO, Usage
from tetherctl.human import clean, parse_duration, span, stamped
from tetherctl.output import Column, is_terminal
from tetherctl.session import Session
from tetherd.types import ROLES, parse_host_name
from tetherd.wire import tokens

ROOT: Final = "/api/v1/cluster"
JOINING: Final = 60.0
TOKEN_VARIABLE: Final = "TETHER_JOIN_TOKEN"  # noqa: S105 - a name, no secret
_PLACES: Final = f"tetherctl cluster join < token.txt, or --token-file FILE, or {TOKEN_VARIABLE}"


def init(
    ctx: Context,
    name: Annotated[str, Option("--name", metavar="NAME", help="What the network is called.")] = "home",
) -> None:
    """Found a network with this host as its first node.

    The network's keys are made on this host and stay in its state folder: keep a backup of it.
    """
    session: Session = ctx.obj
    document = session.client.json("POST", f"{ROOT}/init", {"name": parse_host_name(name)}, timeout=JOINING)
    _say(session, "tether.cluster.init/v1", document, f"founded the network {clean(document['name'])}")
    session.out.note("let a host in: tetherctl cluster token --role worker > token.txt")


def token(
    ctx: Context,
    role: Annotated[
        list[str] | None, Option("--role", metavar="ROLE", help="What the host will do; repeat it.")
    ] = None,
    ttl: Annotated[str, Option("--ttl", metavar="TIME", help="How long the token is good, at most 24h.")] = "10m",
    name: Annotated[str, Option("--name", metavar="NAME", help="What the host will be called.")] = "",
) -> None:
    """Make a token with which one host can join.

    Standard output gets the token and nothing else. It is a secret until it is used or its time is over.
    """
    session: Session = ctx.obj
    roles = role or ["worker"]
    for each in roles:
        if each not in ROLES:
            raise Usage(f"there is no role {each[:80]!r}", fix=f"use one of {', '.join(ROLES)}")
    seconds = parse_duration(ttl, "--ttl")
    body = {"roles": roles, "ttl": seconds, "name": parse_host_name(name) if name else ""}
    document = session.client.json("POST", f"{ROOT}/tokens", body)
    text = document["token"]
    session.out.record("tether.cluster.token/v1", stamped(document), [text], text)
    words = f"for one host as {', '.join(roles)}, good for {span(seconds)}"
    session.out.note(f"{words}; on that host: tetherctl cluster join < token.txt")


def join(
    ctx: Context,
    token_file: Annotated[
        str, Option("--token-file", metavar="FILE", help="Where the token is; - is standard input.")
    ] = "",
) -> None:
    """Join a network with a token from standard input, a file or TETHER_JOIN_TOKEN.

    A token on the command line is refused: every user of the host could read it there.
    """
    session: Session = ctx.obj
    text = _read_token(session, token_file).strip()
    tokens.decode(text)
    document = session.client.json("POST", f"{ROOT}/join", {"token": text}, timeout=JOINING)
    roles = ", ".join(document["roles"]) or "no role that its configuration allows"
    _say(session, "tether.cluster.join/v1", document, f"joined the network {clean(document['name'])} as {clean(roles)}")


def members(ctx: Context) -> None:
    """List the members of the network."""
    session: Session = ctx.obj
    document = stamped(session.client.json("GET", f"{ROOT}/members"))
    columns = [
        Column("NODE", lambda item: item["node"][:16]),
        Column("NAME", lambda item: item["name"]),
        Column("ROLES", lambda item: ", ".join(item["roles"])),
        Column("STATE", lambda item: item["state"]),
        Column("JOINED", lambda item: item["joined"]),
    ]
    items = document["nodes"]
    summary = f"{len(items)} of the network {clean(document['network'])}, list {document['epoch']}"
    session.out.listing("tether.cluster.members/v1", items, columns, lambda item: str(item["node"]), summary)


def leave(
    ctx: Context,
    force: Annotated[bool, Option("--force", help="Also when the network cannot be told, or ends with it.")] = False,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Leave the network: finish what is in flight, tell the others, and remove this host's keys."""
    session: Session = ctx.obj
    if not yes:
        session.require_yes("Leave the network? To come back takes a new token.", "tetherctl cluster leave --yes")
    document = session.client.json("POST", f"{ROOT}/leave", {"force": force}, timeout=JOINING)
    session.out.record(
        "tether.cluster.leave/v1", document, [f"left the network {clean(document['name'])}"], document["network"]
    )


def ca(
    ctx: Context,
    what: Annotated[str, Argument(metavar="[show|rotate]", help="What to do.")] = "show",
    force: Annotated[
        bool, Option("--force", help="Rotate though members are not ready: they are cut off until they renewed.")
    ] = False,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Show the keys that the network trusts, or replace them.

    To replace them takes three times rotate: the members trust a second root; they get certificates under it; they
    trust it alone. Each step waits for members that are not ready. Join tokens go on working.
    """
    session: Session = ctx.obj
    document = stamped(_asked(session, "ca", what, force, "" if yes else "Replace the network's root key, one step?"))
    session.out.record(f"tether.cluster.ca.{what}/v1", document, _authorities(document), document["network"])


def keys(
    ctx: Context,
    what: Annotated[str, Argument(metavar="[show|rotate]", help="What to do.")] = "show",
    force: Annotated[
        bool, Option("--force", help="Rotate though members may not have the last key: the DHT will not find them.")
    ] = False,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Show the keys that members share to talk in the DHT, or make the next one.

    The key before it goes on opening what it sealed until every member has the next one, for seven days at most.
    Whenever a node is revoked, forgotten or leaves, a next key is made, and the one that it knew ends within a minute.
    """
    session: Session = ctx.obj
    document = stamped(_asked(session, "keys", what, force, "" if yes else "Make the next key that members share?"))
    session.out.record(f"tether.cluster.keys.{what}/v1", document, _shared(document), document["network"])


def _asked(session: Session, keys: str, what: str, force: bool, question: str) -> dict[str, Any]:
    """Show or rotate some keys, as ``what`` says, after a ``question`` if there is one; return what they are now."""
    command = f"cluster {keys}"
    if what not in ("show", "rotate"):
        raise Usage(f"{command} cannot {what[:80]!r}", fix=f"tetherctl {command} show, or {command} rotate")
    if what == "rotate" and question:
        session.require_yes(question, f"tetherctl {command} rotate --yes")
    if what == "rotate":
        document: dict[str, Any] = session.client.json("POST", f"{ROOT}/{keys}/rotate", {"force": force})
    else:
        document = session.client.json("GET", f"{ROOT}/{keys}")
    return document


def _read_token(session: Session, file: str) -> str:
    if not file and (given := session.env.get(TOKEN_VARIABLE)):
        return given
    if file and file != "-":
        try:
            with Path(file).open(encoding="utf-8", errors="replace") as found:
                return found.read(tokens.MAX_TEXT + 2)
        except OSError as error:
            raise LocalIO(f"cannot read {file}: {error.strerror}", fix="check the path") from None
    if not file and is_terminal(sys.stdin):
        raise Usage("the join token is read from standard input, and that is a terminal", fix=_PLACES)
    return sys.stdin.read(tokens.MAX_TEXT + 2) if sys.stdin else ""


def _say(session: Session, schema: str, document: dict[str, Any], line: str) -> None:
    lines = [f"{line}   network {clean(document['network'])}  node {clean(document['node'][:16])}"]
    session.out.record(schema, stamped(document), lines, document["node"])


def _shared(document: dict[str, Any]) -> Iterator[str]:
    yield f"network {clean(document['network'])}  {clean(document['name'])}"
    for key in document["keys"]:
        until = f"opens until {clean(key['expires'])}" if key["expires"] else f"seals since {clean(key['issued'])}"
        yield f"  key {key['epoch']}  {until}"
        yield f"  {''.ljust(len(str(key['epoch'])) + 4)}  sha256:{clean(key['digest'])}"
    if document["lagging"]:
        yield f"  not up to date: {clean(', '.join(document['lagging']))}"


def _authorities(document: dict[str, Any]) -> Iterator[str]:
    yield f"network {clean(document['network'])}  {clean(document['name'])}"
    for kind in ("roots", "chain"):
        for item in document[kind]:
            until = f"until {clean(item['expires'])}"
            yield f"  {clean(item['kind']).ljust(12)}  {clean(item['name'])}  {until}"
            yield f"  {''.ljust(12)}  key sha256:{clean(item['key'])}"
    if document["rotation"]:
        waits = f"waits for {', '.join(document['lagging'])}" if document["lagging"] else "can be taken"
        yield f"  the new root is {clean(document['rotation'])}; the next step {clean(waits)}"
